"""The picture: exact densities above, guided samples below."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figure2_parts.gaussian_mixture import grid
from figure2_parts.triangle import (
    DRAWN,
    FINE,
    HALF_WIDTH,
    MIXTURE,
    histogram,
    merge_cells,
)

COLORS = np.array([[0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00], [0x00, 0x9E, 0x73]]) / 255
WINDOW = (-6.6, 6.6, -5.0, 8.2)  # left, right, bottom, top


def mix_colors(cells: np.ndarray, peak: float) -> np.ndarray:
    """Classes as inks on white: densities [K, n, n] over `peak` -> uint8 [n, n, 3], rows are y."""
    ink = np.einsum('kxy,kc->yxc', np.clip(cells / peak, 0.0, 1.0), 1.0 - COLORS)
    return np.round(255.0 * np.clip(1.0 - ink, 0.0, 1.0)).astype(np.uint8)


def mass_level(cells: np.ndarray, mass: float) -> float:
    """The value above which cells [n, n] hold `mass` of the probability."""
    ordered = np.sort(cells.ravel())[::-1]
    return float(ordered[np.searchsorted(np.cumsum(ordered), mass * ordered.sum())])


def draw(rows: Sequence[dict], fine: Sequence[np.ndarray], x: Sequence[np.ndarray]) -> Figure:
    """The picture: exact densities above, our samples below, one column for each w.

    A column has one scale of colour, that of its density, as the paper scales each panel.
    """
    figure = Figure(figsize=(2.5 * len(rows) + 0.3, 5.7), layout='constrained')
    axes = figure.subplots(2, len(rows), squeeze=False)
    for j, row in enumerate(rows):
        drawn = merge_cells(fine[j], DRAWN)
        peak = drawn.max()
        finest = fine[j] * (FINE / DRAWN) ** 2
        _draw_panel(axes[0, j], mix_colors(finest, peak), fine[j])
        _draw_panel(axes[1, j], mix_colors(histogram(x[j], DRAWN), peak), fine[j])
        axes[0, j].set_title(f'$w = {row["w"]:g}$', fontsize=13)
        axes[1, j].set_xlabel(
            f'TV {row["tv"]:.3f}  (true draws {row["tv_by_chance"]:.3f})', fontsize=10.5
        )
    axes[0, 0].set_ylabel(r'exact  $p(x|c)\,p(c|x)^w$', fontsize=12)
    axes[1, 0].set_ylabel('our guided samples', fontsize=12)
    figure.supxlabel(
        '+ means of the classes      — in both rows: 90 % of the mass of the exact density',
        fontsize=10,
        color='0.3',
    )
    return figure


def _draw_panel(axes: Axes, picture: np.ndarray, fine: np.ndarray) -> None:
    extent = (-HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH)
    axes.imshow(picture, extent=extent, origin='lower', interpolation='nearest')
    centres = grid(HALF_WIDTH, FINE, 1)[:, 0]
    for cells, color in zip(fine, COLORS, strict=True):
        level = mass_level(cells, 0.9)
        axes.contour(centres, centres, cells.T, levels=[level], colors=[0.6 * color], linewidths=1)
    axes.plot(*MIXTURE.means.T, '+', color='black', markersize=7, markeredgewidth=1)
    axes.set(xlim=WINDOW[:2], ylim=WINDOW[2:], xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color='0.8', visible=True)
