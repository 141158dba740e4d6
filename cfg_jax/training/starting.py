"""Weights that a training starts from in place of random ones: `train.start_from`."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files, loading
from cfg_jax.distributed import multihost
from cfg_jax.errors import UserError
from cfg_jax.models import PUBLISHED, role
from cfg_jax.training import checkpoints, export, posthoc_ema
from cfg_jax.training.step import AveragedState, TrainState

RECORD = 'started_from.json'

# What a network is and what it means, as lines of `config.differences` begin; not how it is
# computed, regularised or trained.
_OF_NETWORK = re.compile(
    r'(model\.(?!(remat|attention|dtype|dropout):)\w+'
    r'|condition|target|data\.(image_size|channels)|diffusion\.scaling):'
)


def check(config: ConfigDict) -> None:
    """Raises UserError unless `train.start_from` holds a model of the network that is trained."""
    path = files.as_path(config.train.start_from)
    try:
        found = loading.read_config(path)
        if path.is_dir():
            checkpoints.find_checkpoint(path)
    except UserError as error:
        raise UserError(f'train.start_from: {error}') from error
    if found.model.kind in PUBLISHED:
        raise UserError(
            f'train.start_from={path} is a published network ({found.model.kind}), which cannot be'
            ' trained here; give a work directory or a file of scripts/export.py'
        )
    different = [d for d in config_lib.differences(found, config) if _OF_NETWORK.match(d)]
    different += _different_classes(found, config)
    if different:
        raise UserError(
            f'train.start_from={path} is another network (there -> here: {"; ".join(different)});'
            ' give this config what is there, or another start'
        )


def note(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes where a new run in `workdir` starts from into WORKDIR/started_from.json.

    Once only: until there is a checkpoint, a run that is started again begins with the same
    weights. `with_start` adds what identifies them: process 0 writes this alone, and Orbax reads a
    checkpoint only when all processes ask for it.
    """
    if not (workdir / RECORD).exists():
        check(config)
        path = files.as_path(config.train.start_from)
        step = checkpoints.find_checkpoint(path)[0] if path.is_dir() else None
        record = {'path': str(files.absolute(path)), 'checkpoint_step': step}
        files.write_json(workdir / RECORD, record | {'starts': starts_of(path)})


def starts_of(path: epath.PathLike) -> list[dict[str, Any]]:
    """The weights that the training of a model began with, and those that theirs began with, ...

    Args:
      path: a work directory, an exported file or a published one.

    Returns:
      The latest first: their `path`, `checkpoint_step`, `weights_sha256` and the `images` of their
      own training. None of a training that began at random.
    """
    path = files.as_path(path)
    if not path.is_dir():
        return export.read_starts(path) if loading.is_ours(path) else []
    if not (path / RECORD).exists():
        return []
    record = files.read_json(path / RECORD, keys=['starts'])
    earlier = record.pop('starts')
    return [record, *earlier]


def with_start(config: ConfigDict, workdir: epath.Path, state: TrainState) -> TrainState:
    """`state` of step 0 with the weights that `note` noted as parameters and as their averages.

    All processes call it, since all read the weights. Where the number of classes differs, every
    class starts as the null label, which stands for images of any class.

    Raises:
      UserError: they are no longer there, or others are.
    """
    record = files.read_json(workdir / RECORD, keys=['checkpoint_step', 'starts'])
    path = files.as_path(config.train.start_from)
    step = record['checkpoint_step'] if path.is_dir() else None
    found, trained, provenance = loading.load_params(path, step=step)
    if record.get('weights_sha256') not in (None, provenance['weights_sha256']):
        raise UserError(
            f'train.start_from={path} has other weights than those that {workdir / RECORD} names;'
            ' give them back, or choose another --workdir'
        )
    if multihost.is_process_zero():
        images = provenance['checkpoint_step'] * trained.train.batch_size
        files.write_json(workdir / RECORD, record | provenance | {'images': images})
    params = _with_classes_of(state.params, found)
    state = dataclasses.replace(state, params=params, ema_params=jax.tree.map(jnp.copy, params))
    if isinstance(state, AveragedState):
        state = dataclasses.replace(state, averages=posthoc_ema.start(params))
    return state


def _different_classes(found: ConfigDict, config: ConfigDict) -> list[str]:
    """The difference in the number of classes, where no null label can stand for any class."""
    there, here = found.data.num_classes, config.data.num_classes
    denoises = role(config.model.kind) == 'denoiser' and role(found.model.kind) == 'denoiser'
    trained_null = denoises and found.condition == 'label' and found.p_uncond > 0
    return [] if there == here or trained_null else [f'data.num_classes: {there} -> {here}']


def _with_classes_of(like: Any, params: Any) -> Any:
    """`params` as arrays of JAX; a table of labels of another length filled with its null's row."""

    def value(leaf: jax.Array, given: Any) -> jax.Array:
        given = jnp.asarray(given, leaf.dtype)
        if given.shape == leaf.shape:
            return given
        return jnp.repeat(given[-1:], leaf.shape[0], axis=0)  # the null label's is the last

    return jax.tree.map(value, like, params)
