"""FID against its definition and closed forms."""

import os

import numpy as np
import pytest
import scipy.linalg

from cfg_jax.metrics.frechet import frechet_distance
from cfg_jax.metrics.statistics import Gaussian, Moments


def of(rows):
    """The Gaussian of a set of features."""
    return Moments.of(rows).gaussian()


def random_features(count, dim, seed, offset=0.0):
    rng = np.random.default_rng(seed)
    mixing = np.eye(dim) + 0.3 * rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return rng.normal(size=(count, dim)) @ mixing + offset


def fid_by_definition(a, b):
    """Heusel et al. 2017 with the matrix square root of the product itself."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    delta = a.mean(axis=0) - b.mean(axis=0)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return (delta @ delta + np.trace(cov_a + cov_b - 2 * root)).real


@pytest.mark.parametrize(
    ('dim', 'offset'),
    [
        (8, 0.0),
        (8, 0.4),
        (64, 0.1),
        (512, 0.1),
        pytest.param(
            2048,
            0.1,
            marks=pytest.mark.skipif(
                not os.environ.get('CFG_JAX_SLOW'),
                reason='minutes; CFG_JAX_SLOW=1 pytest tests/metrics/test_frechet.py runs it',
            ),
        ),
    ],
)
def test_fid_is_its_definition(dim, offset):
    a, b = random_features(2 * dim + 1000, dim, 0), random_features(dim + 700, dim, 1, offset)
    expected = fid_by_definition(a, b)
    assert frechet_distance(of(a), of(b)) == pytest.approx(expected, rel=1e-8)


def test_fid_is_symmetric():
    a, b = of(random_features(100, 16, 0)), of(random_features(80, 16, 1, 0.4))
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there == pytest.approx(back, rel=1e-12)


def test_fid_of_diagonal_gaussians():
    """|mu_a - mu_b|^2 + sum_i (s_i - t_i)^2 for standard deviations s and t."""
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 20))
    s, t = rng.uniform(0.1, 3.0, size=(2, 20))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((s - t) ** 2)
    a, b = Gaussian(mean_a, np.diag(s**2)), Gaussian(mean_b, np.diag(t**2))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_fid_takes_small_deviations_for_no_noise():
    """s from 1 to 1e-6 against 1: each has its part 2 s in the trace of the root."""
    s = np.logspace(0, -6, 20)
    a, b = Gaussian(np.zeros(20), np.diag(s**2)), Gaussian(np.zeros(20), np.eye(20))
    assert frechet_distance(a, b) == pytest.approx(np.sum((s - 1) ** 2), rel=1e-10)


def test_fid_does_not_depend_on_the_basis():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    s, t = rng.uniform(0.1, 3.0, size=(2, 10))
    mean = rng.normal(size=10)
    a = Gaussian(mean, rotation @ np.diag(s**2) @ rotation.T)
    b = Gaussian(0 * mean, rotation @ np.diag(t**2) @ rotation.T)
    expected = mean @ mean + np.sum((s - t) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(('count', 'dim'), [(500, 32), (20, 64), (3, 128), (150, 128)])
def test_fid_of_a_set_with_itself_is_zero(count, dim):
    rows = random_features(count, dim, 0)
    ours = of(rows)
    assert 0.0 <= frechet_distance(ours, ours) < 1e-6
    shuffled = of(rows[np.random.default_rng(1).permutation(count)])
    assert 0.0 <= frechet_distance(ours, shuffled) < 1e-6


def test_fid_of_shifted_copies_is_the_squared_shift():
    rows = random_features(500, 16, 0)
    shift = np.linspace(-1, 1, 16)
    distance = frechet_distance(of(rows), of(rows + shift))
    assert distance == pytest.approx(shift @ shift, rel=1e-9)


def centred(rows):
    """A with A^T A = the covariance of `rows`."""
    return (rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1)


@pytest.mark.parametrize('counts', [(20, 20), (20, 1000), (1000, 20), (2, 2), (2, 50)])
def test_fid_of_fewer_images_than_features(counts):
    """With S_a = A^T A and S_b = B^T B, tr (S_a S_b)^(1/2) is the sum of A B^T's singular values.

    It needs no root of a singular matrix.
    """
    dim = 64
    a, b = (random_features(count, dim, seed) for seed, count in enumerate(counts))
    delta = a.mean(axis=0) - b.mean(axis=0)
    traces = np.square(centred(a)).sum() + np.square(centred(b)).sum()
    singular = np.linalg.svd(centred(a) @ centred(b).T, compute_uv=False)
    expected = delta @ delta + traces - 2 * singular.sum()
    for pair in ((a, b), (b, a)):
        distance = frechet_distance(*map(of, pair))
        assert np.isfinite(distance)
        assert distance >= 0.0
        assert distance == pytest.approx(expected, rel=1e-6)


def test_fid_is_never_negative():
    """Rounding may leave less than 0 of a difference of large traces."""
    for seed in range(20):
        rows = 1e3 * random_features(12, 24, seed)
        assert frechet_distance(of(rows), of(rows[::-1])) >= 0.0


def test_fid_of_constant_features():
    """Without spread only the means are left: 3^2 * 4 features = 36."""
    a, b = of(np.zeros((10, 4))), of(np.full((10, 4), 3.0))
    assert frechet_distance(a, b) == pytest.approx(36.0, rel=1e-12)
    # Against s = 2: 36 + 4 * 2^2 = 52.
    wide = Gaussian(np.full(4, 3.0), 4.0 * np.eye(4))
    assert frechet_distance(a, wide) == pytest.approx(52.0, rel=1e-12)


def normal_sets(sets, count, dim, mean=0.0):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(count, dim)) + mean for _ in range(sets)]


def test_fid_is_biased_by_one_over_the_number_of_images():
    """Of N draws from the reference N(0, I) itself: E FID = (D + D (D + 1) / 4) / N + O(1 / N^2).

    D / N is the mean's error; the covariance's error E has E tr E^2 = D (D + 1) / N, and to second
    order tr(I + (I + E) - 2 (I + E)^(1/2)) = tr E^2 / 4.
    """
    dim = 8
    reference = Gaussian(np.zeros(dim), np.eye(dim))
    expected = dim + dim * (dim + 1) / 4
    for count in (500, 2000):
        distances = [frechet_distance(of(rows), reference) for rows in normal_sets(100, count, dim)]
        error = np.std(distances, ddof=1) / 10
        assert count * error < 0.05 * expected  # the test can tell
        assert count * np.mean(distances) == pytest.approx(expected, abs=4 * count * error)
