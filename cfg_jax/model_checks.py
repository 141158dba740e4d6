"""What a model is put together from, and what its callers give: checked, or one clear sentence.

Each `check_` raises UserError where its first line is not true.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cfg_jax.conditioning import CONDITIONS, Condition
from cfg_jax.errors import UserError
from cfg_jax.guidance import Rule
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.samplers import Sampler
from cfg_jax.samplers.grids import Grid


def check_parts(rule: Rule, sampler: Sampler, networks: Mapping[str, Any]) -> None:
    """Whether rule, sampler and networks go together, see `Model`."""
    missing = {evaluation.network for evaluation in rule.evaluations} - networks.keys()
    if missing:
        raise UserError(
            f'{type(rule).__name__} needs a {missing.pop()} network: give its work directory as'
            ' guidance.network (--guidance_network)'
        )
    if rule.ancestral_only and not sampler.shifts_mean:
        raise UserError(
            f'{type(rule).__name__} shifts the mean of transitions, which {type(sampler).__name__}'
            ' does not have; use the ancestral sampler, or a rule that shifts eps'
        )
    if rule.renoises and not sampler.renoises:
        raise UserError(
            f'{type(rule).__name__} changes how the sampler adds noise, which'
            f' {type(sampler).__name__} does not support; use --sampler=ddim'
        )
    if not isinstance(sampler.num_steps, int | np.integer):
        raise UserError(f'num_steps is a whole number; got {sampler.num_steps!r}')
    try:
        jax.eval_shape(lambda: (sampler.grid or Grid()).levels(sampler.num_steps))
    except ValueError as error:
        raise UserError(f'the levels of {type(sampler).__name__}: {error}') from error


def check_numbers(seed: int, indices: Sequence[int] | np.ndarray) -> None:
    """Seed and image numbers are whole and fit 32 bits."""
    for what, given, axes in (('seeds', seed, 0), ('image numbers', indices, 1)):
        try:
            values = np.asarray(given)
        except ValueError:  # lists of unequal lengths
            values = np.zeros(0)
        whole = np.issubdtype(values.dtype, np.integer) and values.ndim == axes
        outside = values[(values < 0) | (values >= 2**32)] if whole else values
        if outside.size or not whole:
            got = outside.flat[0] if whole else reprlib.repr(given)
            raise UserError(f'{what} are whole numbers in 0..{2**32 - 1}; got {got}')


def check_guidance(rule: Rule, config: ConfigDict, w: ArrayLike) -> None:
    """A rule can guide the network of a config at guidance weights, see `refusal`."""
    if reason := refusal(rule, config, w):
        raise UserError(reason)


def is_unguided(rule: Rule, w: ArrayLike) -> bool:
    """Whether `w` is the number 0 of a rule that takes one evaluation a level there."""
    return rule.unguided_at_zero and np.ndim(w) == 0 and not np.any(np.asarray(w))


def refusal(rule: Rule, config: ConfigDict, w: ArrayLike) -> str | None:
    """Why a rule cannot guide the network of a config at weights `w`, in one sentence, or None.

    The conditions that it asks for were never trained, or the network sees none.
    """
    asked = (rule.unguided,) if is_unguided(rule, w) else rule.evaluations
    conditions = {e.condition for e in asked if e.network == 'main'}
    kind, p_uncond = CONDITIONS.load(config.condition), config.get('p_uncond')
    name = type(rule).__name__
    if not getattr(kind, 'has_condition', True):
        differ = len(conditions) > 1 and len({e._replace(condition='') for e in asked}) == 1
        if not (differ and np.any(np.asarray(w))):
            return None
        return (
            f'{name} differs from no guidance by the condition alone, and this network sees none:'
            ' use w=0, --guidance=perturbed_attention, or --guidance=autoguidance or'
            ' classifier_mean with a --guidance_network'
        )
    if 'null' in conditions and not (getattr(kind, 'has_null', True) and p_uncond != 0.0):
        at_zero = rule.unguided_at_zero and rule.unguided.condition != 'null'
        plain = 'use w=0, ' if at_zero else ''
        return (
            f'{name} needs a null condition, which this network was not trained'
            f' with; {plain}--guidance=independent, or --guidance=autoguidance with an'
            ' unconditional network as --guidance_network'
        )
    only_null = type(rule) is ClassifierFree and np.all(np.asarray(w) == -1.0)
    if p_uncond == 1.0 and conditions - {'null'} and not only_null:
        return (
            f'{name} needs a class, and this network was trained without any (p_uncond=1): use w=-1'
            ' with --guidance=classifier_free, which gives unconditional images'
        )
    return None


def check_lengths(count: int, condition: Condition, w: ArrayLike) -> None:
    """Conditions and weights are as many as images, and the weights finite."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(condition)}
    if lengths != {count}:
        raise UserError(
            f'{count} images need as many conditions; got {", ".join(map(str, sorted(lengths)))}'
        )
    try:
        with np.errstate(over='ignore'):
            weights = np.asarray(w, np.float32)
    except (TypeError, ValueError):  # words, or lists of unequal lengths
        weights = np.float32('nan')
    if weights.ndim > 0 and weights.shape != (count,):
        raise UserError(
            f'{count} images need one guidance weight, or as many; got the shape {weights.shape}'
        )
    if not np.isfinite(weights).all():
        raise UserError(f'a guidance weight is a finite number of float32; got {w}')
