"""The loss on images of any split: what tells learning from overfitting."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from cfg_jax import files, loading, progress
from cfg_jax.data import pipeline, sources
from cfg_jax.errors import UserError
from cfg_jax.keys import image_keys
from cfg_jax.models import PUBLISHED
from cfg_jax.training import checkpoints
from cfg_jax.training.objectives import make_objective

# loss(params, split, count) -> the loss of each of the first `count` images, or of all there are
SplitLoss = Callable[[Any, str, int], Float[np.ndarray, ' N']]


def make_split_loss(config: ConfigDict, batch_size: int = 128, seed: int = 0) -> SplitLoss:
    """The training objective without dropout, of any parameters on the same images and draws.

    Image i of a split drops its condition, and takes its log-SNR and its noise, from key i of
    `seed`, whatever the parameters: the losses of two checkpoints are compared image by image.

    Args:
      config: of the training; images are neither flipped nor cropped.
      batch_size: images at once, on one device.
      seed: of the draws.

    Returns:
      loss(params, split, count); it raises UserError where there is no such split.
    """
    objective = make_objective(config, train=False)

    @jax.jit
    def losses(params: Any, x: jax.Array, label: jax.Array, numbers: jax.Array) -> jax.Array:
        return objective(params, jax.random.key(0), x, label, image_keys(seed, numbers))['loss']

    def loss(params: Any, split: str, count: int) -> Float[np.ndarray, ' N']:
        params = jax.device_put(params, jax.local_devices()[0])
        found = []
        with progress.bar(count, 'images', name=f'{split}: ') as bar:
            batches = pipeline.one_epoch(config.data, split, batch_size)
            for start, batch in zip(itertools.count(0, batch_size), batches, strict=False):
                number = min(len(batch['image']), count - start)
                if number <= 0:
                    break
                # The last one is filled up with images again: another size would compile again.
                x, label = (
                    np.resize(batch[key], (batch_size, *batch[key].shape[1:]))
                    for key in ('image', 'condition')
                )
                values = losses(params, x, label, start + np.arange(batch_size))
                found.append(np.asarray(values)[:number])
                bar.update(number)
        return np.concatenate(found)

    return loss


def measure(
    model: epath.PathLike,
    *,
    steps: Sequence[int] = (),
    splits: Sequence[str] = (),
    count: int = 5000,
    batch_size: int = 128,
    data: str = '',
    seed: int = 0,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The loss of a model's EMA weights on the first images of each split.

    Args:
      model: a work directory or an exported file.
      steps: of checkpoints; by default all that a work directory holds.
      splits: of the data; the last is the one whose changes are given. By default 'train' and
        'validation', 'val' or 'test', the first that there is.
      count: images of each split, or as many as there are.
      batch_size, seed: as in `make_split_loss`.
      data: `data.name`, where the model's config has another place.
      on_row: called with what there is after each checkpoint, for instance to keep it.

    Returns:
      'rows', one a checkpoint in order of steps: 'step', 'weights_sha256', for each split
      'loss_SPLIT' and its standard error 'loss_SPLIT_se', and from the second row on 'change' and
      'change_se', of the last split, image by image against the row before; and the settings.

    Raises:
      UserError: no such model, checkpoint, data or split; or an imported network.
    """
    path = files.as_path(model)
    config = loading.read_config(path)
    if config.model.kind in PUBLISHED:
        raise UserError(
            f'{path} is an imported network ({config.model.kind}), of which no training objective'
            ' is known; give a model that was trained here'
        )
    config.data.name = data or config.data.name
    splits = splits or _default_splits(config)
    for split in splits:  # a wrong name must not wait for work
        sources.data_source(config.data, split)
    loss = make_split_loss(config, batch_size, seed)
    for step in steps if path.is_dir() else ():
        checkpoints.find_checkpoint(path, step)
    chosen = sorted(set(steps)) or _steps_of(path)
    settings = {'splits': tuple(splits), 'seed': seed, 'data': config.data.name}
    rows, before, found = [], None, {}
    for step in chosen:
        params, _, provenance = loading.load_params(path, step=step)
        row = {
            'step': provenance['checkpoint_step'],
            'weights_sha256': provenance['weights_sha256'],
        }
        losses = [loss(params, split, count) for split in splits]
        for split, values in zip(splits, losses, strict=True):
            row |= {f'images_{split}': len(values)} | _mean(f'loss_{split}', values)
        if before is not None:
            row |= _mean('change', losses[-1] - before)
        before = losses[-1]
        rows.append(row)
        found = {'model': str(model), **settings, 'rows': rows}
        if on_row is not None:
            on_row(found)
    return found


def _default_splits(config: ConfigDict) -> list[str]:
    """'train', and the first held-out split of a usual name that the data has."""
    found = sources.open_source(config.data.name, config.data.data_dir).splits
    held_out = [split for split in ('validation', 'val', 'test') if split in found][:1]
    if not held_out:
        logging.info('%s has no held-out split that is known: only train', config.data.name)
    return ['train', *held_out]


def _steps_of(path: epath.Path) -> Sequence[int | None]:
    """A file has one step, which it knows itself."""
    return checkpoints.kept_steps(path) if path.is_dir() else [None]


def _mean(key: str, values: Float[np.ndarray, ' N']) -> dict[str, float]:
    """The mean and its standard error, as `key` and `key_se`."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return {key: float(np.mean(values, dtype=np.float64)), f'{key}_se': float(error)}


def table(results: dict[str, Any]) -> str:
    """`measure`'s rows as a Markdown table."""
    splits = results['splits']
    lines = [f'| step | {" | ".join(splits)} | change |', '|---' * (len(splits) + 2) + '|']
    for row in results['rows']:
        losses = [f'{row[f"loss_{s}"]:.5f} ± {row[f"loss_{s}_se"]:.5f}' for s in splits]
        change = f'{row["change"]:+.5f} ± {row["change_se"]:.5f}' if 'change' in row else ''
        lines.append(f'| {row["step"]:,} | {" | ".join(losses)} | {change} |')
    return '\n'.join(lines)
