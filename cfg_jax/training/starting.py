"""Weights that a training starts from in place of random ones: `train.start_from`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, loading
from cfg_jax.errors import UserError
from cfg_jax.models import PUBLISHED

_MUST_AGREE = (
    'model.kind',
    'condition',
    'target',
    'data.channels',
    'diffusion.scaling',
    'latent.channels',
    'latent.factor',
)
_LABELS = ('params', 'label', 'embedding')  # a row for each class; the last is the null label's


def check(config: ConfigDict) -> None:
    """Raises UserError unless `train.start_from` holds a model of what the config trains."""
    path = config.train.start_from
    values, wanted = (dict(config_lib.flatten(c)) for c in (loading.read_config(path), config))
    kind = values['model.kind']
    if kind in PUBLISHED:
        raise UserError(
            f'train.start_from={path} is a network of others ({kind}), which is not trained here;'
            ' give a work directory or a file of scripts/export.py'
        )
    for name in _MUST_AGREE:
        if values.get(name) != wanted.get(name):
            raise UserError(
                f'train.start_from={path} has {name}={values.get(name)}, this config'
                f' {wanted.get(name)}: they must agree'
            )


def params(config: ConfigDict, like: Any) -> tuple[Any, dict[str, Any]]:
    """The EMA parameters in `train.start_from`, and what identifies them.

    Where the number of classes differs, every class starts as the null label did, which is images
    of any class.

    Args:
      config: what is trained.
      like: parameters of its network.

    Raises:
      UserError: no model there, or one of another network.
    """
    check(config)
    path = config.train.start_from
    found, _, provenance = loading.load_params(path)
    theirs, ours = flatten_dict(found), flatten_dict(like)
    if _LABELS in theirs and _LABELS in ours and theirs[_LABELS].shape != ours[_LABELS].shape:
        null = theirs[_LABELS][-1:]
        theirs[_LABELS] = jnp.repeat(null, ours[_LABELS].shape[0], axis=0)
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = (tree[name].shape if name in tree else None for tree in (theirs, ours))
        if there != here:
            raise UserError(
                f'train.start_from={path} is another network: its {"/".join(name)} is'
                f' {there or "missing"}, this config needs {here or "none"}; compare the group'
                f' model with that of {path}'
            )
    values = {name: jnp.asarray(theirs[name], leaf.dtype) for name, leaf in ours.items()}
    return unflatten_dict(values), {'path': str(path)} | provenance


def started(config: ConfigDict, state: Any) -> tuple[Any, dict[str, Any]]:
    """`state` of step 0 with the parameters of `train.start_from` and their copy as average."""
    values, record = params(config, state.params)
    copies = jax.tree.map(jnp.copy, values)
    return state.replace(params=values, ema_params=copies), record
