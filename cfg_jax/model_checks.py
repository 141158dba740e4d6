"""What a model is put together from, and what its callers give: checked, or one clear sentence.

Each function raises UserError where its first line is not true.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.errors import UserError
from cfg_jax.guidance import Evaluation, Rule
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
    try:
        jax.eval_shape(lambda: (sampler.grid or Grid()).levels(sampler.num_steps))
    except ValueError as error:
        raise UserError(f'the levels of {type(sampler).__name__}: {error}') from error


def check_numbers(seed: int, indices: Sequence[int] | np.ndarray) -> None:
    """Seed and image numbers fit 32 bits."""
    for what, numbers in (('seeds', [seed]), ('image numbers', indices)):
        values = np.asarray(numbers)
        outside = values[(values < 0) | (values >= 2**32)]
        if outside.size:
            raise UserError(f'{what} lie in 0..{2**32 - 1}; got {outside[0]}')


def check_null(rule: Rule, conditioning: Conditioning, evaluations: Sequence[Evaluation]) -> None:
    """The network has the null condition that evaluations of a rule ask for."""
    asked = [e for e in evaluations if (e.network, e.condition) == ('main', 'null')]
    if asked and not getattr(conditioning, 'has_null', True):
        plain = '' if rule.unguided in asked or not rule.unguided_at_zero else 'use w=0, '
        raise UserError(
            f'{type(rule).__name__} needs a null condition, which this network was not trained'
            f' with; {plain}--guidance=independent, or --guidance=autoguidance with an'
            ' unconditional network as --guidance_network'
        )


def check_lengths(count: int, condition: Condition, w: ArrayLike) -> None:
    """Conditions and weights are as many as images, and the weights finite."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(condition)}
    if lengths != {count}:
        raise UserError(
            f'{count} images need as many conditions; got {", ".join(map(str, sorted(lengths)))}'
        )
    if np.ndim(w) > 0 and np.shape(w) != (count,):
        raise UserError(
            f'{count} images need one guidance weight, or as many; got the shape {np.shape(w)}'
        )
    with np.errstate(over='ignore'):
        if not np.isfinite(np.asarray(w, np.float32)).all():
            raise UserError(f'a guidance weight is a finite number of float32; got {w}')
