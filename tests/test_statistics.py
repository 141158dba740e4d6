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
    np.testing.assert_allclose(moments.covariance(), np.cov(exact, rowvar=False), rtol=1e-11)
    assert moments.mean.dtype == moments.scatter.dtype == np.float64


@pytest.mark.parametrize('sizes', [(100, 100, 100), (7, 293), (299, 1), (1,) * 300])
def test_batching_does_not_matter(sizes):
    rows = features()
    assert_same(in_batches(rows, sizes), Moments.of(rows))


def test_merging_is_symmetric_and_associative():
    a, b, c = (Moments.of(features(count, seed=count)) for count in (50, 80, 3))
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


def test_far_from_zero_nothing_is_lost():
    """Sums of squares would lose 12 digits here; centred ones lose those of the data alone."""
    rows = np.random.default_rng(0).normal(size=(400, 5)) + 1e6
    merged = in_batches(rows, (150, 250))
    np.testing.assert_allclose(merged.covariance(), np.cov(rows, rowvar=False), rtol=1e-8)


def test_merge_by_hand():
    # {0, 2} and {7}: mean 3, scatter 9 + 1 + 16 = 26, variance 26 / 2 = 13.
    merged = Moments.of(np.array([[0.0], [2.0]])).merge(Moments.of(np.array([[7.0]])))
    assert (merged.count, merged.mean.item()) == (3, 3.0)
    assert merged.scatter.item() == pytest.approx(26.0, rel=1e-15)
    assert merged.covariance().item() == pytest.approx(13.0, rel=1e-15)


def test_arrays_hold_everything(tmp_path):
    moments = Moments.of(features())
    np.savez(tmp_path / 'moments.npz', **moments.to_arrays())
    with np.load(tmp_path / 'moments.npz') as arrays:
        loaded = Moments.from_arrays(dict(arrays))
    assert loaded.count == moments.count
    assert isinstance(loaded.count, int)
    np.testing.assert_array_equal(loaded.mean, moments.mean)
    np.testing.assert_array_equal(loaded.scatter, moments.scatter)
