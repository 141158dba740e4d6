"""Samples for pictures: as many as are wanted, in batches of the size that a sweep has."""

from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from cfg_jax import progress
from cfg_jax.conditioning import Condition
from cfg_jax.data import class_names, images
from cfg_jax.evaluation import plots
from cfg_jax.inference import Model

_CLASSES = 10


def draw(
    model: Model, numbers: np.ndarray, condition: Condition, w: np.ndarray
) -> UInt8[np.ndarray, 'N H W C']:
    """Images of these numbers, conditions and weights, of the sweep's seed and rounding.

    Batches have `sweep.batch_size` images; the last one is filled up with the first images, so that
    nothing is compiled twice.
    """
    sweep, count, parts = model.config.sweep, len(numbers), []
    size = min(sweep.batch_size, count)
    with progress.bar(count, 'images') as bar:
        for first in range(0, count, size):
            chosen = np.arange(first, first + size) % count
            part = jax.tree.map(lambda leaf, rows=chosen: leaf[rows], condition)
            x = model.generate(sweep.seed, numbers[chosen], part, w[chosen]).x
            parts.append(np.asarray(images.to_uint8(x, sweep.rounding)))
            bar.update(min(size, count - first))
    return np.concatenate(parts)[:count]


def classes_along_w(
    model: Model, weights: Sequence[float]
) -> tuple[np.ndarray, Condition, np.ndarray]:
    """What `draw` takes for samples.png: the first classes, one after the other, each at every w.

    The same image number, and so the same noise, for all images of a class.
    """
    classes = np.arange(min(_CLASSES, model.config.data.num_classes))
    labels = np.repeat(classes, len(weights))
    condition = model.conditioning.from_user(labels.tolist())
    return labels, condition, np.tile(weights, len(classes))


def save_samples(
    path: epath.Path, model: Model, weights: Sequence[float], x: UInt8[np.ndarray, 'N H W C']
) -> None:
    """The images of `classes_along_w` with names. Rows: classes. Columns: w."""
    picture = x.reshape(-1, len(weights), *x.shape[1:])
    plots.save_sample_grid(
        path,
        picture,
        row_names=class_names.readable(model.class_names)[: len(picture)],
        column_names=[f'w = {w:g}' for w in weights],
    )
