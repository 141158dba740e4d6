"""Pictures of results: trade-off curves and labelled sample grids, in the style of `style`."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfg_jax import console, files
from cfg_jax.evaluation import style, tables

_LONGEST = 18  # letters of a row's name


def save_tradeoff(path: epath.PathLike, rows: Sequence[dict[str, float]], title: str) -> None:
    """IS against FID with w along the curve (as the paper's Figure 4); each of them against w; and
    precision against recall.

    Panels whose metrics the rows lack are left out; where one of FID and IS is missing, the first
    metric is drawn against w alone. Where IS is near its limit the first curve turns vertical; the
    panels beside it show what it hides. Standard errors are drawn where the rows have them.
    """
    keys = tables.metric_keys(rows[0])
    distance = next((key for key in keys if not tables.higher_is_better(key)), None)
    both = distance is not None and 'is' in keys
    supports = both and {'precision', 'recall'} <= set(keys)
    upper = ['curve', 'distance', 'support'] if both else ['distance']
    lower = ['curve', 'is', 'support']
    count = len(upper) if supports or not both else 2
    figure = plt.figure(figsize=(1.2 + 4.2 * count, 4.5), layout='constrained')
    style.headline(figure, title)
    layout: Any = [upper[:count], lower[:count]] if both else [upper]
    panels: Any = figure.subplot_mosaic(layout)
    _draw_against_w(panels['distance'], rows, distance or keys[0])
    if both:
        _draw_against_w(panels['is'], rows, 'is')
        panels['distance'].set_xlabel('')
        _draw_curve(panels['curve'], rows, 'is', distance)
    if supports:
        _draw_curve(panels['support'], rows, 'recall', 'precision')
    save(path, figure)


def _draw_curve(axes: Axes, rows: Sequence[dict[str, float]], x: str, y: str) -> None:
    """One metric against another, with its w beside each point."""
    axes.errorbar(
        _column(rows, x), _column(rows, y), yerr=_errors(rows, y), xerr=_errors(rows, x), fmt='o-'
    )
    style.log_if_wide(axes, _column(rows, y))
    style.room_if_flat(axes, 'x', _column(rows, x))
    style.room_if_flat(axes, 'y', _column(rows, y))
    axes.set(xlabel=_direction(x), ylabel=_direction(y))
    axes.margins(x=0.12, y=0.08)
    names = [f'w = {row["w"]:g}' for row in rows]
    style.label_points(axes, _column(rows, x), _column(rows, y), names)


def _draw_against_w(axes: Axes, rows: Sequence[dict[str, float]], key: str) -> None:
    w = _column(rows, 'w')
    axes.errorbar(w, _column(rows, key), yerr=_errors(rows, key), fmt='o-')
    style.log_if_wide(axes, _column(rows, key))
    style.room_if_flat(axes, 'y', _column(rows, key))
    style.weight_axis(axes, w)
    axes.set_ylabel(tables.heading(key))


def _direction(key: str) -> str:
    way = 'higher' if tables.higher_is_better(key) else 'lower'
    return f'{tables.heading(key)} ({way} is better)'


def _column(rows: Sequence[dict[str, float]], key: str) -> np.ndarray:
    return np.array([row.get(key, np.nan) for row in rows])  # an invalid row lacks its error


def _errors(rows: Sequence[dict[str, float]], key: str) -> np.ndarray | None:
    """The standard errors of a metric, or None where no row has one."""
    name = f'{key}_se'
    return _column(rows, name) if any(name in row for row in rows) else None


def save_sample_grid(
    path: epath.PathLike,
    picture: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[str],
) -> None:
    """Draws uint8 images [rows, columns, H, W, C] with names of rows and columns."""
    rows, columns = picture.shape[:2]
    cell, names = _cell(0.9, picture), [short_name(name) for name in row_names]
    margin = max(0.8, 0.12 * max(map(len, names)) + 0.4)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(cell * columns + margin, cell * rows + 0.5),
        squeeze=False,
        layout='constrained',
    )
    for i in range(rows):
        for j in range(columns):
            _draw_image(axes[i, j], picture[i, j])
        axes[i, 0].set_ylabel(names[i], rotation=0, ha='right', va='center', parse_math=False)
    for j in range(columns):
        axes[0, j].set_title(column_names[j], fontsize=9, parse_math=False)
    save(path, figure)


def save_named_grid(
    path: epath.PathLike, pictures: np.ndarray, names: Sequence[str], columns: int
) -> None:
    """Draws uint8 images [N, H, W, C] in rows of `columns`, each with its name above it."""
    rows, cell = -(-len(pictures) // columns), _cell(1.3, pictures)
    size = (cell * columns, (cell + 0.3) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout='constrained')
    for panel in axes.flat[len(pictures) :]:
        panel.set_axis_off()
    for panel, image, name in zip(axes.flat, pictures, names, strict=False):
        _draw_image(panel, image)
        panel.set_title(name, fontsize=8, pad=3, parse_math=False)
    save(path, figure)


def _cell(least: float, pictures: np.ndarray) -> float:
    """Inches of an image's place, at which no pixel of [..., H, W, C] is lost."""
    return max(least, 1.1 * max(pictures.shape[-3:-1]) / plt.rcParams['savefig.dpi'])


def _draw_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image.squeeze(), cmap='gray', vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def short_name(name: str) -> str:
    """The first of a class's names, such as 'tench' of 'tench, Tinca tinca', cut if it is long."""
    first = name.partition(', ')[0]
    return first if len(first) <= _LONGEST else f'{first[: _LONGEST - 1]}…'


def save(path: epath.PathLike, figure: Figure) -> None:
    """Writes a figure as PNG to that very path, with --pdf also as PDF beside it, and closes it."""
    path = files.as_path(path)
    paths = {'png': path}
    if console.pdf_wanted():
        # Only .png gives way: the end of 'grid.v2' is a part of the name.
        stem = path.stem if path.suffix.lower() == '.png' else path.name
        paths['pdf'] = path.parent / f'{stem}.pdf'
    for kind, place in paths.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        files.write_bytes(place, buffer.getvalue())
    plt.close(figure)
