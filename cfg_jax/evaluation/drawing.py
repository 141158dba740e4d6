"""Samples for pictures: as many as are wanted, in batches of the size that a sweep has."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from cfg_jax import progress
from cfg_jax.conditioning import Condition
from cfg_jax.data import class_names, images
from cfg_jax.evaluation import plots
from cfg_jax.evaluation.rows import Row
from cfg_jax.inference import Model

_CLASSES = 10

Batch = tuple[np.ndarray, Condition, np.ndarray]  # numbers, conditions, weights


def batches(
    model: Model, numbers: np.ndarray, condition: Condition, w: np.ndarray
) -> Iterator[tuple[Batch, int]]:
    """Image numbers, conditions and weights in batches of `sweep.batch_size`, and how many count.

    The last one is filled up with the first images, so that nothing is compiled twice.
    """
    count = len(numbers)
    size = min(model.config.sweep.batch_size, count)
    with progress.bar(count, 'images') as bar:
        for first in range(0, count, size):
            chosen = np.arange(first, first + size) % count
            part = jax.tree.map(lambda leaf, rows=chosen: leaf[rows], condition)
            yield (numbers[chosen], part, w[chosen]), min(size, count - first)
            bar.update(min(size, count - first))


def draw(
    model: Model, numbers: np.ndarray, condition: Condition, w: np.ndarray
) -> UInt8[np.ndarray, 'N H W C']:
    """Images of these numbers, conditions and weights, of the sweep's seed and rounding."""
    sweep, parts = model.config.sweep, []
    for batch, count in batches(model, numbers, condition, w):
        x = model.generate(sweep.seed, *batch).x[:count]
        parts.append(np.asarray(images.to_uint8(x, sweep.rounding)))
    return np.concatenate(parts)


def save_samples(model: Model, rows: Sequence[Row], path: epath.Path) -> None:
    """Rows: classes. Columns: w. The same image number, and so the same noise, along a row."""
    config = model.config
    columns = [row['w'] for row in rows]
    classes = np.arange(min(_CLASSES, config.data.num_classes))
    labels = np.repeat(classes, len(columns))
    given = labels, model.conditioning.from_user(labels.tolist()), np.tile(columns, len(classes))
    parts = []
    for batch, count in batches(model, *given):
        x = model.generate(config.sweep.seed, *batch).x[:count]
        parts.append(np.asarray(images.to_uint8(x, config.sweep.rounding)))
    picture = np.concatenate(parts).reshape(len(classes), len(columns), *parts[0].shape[1:])
    names = class_names.readable(model.class_names)
    plots.save_sample_grid(
        path,
        picture,
        row_names=[names[c] for c in classes],
        column_names=[f'w = {w:g}' for w in columns],
    )
