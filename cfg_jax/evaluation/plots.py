"""Pictures of results: trade-off curves and labelled sample grids."""

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use('Agg')  # before pyplot: no display is needed

import matplotlib.pyplot as plt
import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.evaluation import tables


def save_tradeoff(path: epath.PathLike, rows: Sequence[dict[str, float]], title: str) -> None:
    """IS against FID with w along the curve (as the paper's Figure 4), and both against w.

    Rows without one of them are drawn against w alone. Standard errors are drawn where the rows
    have them.
    """
    keys = tables.metric_keys(rows[0])
    distance = next((key for key in keys if not tables.higher_is_better(key)), None)
    both = distance is not None and 'is' in keys
    panels = 2 if both else 1
    figure, axes = plt.subplots(
        1, panels, figsize=(5.5 * panels, 4.5), squeeze=False, layout='constrained'
    )
    figure.suptitle(title, fontsize=11)
    if both:
        _draw_curve(axes[0, 0], rows, distance)
    _draw_against_w(axes[0, -1], rows, distance or keys[0])
    save(path, figure)


def _draw_curve(axes: plt.Axes, rows: Sequence[dict[str, float]], distance: str) -> None:
    axes.errorbar(
        _column(rows, 'is'),
        _column(rows, distance),
        yerr=_errors(rows, distance),
        xerr=_errors(rows, 'is'),
        fmt='o-',
        color='tab:blue',
    )
    for row in rows:
        if not np.isfinite(row['is'] + row[distance]):
            continue  # an invalid row has no place
        axes.annotate(
            f'w = {row["w"]:g}',
            (row['is'], row[distance]),
            textcoords='offset points',
            xytext=(6, 4),
        )
    axes.set(
        xlabel=f'{tables.heading("is")} (higher is better)',
        ylabel=f'{tables.heading(distance)} (lower is better)',
    )
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)


def _draw_against_w(axes: plt.Axes, rows: Sequence[dict[str, float]], distance: str) -> None:
    w = _column(rows, 'w')
    axes.errorbar(
        w, _column(rows, distance), yerr=_errors(rows, distance), fmt='o-', color='tab:blue'
    )
    axes.set(xlabel='guidance weight w')
    axes.set_ylabel(tables.heading(distance), color='tab:blue')
    axes.grid(alpha=0.3)
    if 'is' in rows[0] and distance != 'is':
        right = axes.twinx()
        right.errorbar(w, _column(rows, 'is'), yerr=_errors(rows, 'is'), fmt='s--', color='tab:red')
        right.set_ylabel(tables.heading('is'), color='tab:red')


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
    cell = 0.9
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(cell * columns + 0.8, cell * rows + 0.5),
        squeeze=False,
        layout='constrained',
    )
    for i in range(rows):
        for j in range(columns):
            axes[i, j].imshow(picture[i, j].squeeze(), cmap='gray', vmin=0, vmax=255)
            axes[i, j].set(xticks=[], yticks=[])
        axes[i, 0].set_ylabel(row_names[i], rotation=0, ha='right', va='center')
    for j in range(columns):
        axes[0, j].set_title(column_names[j], fontsize=9)
    save(path, figure)


def save(path: epath.PathLike, figure: plt.Figure) -> None:
    """Writes a figure as PNG and closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    plt.close(figure)
    files.write_bytes(path, buffer.getvalue())
