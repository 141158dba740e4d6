"""Plots: colours that anyone tells apart, labels that hide nothing, and the panels of a sweep."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cfg_jax import cli
from cfg_jax.evaluation import plots, style

# Machado, Oliveira & Fernandes 2009, severity 1, for linear RGB.
DEFICIENCIES = {
    'none': np.eye(3),
    'protanopia': [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    'deuteranopia': [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def lab(colour, matrix):
    """CIELAB of '#rrggbb' as seen through a matrix of linear RGB."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.maximum(to_xyz @ seen / [0.9505, 1.0, 1.089], 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize('name', DEFICIENCIES)
def test_colours_are_told_apart(name):
    """A difference of 2 is just seen; of neighbours on a plot many more are wanted."""
    seen = [lab(colour, DEFICIENCIES[name]) for colour in style.COLOURS]
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(a - b) > 10
    assert len(style.MARKERS) == len(set(style.MARKERS)) == len(style.COLOURS)


def row(w, **more):
    return {'w': w, 'fid': 5.0 + 12.0 * w, 'fid_se': 0.5, 'is': 10 - 0.1 / (1 + 10 * w)} | more


@pytest.fixture
def figure_of(tmp_path, monkeypatch):
    """The figure that `save_tradeoff` would write for rows."""

    def figure_of(rows):
        kept = []
        monkeypatch.setattr(plots, 'save', lambda path, figure: kept.append(figure))
        plots.save_tradeoff(tmp_path / 'x.png', rows, 'title')
        kept[0].draw_without_rendering()
        return kept[0]

    yield figure_of
    plt.close('all')


def axes_named(figure):
    return {
        (axes.get_xlabel().split(' (')[0], axes.get_ylabel().split(' (')[0]) for axes in figure.axes
    }


WEIGHTS = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0)


def test_a_curve_that_turns_vertical_has_panels_beside_it(figure_of):
    figure = figure_of([row(w) for w in WEIGHTS])
    assert axes_named(figure) == {('IS', 'FID'), ('', 'FID'), ('guidance weight w', 'IS')}


def test_precision_and_recall_where_there_are_both(figure_of):
    rows = [row(w, precision=0.8 + w / 100, recall=0.9 - w / 10) for w in WEIGHTS]
    assert ('recall', 'precision') in axes_named(figure_of(rows))
    assert len(figure_of(rows).axes) == 4


def test_one_metric_is_drawn_against_w(figure_of):
    rows = [{'w': w, 'fid': 1.0 + w} for w in WEIGHTS]
    assert axes_named(figure_of(rows)) == {('guidance weight w', 'FID')}


def overlap(a, b):
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def test_labels_lie_on_no_other_label_and_on_no_point(figure_of):
    figure = figure_of([row(w) for w in WEIGHTS])
    [axes] = [axes for axes in figure.axes if axes.get_xlabel().startswith('IS')]
    assert [text.get_text() for text in axes.texts] == [f'w = {w:g}' for w in WEIGHTS]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    points = axes.transData.transform([(row(w)['is'], row(w)['fid']) for w in WEIGHTS])
    for box, (x, y) in itertools.product(boxes, points):
        assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)


def test_an_invalid_row_is_left_out(figure_of):
    rows = [row(w) for w in WEIGHTS[:3]] + [{'w': 9.0, 'fid': np.nan, 'is': np.nan}]
    [axes] = [a for a in figure_of(rows).axes if a.get_xlabel().startswith('IS')]
    assert len(axes.texts) == 3


@pytest.mark.parametrize(
    'weights', [WEIGHTS, (0.0, 1.0), (2.0,), (0.0, -0.5, 1.5), (0.0, 1.0, 7.0, 7.5)]
)
def test_ticks_of_w_are_weights_and_keep_their_distance(weights):
    figure, axes = plt.subplots()
    axes.plot(weights, np.ones(len(weights)), 'o')
    style.weight_axis(axes, weights)
    ticks = axes.get_xticks()
    assert all(np.isclose(tick, weights, atol=1e-9).any() for tick in ticks)
    low, high = axes.get_xlim()
    assert low < min(weights)
    assert max(weights) < high
    assert np.isclose(ticks, max(weights)).any()
    places = axes.transData.transform(np.column_stack([ticks, np.ones(len(ticks))]))[:, 0]
    assert (np.diff(places) > 20).all()
    plt.close(figure)


def test_what_is_as_good_as_equal_is_a_level_line(figure_of):
    """IS at its limit: rounding would fill the panel."""
    rows = [row(w) | {'is': 2.0 - 1e-7 * w} for w in WEIGHTS]
    figure = figure_of(rows)
    [curve] = [axes for axes in figure.axes if axes.get_xlabel().startswith('IS')]
    [level] = [axes for axes in figure.axes if axes.get_ylabel().startswith('IS')]
    assert curve.get_xlim() == level.get_ylim() == pytest.approx((1.8, 2.2), rel=1e-5)
    rows = [row(w) | {'is': 2.0 - 1e-3 * w} for w in WEIGHTS]
    [seen] = [axes for axes in figure_of(rows).axes if axes.get_ylabel().startswith('IS')]
    assert np.ptp(seen.get_ylim()) < 0.01


