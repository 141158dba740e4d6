"""Pictures of the real-images experiment: trade-off, loss, grids of samples."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.data import class_names, images
from cfg_jax.evaluation import drawing, plots, style
from cfg_jax.inference import Model
from cfg_jax.training import writers
from tiny_imagenet64_parts.extractor import NAMES

ROW_OF_W = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 4.0)
PANELS = (0.0, 1.0, 3.0)
RETRIEVER = 'n02099601'  # the golden retriever: a dog, as the paper's malamute
_ROWS = 6
_SIDE = 6

Row = dict[str, Any]


def tradeoff(
    path: epath.Path, title: str, curves: Sequence[tuple[str, Sequence[Row]]], floor: Sequence[Row]
) -> None:
    """IS against FD-768 with w along the curves, as the paper's Figure 4; and FD-768 against w.

    The first curve has its w written next to it, and its distance to the validation split dashed;
    the floor is real images against the other split.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout='constrained')
    style.headline(figure, title)
    for name, rows in curves:
        for panel, key, error in ((axes[0], 'is', 'is_se'), (axes[1], 'w', '')):
            panel.errorbar(
                [row[key] for row in rows],
                [row['fd768'] for row in rows],
                xerr=[row[error] for row in rows] if error in rows[0] else None,
                yerr=[row.get('fd768_se', 0.0) for row in rows],
                fmt='o-',
                label=name,
            )
    rows = curves[0][1]
    weights, distances = [row['w'] for row in rows], [row['fd768'] for row in rows]
    style.label_points(axes[0], [row['is'] for row in rows], distances, [f'{w:g}' for w in weights])
    validation = [row['fd768_validation'] for row in rows]
    axes[1].plot(weights, validation, 'k--', label='the first, against validation')
    for row, line in zip(floor, (':', '-.'), strict=False):
        name = f'real {row["images"]} images against {row["against"]}'
        axes[1].axhline(row['fd768'], color='grey', linestyle=line, label=name)
    style.weight_axis(axes[1], sorted({row['w'] for _, rows in curves for row in rows}))
    style.log_if_wide(axes[1], [*distances, *(row['fd768'] for row in floor)])
    axes[0].set(xlabel=f'{NAMES["is"]}, higher is better', ylabel='FD-768, lower is better')
    axes[1].set(ylabel='FD-768')
    axes[1].legend()
    plots.save(path, figure)


def loss(path: epath.Path, workdir: epath.Path, target: str) -> None:
    """Training loss of the `target`, the mean since the last log, and images a second."""
    rows = writers.read_metrics(workdir)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    for panel, key, name in (
        (axes[0], 'loss', f'mean squared error of {target}, per pixel'),
        (axes[1], 'images_per_second', 'training images a second'),
    ):
        panel.plot([row['step'] for row in rows], [row[key] for row in rows])
        panel.set(xlabel='step', ylabel=name)
    style.log_if_wide(axes[0], [row['loss'] for row in rows])
    plots.save(path, figure)


def grids(directory: epath.Path, model: Model, label: int | None) -> None:
    """one_class.png: a class, a column per w. classes.png: random classes, a panel per w; their
    names, row by row, in classes.json.

    The same noise and class at every w, so that a row, or a place in the panels, shows what
    guidance alone does.

    Args:
      directory: where they are written.
      model: a trained one.
      label: of the one class; None for a golden retriever where there is one, else the first.
    """
    config = model.config
    names = class_names.readable(model.class_names)
    if label is None:
        known = model.class_names
        label = known.index(RETRIEVER) if RETRIEVER in known else 0
    seed, several = config.sweep.seed, np.arange(_SIDE * _SIDE)
    one = _rows_of_w(model, np.arange(_ROWS), np.full(_ROWS, label), ROW_OF_W)
    plots.save_sample_grid(
        directory / 'one_class.png',
        one.swapaxes(0, 1),
        row_names=[names[label]] + [''] * (_ROWS - 1),
        column_names=[f'w = {w:g}' for w in ROW_OF_W],
    )
    labels = model.draw_conditions(seed, several, 'uniform')
    panels = _rows_of_w(model, several, labels, PANELS)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 4), layout='constrained')
    for panel, found, w in zip(axes, panels, PANELS, strict=True):
        panel.imshow(images.grid(found, _SIDE))
        panel.set(xticks=[], yticks=[], title=f'w = {w:g}')
    plots.save(directory / 'classes.png', figure)
    files.write_json(directory / 'classes.json', [names[number] for number in labels])


def _rows_of_w(
    model: Model, numbers: np.ndarray, labels: np.ndarray, weights: Sequence[float]
) -> np.ndarray:
    """uint8 [len(weights), len(numbers), H, W, C]."""
    condition = model.conditioning.from_user(np.tile(labels, len(weights)))
    w = np.repeat(np.asarray(weights, np.float32), len(numbers))
    found = drawing.draw(model, np.tile(numbers, len(weights)), condition, w)
    return found.reshape(len(weights), len(numbers), *found.shape[1:])
