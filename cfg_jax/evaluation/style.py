"""One style for every plot: colours for any colour vision, quiet axes, names beside the lines.

Importing this sets Matplotlib's style for the process; `plots` and every experiment do.
"""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib

matplotlib.use('Agg')  # before pyplot: no display is needed

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import OffsetFrom

# Okabe and Ito's, without the yellow, which is pale on white; plain guidance or the first comes in
# blue. They differ in lightness too, so that a grey print tells most of them apart.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
MARKERS = ('o', 's', 'D', '^', 'v', 'P', 'X')
_STYLE = {
    'axes.axisbelow': True,
    'axes.grid': True,
    'axes.labelpad': 6,
    'axes.labelsize': 10.5,
    'axes.prop_cycle': cycler(color=COLOURS),
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlesize': 11,
    'errorbar.capsize': 2.5,
    'figure.dpi': 120,
    'figure.titlesize': 11,
    'font.size': 10,
    'grid.alpha': 0.5,
    'grid.color': '#c9ced4',
    'grid.linewidth': 0.7,
    'legend.fontsize': 8.5,
    'legend.frameon': False,
    'lines.linewidth': 1.6,
    'lines.markersize': 5,
    'pdf.fonttype': 42,  # letters stay letters in a PDF
    'savefig.dpi': 120,
    'xtick.labelsize': 9,
    'ytick.labelsize': 9,
}
plt.rcParams.update(_STYLE)
Values = Sequence[float] | np.ndarray
_INK = '#1b1f23'
_TICKS = 0.065  # of an axis, between two of its ticks
_WIDE = 6.0  # a ratio of values that a logarithmic axis shows better
# Offsets of a label from its point, in points of type, and how it is aligned there.
_PLACES = (
    ((7, 4), 'left'),
    ((7, -11), 'left'),
    ((-7, 4), 'right'),
    ((-7, -11), 'right'),
    ((0, 8), 'center'),
    ((0, -16), 'center'),
)
_FLAT = 1e-4  # a range of this share of the values is none
_LETTERS_AN_INCH = 11.5  # of 11 points' type
_LETTER, _HEIGHT, _GAP = 5.2, 9.0, 11.0  # of 9 points' type, in points


def headline(figure: Figure, text: str) -> None:
    """The figure's title, in as many lines as its width asks for."""
    wrapped = textwrap.fill(text, int(_LETTERS_AN_INCH * figure.get_figwidth()))
    figure.suptitle(wrapped, parse_math=False)