@pytest.mark.parametrize('which', ['x', 'y'])
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(which):
    figure, axes = plt.subplots()
    axes.plot([4, 70], [4, 70])
    style.log_axis(axes, which)
    figure.draw_without_rendering()
    axis = getattr(axes, f'{which}axis')
    low, high = axis.get_view_interval()
    labels = [
        tick.label1.get_text() for tick in axis.get_major_ticks() if low < tick.get_loc() < high
    ]
    assert labels == ['5', '10', '20', '50']
    plt.close(figure)


def test_names_at_the_ends_keep_their_distance():
    figure, axes = plt.subplots(layout='constrained')
    for number in range(4):
        axes.errorbar([0, 1], [1, 1 + number / 1000], yerr=0.1, label=f'run {number}')
    style.name_ends(axes)
    figure.draw_without_rendering()
    # Of the letters: an annotation's own extent has its line too.
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [f'run {n}' for n in range(4)]
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 > axes.bbox.x1 and box.x1 < figure.bbox.x1 for box in boxes)
    plt.close(figure)


def test_a_pdf_beside_the_png(tmp_path, monkeypatch):
    monkeypatch.delenv('CFG_JAX_PDF', raising=False)
    plots.save(tmp_path / 'a.png', plt.figure())
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
    parser = cli.Parser('x')
    cli.add_pdf_option(parser)
    monkeypatch.setenv('CFG_JAX_PDF', '')  # put back at the end
    parser.parse_args(['--pdf'])
    plots.save(tmp_path / 'b.png', plt.figure())
    assert (tmp_path / 'b.pdf').read_bytes().startswith(b'%PDF')
    assert Image.open(tmp_path / 'b.png').size[0] > 0


@pytest.mark.parametrize('name', ['grid.v2', 'grid', 'grid.v2.png', 'grid.PNG'])
def test_a_picture_has_the_name_that_was_given(tmp_path, monkeypatch, name):
    monkeypatch.delenv('CFG_JAX_PDF', raising=False)
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    plots.save_named_grid(tmp_path / name, pictures, ['3'], 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert Image.open(tmp_path / name).format == 'PNG'
    monkeypatch.setenv('CFG_JAX_PDF', '1')
    plots.save(tmp_path / name, plt.figure())
    stem = name.removesuffix('.png').removesuffix('.PNG')
    assert {path.name for path in tmp_path.iterdir()} == {name, f'{stem}.pdf'}


def test_names_above_pictures(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plots, 'save', lambda path, figure: kept.append(figure))
    names = ['tench, Tinca tinca', 'a name of very many letters', '3']
    names = [plots.short_name(name) for name in names]
    plots.save_named_grid(tmp_path / 'x.png', np.zeros((3, 4, 4, 3), np.uint8), names, 2)
    titles = [axes.get_title() for axes in kept[0].axes]
    assert titles == ['tench', 'a name of very ma…', '3', '']
    assert not kept[0].axes[3].axison
    plt.close('all')


def test_a_dollar_is_a_letter_of_a_name(tmp_path):
    """Not the begin of a formula, which Matplotlib would refuse after all work is done."""
    name, picture = '$1_$', np.zeros((1, 1, 4, 4, 3), np.uint8)
    plots.save_sample_grid(tmp_path / 'grid.png', picture, [name], [name])
    plots.save_named_grid(tmp_path / 'named.png', picture[0], [name], 1)
    figure = plt.figure()
    style.headline(figure, name)
    figure.canvas.draw()
    plt.close(figure)


def test_long_names_of_rows_are_not_cut(tmp_path):
    """The white margin is there on the left of the letters too."""
    picture = np.full((2, 1, 8, 8, 3), 128, np.uint8)
    plots.save_sample_grid(tmp_path / 'grid.png', picture, ['n01440764', 'n01518878'], ['w = 0'])
    drawn = np.asarray(Image.open(tmp_path / 'grid.png').convert('L'))
    assert (drawn[:, :2] == 255).all()
    assert (drawn < 100).any()


def test_a_long_headline_stays_inside():
    figure, _ = plt.subplots(figsize=(5.4, 4), layout='constrained')
    style.headline(
        figure, 'imagenet2012: ancestral, T = 250, 64 samples a point, features: inception768'
    )
    figure.canvas.draw()
    (title,) = (text for text in figure.texts if text.get_text().startswith('imagenet2012'))
    box = title.get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.width
    plt.close(figure)
