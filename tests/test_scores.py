"""FID and Inception Score against their definitions and closed forms."""

import numpy as np
import pytest
import scipy.linalg

from cfg_jax.metrics import scores
from cfg_jax.metrics.statistics import Moments


def gaussian(mean, covariance, count=1000):
    """Moments with exactly this mean and covariance."""
    covariance = np.asarray(covariance, np.float64)
    return Moments(count, np.asarray(mean, np.float64), covariance * (count - 1))


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


@pytest.mark.parametrize(('dim', 'offset'), [(8, 0.0), (8, 0.4), (64, 0.1)])
def test_fid_is_its_definition(dim, offset):
    a, b = random_features(1000, dim, 0), random_features(700, dim, 1, offset)
    expected = fid_by_definition(a, b)
    for pair in ((a, b), (b, a)):
        distance = scores.frechet_distance(*map(Moments.of, pair))
        assert distance == pytest.approx(expected, rel=1e-8)


def test_fid_of_diagonal_gaussians():
    """|mu_a - mu_b|^2 + sum_i (s_i - t_i)^2 for standard deviations s and t."""
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 20))
    s, t = rng.uniform(0.1, 3.0, size=(2, 20))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((s - t) ** 2)
    a, b = gaussian(mean_a, np.diag(s**2)), gaussian(mean_b, np.diag(t**2))
    assert scores.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_fid_does_not_depend_on_the_basis():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    s, t = rng.uniform(0.1, 3.0, size=(2, 10))
    mean = rng.normal(size=10)
    a = gaussian(mean, rotation @ np.diag(s**2) @ rotation.T)
    b = gaussian(0 * mean, rotation @ np.diag(t**2) @ rotation.T)
    expected = mean @ mean + np.sum((s - t) ** 2)
    assert scores.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_fid_of_a_set_with_itself_is_zero():
    rows = random_features(500, 32, 0)
    moments = Moments.of(rows)
    trace = np.trace(moments.covariance())
    assert abs(scores.frechet_distance(moments, moments)) < 1e-12 * trace
    shuffled = Moments.of(rows[::-1])
    assert abs(scores.frechet_distance(moments, shuffled)) < 1e-11 * trace


def test_fid_of_shifted_copies_is_the_squared_shift():
    rows = random_features(500, 16, 0)
    shift = np.linspace(-1, 1, 16)
    moved = Moments.of(rows + shift)
    assert scores.frechet_distance(Moments.of(rows), moved) == pytest.approx(
        shift @ shift, rel=1e-9
    )


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
        distance = scores.frechet_distance(*map(Moments.of, pair))
        assert distance == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('count', [2, 20])
def test_fid_of_few_images_with_themselves_is_not_negative(count):
    moments = Moments.of(random_features(count, 512, 0))
    assert scores.frechet_distance(moments, moments) >= -1e-6


def test_fid_of_constant_features():
    """Without spread only the means are left: 3^2 * 4 features = 36."""
    a, b = Moments.of(np.zeros((10, 4))), Moments.of(np.full((10, 4), 3.0))
    assert scores.frechet_distance(a, b) == pytest.approx(36.0, rel=1e-12)
    # Against s = 2: 36 + 4 * 2^2 = 52.
    wide = gaussian(np.full(4, 3.0), 4.0 * np.eye(4))
    assert scores.frechet_distance(a, wide) == pytest.approx(52.0, rel=1e-12)


def one_hot_logits(labels, num_classes, sharpness=1000.0):
    return sharpness * np.eye(num_classes)[labels]


@pytest.mark.parametrize('num_classes', [2, 10, 100])
def test_inception_score_of_sure_and_balanced_is_the_number_of_classes(num_classes):
    labels = np.tile(np.arange(num_classes), 10)
    mean, std = scores.inception_score(one_hot_logits(labels, num_classes), splits=10)
    assert mean == pytest.approx(num_classes, rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-10)


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
