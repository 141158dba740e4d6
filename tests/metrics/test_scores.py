"""FID and Inception Score against their definitions and closed forms."""

import os

import numpy as np
import pytest
import scipy.linalg

from cfg_jax.metrics import scores
from cfg_jax.metrics.statistics import (
    Gaussian,
    Moments,
)


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
                reason='minutes; CFG_JAX_SLOW=1 pytest tests/metrics/test_scores.py runs it',
            ),
        ),
    ],
)
def test_fid_is_its_definition(dim, offset):
    a, b = random_features(2 * dim + 1000, dim, 0), random_features(dim + 700, dim, 1, offset)
    expected = fid_by_definition(a, b)
    assert scores.frechet_distance(of(a), of(b)) == pytest.approx(expected, rel=1e-8)


def test_fid_is_symmetric():
    a, b = of(random_features(100, 16, 0)), of(random_features(80, 16, 1, 0.4))
    there, back = scores.frechet_distance(a, b), scores.frechet_distance(b, a)
    assert there == pytest.approx(back, rel=1e-12)


def test_fid_of_diagonal_gaussians():
    """|mu_a - mu_b|^2 + sum_i (s_i - t_i)^2 for standard deviations s and t."""
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 20))
    s, t = rng.uniform(0.1, 3.0, size=(2, 20))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((s - t) ** 2)
    a, b = Gaussian(mean_a, np.diag(s**2)), Gaussian(mean_b, np.diag(t**2))
    assert scores.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_fid_takes_small_deviations_for_no_noise():
    """s from 1 to 1e-6 against 1: each has its part 2 s in the trace of the root."""
    s = np.logspace(0, -6, 20)
    a, b = Gaussian(np.zeros(20), np.diag(s**2)), Gaussian(np.zeros(20), np.eye(20))
    assert scores.frechet_distance(a, b) == pytest.approx(np.sum((s - 1) ** 2), rel=1e-10)


def test_fid_does_not_depend_on_the_basis():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    s, t = rng.uniform(0.1, 3.0, size=(2, 10))
    mean = rng.normal(size=10)
    a = Gaussian(mean, rotation @ np.diag(s**2) @ rotation.T)
    b = Gaussian(0 * mean, rotation @ np.diag(t**2) @ rotation.T)
    expected = mean @ mean + np.sum((s - t) ** 2)
    assert scores.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(('count', 'dim'), [(500, 32), (20, 64), (3, 128), (150, 128)])
def test_fid_of_a_set_with_itself_is_zero(count, dim):
    rows = random_features(count, dim, 0)
    ours = of(rows)
    assert 0.0 <= scores.frechet_distance(ours, ours) < 1e-6
    shuffled = of(rows[np.random.default_rng(1).permutation(count)])
    assert 0.0 <= scores.frechet_distance(ours, shuffled) < 1e-6


def test_fid_of_shifted_copies_is_the_squared_shift():
    rows = random_features(500, 16, 0)
    shift = np.linspace(-1, 1, 16)
    distance = scores.frechet_distance(of(rows), of(rows + shift))
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
        distance = scores.frechet_distance(*map(of, pair))
        assert np.isfinite(distance)
        assert distance >= 0.0
        assert distance == pytest.approx(expected, rel=1e-6)


def test_fid_is_never_negative():
    """Rounding may leave less than 0 of a difference of large traces."""
    for seed in range(20):
        rows = 1e3 * random_features(12, 24, seed)
        assert scores.frechet_distance(of(rows), of(rows[::-1])) >= 0.0


def test_fid_of_constant_features():
    """Without spread only the means are left: 3^2 * 4 features = 36."""
    a, b = of(np.zeros((10, 4))), of(np.full((10, 4), 3.0))
    assert scores.frechet_distance(a, b) == pytest.approx(36.0, rel=1e-12)
    # Against s = 2: 36 + 4 * 2^2 = 52.
    wide = Gaussian(np.full(4, 3.0), 4.0 * np.eye(4))
    assert scores.frechet_distance(a, wide) == pytest.approx(52.0, rel=1e-12)


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
        distances = [
            scores.frechet_distance(of(rows), reference) for rows in normal_sets(100, count, dim)
        ]
        error = np.std(distances, ddof=1) / 10
        assert count * error < 0.05 * expected  # the test can tell
        assert count * np.mean(distances) == pytest.approx(expected, abs=4 * count * error)


def test_fid_at_infinity_is_free_of_this_bias():
    dim, count = 8, 1000
    reference = Gaussian(np.zeros(dim), np.eye(dim))
    sets = normal_sets(30, count, dim)
    infinity = np.array([scores.frechet_infinity(rows, reference) for rows in sets])
    finite = np.array([scores.frechet_distance(of(rows), reference) for rows in sets])
    assert abs(infinity.mean()) < 0.2 * finite.mean()
    assert np.mean(np.abs(infinity) < finite) > 0.8


def test_fid_at_infinity_of_a_shifted_mean_is_the_squared_shift():
    dim, shift = 6, 0.2
    reference = Gaussian(np.zeros(dim), np.eye(dim))
    sets = normal_sets(100, 300, dim, shift)
    infinity = np.array([scores.frechet_infinity(rows, reference) for rows in sets])
    finite = np.array([scores.frechet_distance(of(rows), reference) for rows in sets])
    truth = dim * shift**2
    error = np.std(infinity, ddof=1) / np.sqrt(len(sets))
    assert infinity.mean() == pytest.approx(truth, abs=3 * error)
    assert finite.mean() > truth + 3 * error  # which the finite one is not


