"""Streaming moments against NumPy's."""

import functools

import numpy as np
import pytest

from cfg_jax.metrics.statistics import Moments


def features(count=300, dim=12, seed=0):
    """Correlated float32 features with a mean far from zero, as pooled activations have."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + 5.0
    return mixed.astype(np.float32)


def in_batches(rows, sizes):
    """Moments merged from consecutive batches of the given sizes."""
    assert sum(sizes) == len(rows)
    parts = [Moments.of(part) for part in np.split(rows, np.cumsum(sizes)[:-1])]
    return functools.reduce(Moments.merge, parts)


def assert_same(a, b, relative=1e-12):
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=relative * np.abs(b.mean).max())
    np.testing.assert_allclose(
        a.scatter, b.scatter, rtol=0, atol=relative * np.abs(b.scatter).max()
    )


def test_moments_are_numpys():
    rows = features()
    moments = Moments.of(rows)
    exact = rows.astype(np.float64)
    assert moments.count == 300
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-14)
    mu, sigma = moments.gaussian()
    np.testing.assert_array_equal(mu, moments.mean)
    np.testing.assert_allclose(sigma, np.cov(exact, rowvar=False), rtol=1e-11)
    assert mu.dtype == sigma.dtype == np.float64


@pytest.mark.parametrize('sizes', [(100, 100, 100), (7, 293), (299, 1), (1,) * 300])
def test_batching_does_not_matter(sizes):
    rows = features()
    assert_same(in_batches(rows, sizes), Moments.of(rows))


def test_four_processes_are_as_good_as_one():
    """Each sums the batches of every fourth image; their moments are merged two by two."""
    rows = features(400)
    parts = [in_batches(rows[process::4], (30, 30, 40)) for process in range(4)]
    merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    assert_same(merged, Moments.of(rows))


@pytest.mark.parametrize('batch_size', [1, 7, 100, 299, 300, 4096])
def test_of_many_is_of(batch_size):
    rows = features()
    assert_same(Moments.of_many(rows, batch_size), Moments.of(rows))


def test_of_many_keeps_its_copies_small(monkeypatch):
    sizes = []
    of = Moments.of
    monkeypatch.setattr(Moments, 'of', lambda part: sizes.append(len(part)) or of(part))
    Moments.of_many(features(), 128)
    assert sizes == [128, 128, 44]


def test_merging_is_symmetric_and_associative():
    a, b, c = (Moments.of(features(count, seed=count)) for count in (50, 80, 3))
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


def test_far_from_zero_nothing_is_lost():
    """Sums of squares would lose 12 digits here; centred ones lose those of the data alone."""
    rows = np.random.default_rng(0).normal(size=(400, 5)) + 1e6
    merged = in_batches(rows, (150, 250))
    np.testing.assert_allclose(merged.gaussian().sigma, np.cov(rows, rowvar=False), rtol=1e-8)


def test_merge_by_hand():
    # {0, 2} and {7}: mean 3, scatter 9 + 1 + 16 = 26, variance 26 / 2 = 13.
    merged = Moments.of(np.array([[0.0], [2.0]])).merge(Moments.of(np.array([[7.0]])))
    assert (merged.count, merged.mean.item()) == (3, 3.0)
    assert merged.scatter.item() == pytest.approx(26.0, rel=1e-15)
    assert merged.gaussian().sigma.item() == pytest.approx(13.0, rel=1e-15)


def test_arrays_hold_everything(tmp_path):
    first, second = Moments.of(features()), Moments.of(features(50, 3, seed=1))
    np.savez(tmp_path / 'moments.npz', **first.to_arrays(), **second.to_arrays('s_'))
    with np.load(tmp_path / 'moments.npz') as file:
        arrays = dict(file)
    assert set(arrays) == {'count', 'mean', 'scatter', 's_count', 's_mean', 's_scatter'}
    for moments, prefix in ((first, ''), (second, 's_')):
        loaded = Moments.from_arrays(arrays, prefix)
        assert loaded.count == moments.count
        assert isinstance(loaded.count, int)
        np.testing.assert_array_equal(loaded.mean, moments.mean)
        np.testing.assert_array_equal(loaded.scatter, moments.scatter)
