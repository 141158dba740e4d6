"""Improved precision and recall against the definition, point by point."""

import numpy as np
import pytest

from cfg_jax.metrics import Inputs, precision_recall as library
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.precision_recall import precision, recall, share_in_manifold
from cfg_jax.metrics.statistics import Reference


def squared_distance(x, y):
    return float(((x.astype(np.float64) - y.astype(np.float64)) ** 2).sum())


def share_inside(points, others, k):
    """Share of `points` that lie in the ball of any of `others`, Kynkaanniemi et al. 2019."""
    radii = []
    for i, x in enumerate(others):
        rest = [squared_distance(x, y) for j, y in enumerate(others) if j != i]
        radii.append(sorted(rest)[k - 1])
    inside = 0
    for x in points:
        inside += any(squared_distance(x, y) <= r for y, r in zip(others, radii, strict=True))
    return inside / len(points)


def precision_recall(samples, reference, k=3):
    """Both, of the features themselves."""
    both = share_in_manifold(samples, reference, k), share_in_manifold(reference, samples, k)
    if k == 3:
        inputs = Inputs(Features(samples), Reference(None, None, reference, {}))
        assert (precision(inputs).value, recall(inputs).value) == both
    return both


def by_definition(samples, reference, k):
    return share_inside(samples, reference, k), share_inside(reference, samples, k)


def two_sets(seed, counts=(30, 23), dim=4, shift=1.0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(counts[0], dim)).astype(np.float32) + np.float32(shift),
        rng.normal(size=(counts[1], dim)).astype(np.float32),
    )


def grid_sets(seed):
    """Points of a small grid: duplicates within and between the sets, ties of all distances."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, (25, 3)).astype(np.float32), rng.integers(1, 5, (31, 3)) * 1.0


def in_blocks(monkeypatch, rows, others):
    monkeypatch.setattr(library, '_BLOCK_BYTES', 8 * rows * others + 7)


@pytest.mark.parametrize('k', [1, 3, 5])
@pytest.mark.parametrize('make', [two_sets, grid_sets])
def test_it_is_its_definition(make, k):
    values = set()
    for seed in range(4):
        samples, reference = make(seed)
        expected = by_definition(samples, reference, k)
        assert precision_recall(samples, reference, k) == expected
        values |= {*expected}
    assert len(values - {0.0, 1.0}) > 3  # the sets overlap in part


@pytest.mark.parametrize('rows', [1, 2, 7, 29, 30, 31])
@pytest.mark.parametrize('make', [two_sets, grid_sets])
def test_blocks_do_not_matter(monkeypatch, make, rows):
    samples, reference = make(0)
    expected = by_definition(samples, reference, 3)
    in_blocks(monkeypatch, rows, max(len(samples), len(reference)))
    assert precision_recall(samples, reference, 3) == expected
    assert precision_recall(reference, samples, 3) == expected[::-1]


def test_the_default_is_the_third_neighbour():
    samples, reference = two_sets(0)
    results = {k: share_in_manifold(samples, reference, k) for k in (2, 3, 4)}
    assert len(set(results.values())) == 3
    assert share_in_manifold(samples, reference) == results[3]


def test_by_hand():
    """Reference 0, 1, 10 with k = 1: balls of radii 1, 1 and 9 cover [-1, 19].

    Samples 19, 20, 40: balls of radii 1, 1 and 20 cover [18, 60]: none of the reference.
    """
    reference = np.array([[0.0], [1.0], [10.0]])
    samples = np.array([[19.0], [20.0], [40.0]])
    assert precision_recall(samples, reference, 1) == (1 / 3, 0.0)  # 19 is on the border


def test_identical_sets_are_perfect():
    rows = two_sets(0)[0]
    assert precision_recall(rows, rows) == (1.0, 1.0)
    assert precision_recall(rows, rows[::-1]) == (1.0, 1.0)


@pytest.mark.parametrize('rows', [1, 3, 100])
def test_collapsed_sets_are_perfect_too(monkeypatch, rows):
    """Copies of one image: all radii and distances are 0, whatever rounding makes of them."""
    image = np.random.default_rng(0).normal(size=(1, 300)).astype(np.float32)
    in_blocks(monkeypatch, rows, 10)
    assert precision_recall(image.repeat(10, 0), image.repeat(7, 0)) == (1.0, 1.0)


def test_far_sets_have_nothing_in_common():
    samples, reference = two_sets(0, shift=100.0)
    assert precision_recall(samples, reference) == (0.0, 0.0)


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    """Samples of one of two distant classes are precise, and miss the other half."""
    class_a, class_b = two_sets(0, counts=(20, 20), shift=100.0)
    both = np.concatenate([class_a, class_b])
    assert precision_recall(class_a, both) == (1.0, 0.5)
    assert precision_recall(both, class_a) == (0.5, 1.0)


def test_distances_do_not_lose_digits():
    """|x|^2 - 2 x.y + |y|^2 in float32 would be noise for features with a mean of 1,000."""
    samples, reference = (rows + np.float32(1000) for rows in two_sets(0))
    assert precision_recall(samples, reference) == by_definition(samples, reference, 3)
