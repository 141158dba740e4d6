"""Pictures of results: trade-off curves and labelled sample grids."""

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use('Agg')  # before pyplot: no display is needed

import matplotlib.pyplot as plt
import numpy as np
from etils import epath

from cfg_jax import files


def save_tradeoff(path: epath.PathLike, rows: Sequence[dict[str, float]], title: str) -> None:
    """IS against FID with w along the curve (as the paper's Figure 4), and both against w."""
    w, fid, score = (np.array([row[key] for row in rows]) for key in ('w', 'fid', 'is'))
    figure, (curve, against_w) = plt.subplots(1, 2, figsize=(11, 4.5), layout='constrained')
    figure.suptitle(title, fontsize=11)

    curve.plot(score, fid, 'o-', color='tab:blue')
    for row in rows:
        curve.annotate(
            f'w = {row["w"]:g}', (row['is'], row['fid']), textcoords='offset points', xytext=(6, 4)
        )
    curve.set(xlabel='IS (higher is better)', ylabel='FID (lower is better)')
    curve.margins(x=0.15)
    curve.grid(alpha=0.3)

    against_w.plot(w, fid, 'o-', color='tab:blue')
    against_w.set(xlabel='guidance weight w')
    against_w.set_ylabel('FID', color='tab:blue')
    against_w.grid(alpha=0.3)
    right = against_w.twinx()
    right.plot(w, score, 's--', color='tab:red')
    right.set_ylabel('IS', color='tab:red')
    _save(path, figure)


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
    _save(path, figure)


def _save(path: epath.PathLike, figure: plt.Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    plt.close(figure)
    files.write_bytes(path, buffer.getvalue())