def log_if_wide(axes: Axes, values: Values) -> None:
    """A logarithmic y-axis for positive values that differ by more than a factor of 6."""
    finite = np.asarray(values)[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() / finite.min() > _WIDE:
        log_axis(axes, 'y')


def room_if_flat(axes: Axes, which: Literal['x', 'y'], values: Values) -> None:
    """Room around values that are as good as equal, whose differences would fill the axis."""
    finite = np.asarray(values)[np.isfinite(values)]
    size = np.abs(finite).max(initial=0.0)
    if size and np.ptp(finite) < _FLAT * size:
        axes.set(**{f'{which}lim': (finite.min() - 0.1 * size, finite.max() + 0.1 * size)})


def log_axis(axes: Axes, which: Literal['x', 'y']) -> None:
    """A logarithmic axis whose ticks are plain numbers: 1, 2, 5, 10, 20, ..."""
    axes.set(**{f'{which}scale': 'log'})
    axis = getattr(axes, f'{which}axis')
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    axis.set_minor_locator(ticker.NullLocator())


def weight_axis(axes: Axes, weights: Values) -> None:
    """An x-axis for w: linear near 0, logarithmic above the least weight; ticks are at the w."""
    positive = [w for w in weights if w > 0]
    unit = min(positive, default=1.0)
    if max(positive, default=1.0) > _WIDE * unit:
        axes.set_xscale('asinh', linear_width=unit)
        place = np.arcsinh(np.sort(weights) / unit)
    else:
        place = np.sort(weights) / unit
    width = max(place[-1] - place[0], 1e-9)
    low, high = place[0] - 0.05 * width, place[-1] + 0.05 * width
    back = np.sinh if axes.get_xscale() == 'asinh' else np.asarray
    axes.set_xlim(*(unit * back([low, high])))
    ticks = [place[0]]
    for each in place[1:]:
        if each - ticks[-1] > _TICKS * width:
            ticks.append(each)
    ticks[-1] = place[-1]  # both ends are always named
    axes.xaxis.set_major_locator(ticker.FixedLocator(list(unit * back(ticks))))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%.4g'))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel('guidance weight w')


def label_points(axes: Axes, x: Values, y: Values, texts: Sequence[str]) -> None:
    """Writes a text beside each finite point of a curve, where it hides least of it.

    The axes must have their limits and scales.
    """
    scale = _laid_out(axes)
    finite = np.isfinite(np.asarray(x) + np.asarray(y))
    places = axes.transData.transform(np.column_stack([x, y])[finite]) * scale
    taken = _along(places)
    frame = np.asarray(axes.bbox.extents) * scale
    for place, text, xi, yi in zip(
        places,
        np.asarray(texts)[finite],
        np.asarray(x)[finite],
        np.asarray(y)[finite],
        strict=True,
    ):
        boxes = [_box(place, offset, alignment, text) for offset, alignment in _PLACES]
        costs = [_cost(box, taken, frame) for box in boxes]
        best = int(np.argmin(costs))
        offset, alignment = _PLACES[best]
        axes.annotate(
            text,
            (xi, yi),
            textcoords='offset points',
            xytext=offset,
            ha=alignment,
            fontsize=9,
            color=_INK,
        )
        left, low, right, high = boxes[best]
        corners = np.stack(
            np.meshgrid(np.linspace(left, right, 6), np.linspace(low, high, 3)), axis=-1
        )
        taken = np.concatenate([taken, corners.reshape(-1, 2)])


def name_ends(axes: Axes) -> None:
    """Writes the label of every line beside its last point, instead of a legend.

    The axes must have their limits and scales.
    """
    handles, names = axes.get_legend_handles_labels()
    scale = _laid_out(axes)
    ends = []
    for handle, name in zip(handles, names, strict=True):
        line: Any = handle[0] if isinstance(handle, ErrorbarContainer) else handle
        data = np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
        finite = data[np.isfinite(data).all(axis=1)]
        if len(finite):
            place = axes.transData.transform(finite[-1]) * scale
            ends.append((place, tuple(finite[-1]), line.get_color(), name))
    corner: Any = OffsetFrom(axes, (1, 0), 'points')  # stays where the layout puts the axes
    height, foot = -np.inf, axes.bbox.y0 * scale
    for place, last, colour, name in sorted(ends, key=lambda end: end[0][1]):
        height = max(place[1], height + _GAP)
        axes.annotate(
            name,
            last,
            textcoords=corner,
            xytext=(8, height - foot),
            va='center',
            fontsize=9,
            color=_INK,
            annotation_clip=False,
            arrowprops={'arrowstyle': '-', 'color': colour, 'alpha': 0.6, 'lw': 0.8},
        )


def _laid_out(axes: Axes) -> float:
    """Points of type a pixel, after the layout, on which places depend."""
    figure: Any = axes.figure
    figure.draw_without_rendering()
    return 72.0 / figure.dpi


def _along(places: np.ndarray) -> np.ndarray:
    """Points [M, 2] every few points of type along the line through `places` [N, 2]."""
    parts = [places]
    for start, end in itertools.pairwise(places):
        count = max(2, int(np.linalg.norm(end - start) / 5))
        parts.append(start + (end - start) * np.linspace(0, 1, count)[:, None])
    return np.concatenate(parts)


def _box(
    place: np.ndarray, offset: tuple[int, int], alignment: str, text: str
) -> tuple[float, float, float, float]:
    width = _LETTER * len(text)
    left = place[0] + offset[0] - {'left': 0.0, 'center': width / 2, 'right': width}[alignment]
    low = place[1] + offset[1] - 1
    return left, low, left + width, low + _HEIGHT


def _cost(box: tuple[float, float, float, float], taken: np.ndarray, frame: np.ndarray) -> float:
    """How much a label would hide, and how far it would leave the frame."""
    left, low, right, high = box
    x, y = taken.T
    hidden = ((x > left) & (x < right) & (y > low) & (y < high)).sum()
    outside = max(0, frame[0] - left, right - frame[2], frame[1] - low, high - frame[3])
    return float(hidden + outside)