@pytest.mark.parametrize(('count', 'dim'), [(60, 20), (600, 20), (10, 20)])
def test_fid_at_infinity_extends_a_straight_line(monkeypatch, count, dim):
    """Were FID(n) = 3 + 500 / n, it would be 3; the subsets hold n different rows each."""
    subsets = []

    class Counted:
        """Stands for `Moments`; its Gaussian is only the number of rows."""

        @classmethod
        def of_many(cls, rows):
            subsets.append(rows)
            return cls()

        def gaussian(self):
            return len(subsets[-1])

    monkeypatch.setattr(scores, 'Moments', Counted)
    monkeypatch.setattr(scores, 'distance_from', lambda reference: lambda n: 3.0 + 500.0 / n)
    rows = random_features(count, dim, 0)
    assert scores.frechet_infinity(rows, None) == pytest.approx(3.0, rel=1e-9)
    assert all(len(np.unique(subset, axis=0)) == len(subset) for subset in subsets)
    sizes = [len(subset) for subset in subsets]
    # From N / 10, but above D for the rank, but at most N / 2, to N.
    assert (min(sizes), max(sizes)) == ({60: 21, 600: 60, 10: 5}[count], count)


def test_fid_at_infinity_repeats_with_its_seed():
    rows, reference = random_features(200, 4, 0), of(random_features(200, 4, 1))
    first, again, other = (scores.frechet_infinity(rows, reference, seed) for seed in (5, 5, 6))
    assert first == again != other


def one_hot_logits(labels, num_classes, sharpness=1000.0):
    return sharpness * np.eye(num_classes)[labels]


@pytest.mark.parametrize('num_classes', [2, 10, 100])
def test_inception_score_of_sure_and_balanced_is_the_number_of_classes(num_classes):
    labels = np.tile(np.arange(num_classes), 10)
    mean, std = scores.inception_score(one_hot_logits(labels, num_classes))  # 10 splits
    assert mean == pytest.approx(num_classes, rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-10)


def test_inception_score_has_ten_splits():
    logits = np.random.default_rng(0).normal(size=(200, 10))
    assert scores.inception_score(logits) == scores.inception_score(logits, splits=10)
    assert scores.inception_score(logits) != scores.inception_score(logits, splits=5)


def test_inception_score_of_unsure_or_of_one_class_is_one():
    for logits in (np.full((50, 10), 3.0), one_hot_logits(np.full(50, 4), 10)):
        assert scores.inception_score(logits, splits=5) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_inception_score_by_hand():
    """p = (3/4, 1/4) and (1/4, 3/4): marginal 1/2, KL = 3/4 log(3/2) + 1/4 log(1/2) each."""
    logits = np.log([[0.75, 0.25], [0.25, 0.75]])
    expected = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert scores.inception_score(logits, splits=1) == pytest.approx((expected, 0.0), rel=1e-12)
    # A constant added to an image's logits changes nothing, not even far outside exp's range.
    shifted = logits + np.array([[1e4], [-1e4]])
    assert scores.inception_score(shifted, splits=1)[0] == pytest.approx(expected, rel=1e-10)


def test_inception_score_splits_in_file_order():
    """First half of one class (score 1), second half balanced over four (score 4)."""
    sorted_labels = np.concatenate([np.zeros(40, int), np.tile(np.arange(4), 10)])
    mean, std = scores.inception_score(one_hot_logits(sorted_labels, 4), splits=2)
    assert (mean, std) == pytest.approx((2.5, 1.5), rel=1e-12)  # of 1 and 4
    # In another order both halves hold the same: shares 5/8 and three of 1/8.
    interleaved = sorted_labels.reshape(2, -1).T.ravel()
    entropy = -(5 / 8 * np.log(5 / 8) + 3 / 8 * np.log(1 / 8))
    mean, std = scores.inception_score(one_hot_logits(interleaved, 4), splits=2)
    assert (mean, std) == pytest.approx((np.exp(entropy), 0.0), rel=1e-12, abs=1e-12)


def test_inception_score_takes_uneven_splits():
    # 7 images in 3 splits are 3 + 2 + 2: classes 012 | 01 | 00 score 3, 2 and 1.
    labels = np.array([0, 1, 2, 0, 1, 0, 0])
    mean, std = scores.inception_score(one_hot_logits(labels, 3), splits=3)
    assert mean == pytest.approx(2.0, rel=1e-12)
    assert std == pytest.approx(np.sqrt(2 / 3), rel=1e-12)


def test_inception_score_of_float32_logits():
    logits = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    exact = scores.inception_score(logits.astype(np.float64))
    assert scores.inception_score(logits) == pytest.approx(exact, rel=1e-14)


def test_class_agreement():
    logits = np.array([[0.0, 1.0, 0.5], [2.0, 1.0, 0.0], [0.0, 0.0, 9.0], [-3.0, -1.0, -2.0]])
    assert scores.class_agreement(logits, np.array([1, 0, 2, 1])) == 1.0
    assert scores.class_agreement(logits, np.array([1, 0, 2, 0])) == 0.75
    assert scores.class_agreement(logits, np.array([0, 1, 1, 2])) == 0.0
    assert isinstance(scores.class_agreement(logits, np.array([1, 0, 2, 0])), float)
