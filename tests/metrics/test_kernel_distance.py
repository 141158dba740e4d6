"""Kernel Inception Distance against its sums, term by term, and closed forms."""

import numpy as np
import pytest

from cfg_jax.metrics import Inputs, kernel_distance as library
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.kernel_distance import kernel_distance, kid, squared_mmd
from cfg_jax.metrics.statistics import Reference


def kernel(x, y):
    """(x . y / D + 1)^3."""
    return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1.0) ** 3


def by_definition(x, y):
    """Gretton et al. 2012, Lemma 6, with its sums over i and j != i written out."""
    n = len(x)
    within, between = 0.0, 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                within += kernel(x[i], x[j]) + kernel(y[i], y[j])
            between += kernel(x[i], y[j])
    return within / (n * (n - 1)) - 2.0 * between / n**2


def normal(seed, count, dim, mean=0.0):
    return np.random.default_rng(seed).normal(size=(count, dim)) + mean


@pytest.mark.parametrize(('count', 'dim'), [(2, 1), (5, 3), (12, 7)])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_squared_mmd_is_its_definition(count, dim, dtype):
    for seed in range(3):
        x = normal(seed, count, dim).astype(dtype)
        y = normal(seed + 10, count, dim, 0.5).astype(dtype)
        assert squared_mmd(x, y) == pytest.approx(by_definition(x, y), rel=1e-12, abs=1e-12)


def test_squared_mmd_by_hand():
    """D = 1, x = (0, 1), y = (1, 2): k(0, 1) + k(1, 2) - 2 (1 + 1 + 8 + 27) / 4 = 1 + 27 - 18.5."""
    assert squared_mmd(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(9.5)


def test_of_one_distribution_it_is_zero_on_average():
    """Unbiased: with the terms i = j, or divided by n^2, it would be many errors off."""
    draws = [squared_mmd(normal(seed, 20, 4), normal(1000 + seed, 20, 4)) for seed in range(400)]
    error = np.std(draws, ddof=1) / np.sqrt(len(draws))
    assert abs(np.mean(draws)) < 3 * error
    assert min(draws) < 0 < max(draws)
    diagonal = np.mean([kernel(x, x) for x in normal(0, 20, 4)]) - 1.0
    assert 2 * diagonal / 20 > 10 * error  # what the biased estimate would add


@pytest.mark.parametrize('shift', [0.5, 1.0, 2.0])
def test_of_a_shifted_distribution_it_is_the_closed_form(shift):
    """D = 1, N(0, 1) against N(m, 1).

    With x, x' independent, E (x x' + 1)^3 = 1 + 3 mu^2 + 3 nu^2 + tau^2 for the first moments mu,
    nu, tau of x, and likewise between; so MMD^2 = 3 m^2 + 3 (m^2)^2 + (m^3 + 3 m)^2.
    """
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    draws = [
        squared_mmd(normal(seed, 50, 1), normal(1000 + seed, 50, 1, shift)) for seed in range(400)
    ]
    error = np.std(draws, ddof=1) / np.sqrt(len(draws))
    assert error < 0.1 * expected
    assert np.mean(draws) == pytest.approx(expected, abs=3 * error)


def test_subsets_of_everything_are_everything():
    """A subset as large as the sets is the sets, in another order."""
    x, y = normal(0, 30, 5), normal(1, 30, 5, 1.0)
    mean, std = kernel_distance(x, y, subsets=4, subset_size=1000)
    assert mean == pytest.approx(squared_mmd(x, y), rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-12)


def recorded_subsets(monkeypatch, x, y, **options):
    """The pairs of subsets that `kernel_distance` takes."""
    pairs = []
    monkeypatch.setattr(library, 'squared_mmd', lambda *pair: pairs.append(pair) or len(pairs))
    return kernel_distance(x, y, **options), pairs


def test_subsets_are_drawn_without_replacement(monkeypatch):
    x, y = np.arange(40.0)[:, None], 100 + np.arange(25.0)[:, None]
    (mean, std), pairs = recorded_subsets(monkeypatch, x, y, subsets=30, subset_size=10)
    assert (mean, std) == pytest.approx((np.mean(range(1, 31)), np.std(range(1, 31))))
    for drawn, of in zip(zip(*pairs, strict=True), (x, y), strict=True):
        assert all(subset.shape == (10, 1) for subset in drawn)
        assert all(len(np.unique(subset)) == 10 for subset in drawn)
        np.testing.assert_array_equal(np.unique(drawn), of[:, 0])  # each image has its chance
        assert len({tuple(np.sort(subset[:, 0])) for subset in drawn}) == 30  # each another one


@pytest.mark.parametrize('counts', [(40, 25), (25, 40)])
def test_subsets_are_no_larger_than_the_smaller_set(monkeypatch, counts):
    x, y = (np.arange(float(count))[:, None] for count in counts)
    pairs = recorded_subsets(monkeypatch, x, y)[1]
    assert len(pairs) == 100
    assert {len(subset) for pair in pairs for subset in pair} == {25}


def test_published_protocol(monkeypatch):
    """100 subsets of 1,000, as torch-fidelity."""
    x = np.zeros((1200, 1))
    pairs = recorded_subsets(monkeypatch, x, x)[1]
    assert len(pairs) == 100
    assert {len(subset) for pair in pairs for subset in pair} == {1000}


def test_it_repeats_with_its_seed():
    x, y = normal(0, 60, 5), normal(1, 60, 5, 1.0)
    options = {'subsets': 5, 'subset_size': 10}
    first, again, other = (kernel_distance(x, y, seed=seed, **options) for seed in (5, 5, 6))
    assert first == again != other


def kid_of(x, y):
    return kid(Inputs(Features(x), Reference(None, None, y, {})))


@pytest.mark.parametrize('counts', [(30, 300), (300, 30), (30, 30)])
def test_a_deviation_over_equal_subsets_is_left_out(monkeypatch, counts):
    """With 30 images every subset of up to 100 is the whole set: the deviation would be 1e-17."""
    monkeypatch.setattr(library, 'SUBSET_SIZE', 100)
    value = kid_of(normal(0, counts[0], 5), normal(1, counts[1], 5, 1.0))
    assert value.deviation is None
    assert '30 of 30 images' in value.note
    assert value.value > 0


def test_subsets_of_at_most_half_of_a_set_have_a_deviation(monkeypatch):
    monkeypatch.setattr(library, 'SUBSET_SIZE', 20)
    x, y = normal(0, 40, 5), normal(1, 45, 5, 1.0)
    value = kid_of(x, y)
    assert (value.value, value.deviation) == kernel_distance(x, y, subset_size=20)
    assert value.note == ''
    assert value.deviation > 0.01
    assert kid_of(x[:-1], y).deviation is None
