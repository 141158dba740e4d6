"""The Inception Score against its definition and closed forms, and the order of the images."""

import numpy as np
import pytest

from cfg_jax.metrics import Inputs
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.inception_score import (
    inception_score,
    mean_over_splits,
    order_depends_on_class,
    shuffle,
)


def one_hot_logits(labels, num_classes, sharpness=1000.0):
    return sharpness * np.eye(num_classes)[labels]


@pytest.mark.parametrize('num_classes', [2, 10, 100])
def test_inception_score_of_sure_and_balanced_is_the_number_of_classes(num_classes):
    labels = np.tile(np.arange(num_classes), 10)
    mean, std = mean_over_splits(one_hot_logits(labels, num_classes))  # 10 splits
    assert mean == pytest.approx(num_classes, rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-10)


def test_inception_score_has_ten_splits():
    logits = np.random.default_rng(0).normal(size=(200, 10))
    assert mean_over_splits(logits) == mean_over_splits(logits, splits=10)
    assert mean_over_splits(logits) != mean_over_splits(logits, splits=5)


def test_inception_score_of_unsure_or_of_one_class_is_one():
    for logits in (np.full((50, 10), 3.0), one_hot_logits(np.full(50, 4), 10)):
        assert mean_over_splits(logits, splits=5) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_inception_score_by_hand():
    """p = (3/4, 1/4) and (1/4, 3/4): marginal 1/2, KL = 3/4 log(3/2) + 1/4 log(1/2) each."""
    logits = np.log([[0.75, 0.25], [0.25, 0.75]])
    expected = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert mean_over_splits(logits, splits=1) == pytest.approx((expected, 0.0), rel=1e-12)
    # A constant added to an image's logits changes nothing, not even far outside exp's range.
    shifted = logits + np.array([[1e4], [-1e4]])
    assert mean_over_splits(shifted, splits=1)[0] == pytest.approx(expected, rel=1e-10)


def test_inception_score_splits_in_file_order():
    """First half of one class (IS 1), second half balanced over four (IS 4)."""
    sorted_labels = np.concatenate([np.zeros(40, int), np.tile(np.arange(4), 10)])
    mean, std = mean_over_splits(one_hot_logits(sorted_labels, 4), splits=2)
    assert (mean, std) == pytest.approx((2.5, 1.5), rel=1e-12)  # of 1 and 4
    # In another order both halves hold the same: shares 5/8 and three of 1/8.
    interleaved = sorted_labels.reshape(2, -1).T.ravel()
    entropy = -(5 / 8 * np.log(5 / 8) + 3 / 8 * np.log(1 / 8))
    mean, std = mean_over_splits(one_hot_logits(interleaved, 4), splits=2)
    assert (mean, std) == pytest.approx((np.exp(entropy), 0.0), rel=1e-12, abs=1e-12)


def test_inception_score_takes_uneven_splits():
    # 7 images in 3 splits are 3 + 2 + 2: classes 012 | 01 | 00 have IS 3, 2 and 1.
    labels = np.array([0, 1, 2, 0, 1, 0, 0])
    mean, std = mean_over_splits(one_hot_logits(labels, 3), splits=3)
    assert mean == pytest.approx(2.0, rel=1e-12)
    assert std == pytest.approx(np.sqrt(2 / 3), rel=1e-12)


def test_inception_score_of_float32_logits():
    logits = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    exact = mean_over_splits(logits.astype(np.float64))
    assert mean_over_splits(logits) == pytest.approx(exact, rel=1e-14)


def order_inputs(labels, splits=10, noise=0.0, **more):
    rng = np.random.default_rng(0)
    logits = 8.0 * np.eye(10)[labels] + noise * rng.normal(size=(len(labels), 10))
    return Inputs(Features(logits, logits), None, splits=splits, **more)


def test_samples_in_class_order_are_shuffled_and_a_note_says_so():
    """100 images of 10 classes: in label order every split holds one class, and IS would be 1."""
    labels = np.repeat(np.arange(10), 10)
    inputs = order_inputs(labels)
    logits = inputs.samples.logits
    assert mean_over_splits(logits, 10)[0] == pytest.approx(1.0, abs=0.1)
    value = inception_score(inputs)
    assert value.value > 5.0
    assert 'depends on their class' in value.note
    assert '2020' in value.note
    assert f'{mean_over_splits(logits, 10)[0]:.3f}' in value.note
    # As torch-fidelity computes it from the same file; both deviations are over its splits.
    permuted = logits[np.random.RandomState(2020).permutation(100)]
    assert (value.value, value.deviation) == mean_over_splits(permuted, 10)


@pytest.mark.parametrize('order', ['random', 'alternating'])
def test_other_orders_are_the_files(order):
    """As ADM's evaluator: a random order, and classes in turn, are split as they are."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500) if order == 'random' else np.arange(500) % 10
    inputs = order_inputs(labels, noise=3.0)
    value = inception_score(inputs)
    assert value.note == ''
    assert (value.value, value.deviation) == mean_over_splits(inputs.samples.logits, 10)


def test_strata_are_shuffled_with_the_images():
    """Certain and balanced: within strata nothing varies, if they still belong to the images."""
    labels = np.repeat(np.arange(2), 50)
    logits = 100.0 * np.eye(2)[labels]
    inputs = Inputs(Features(logits, logits), None, splits=2, replicates=10, strata=labels)
    assert inception_score(inputs).error < 1e-9
    assert inception_score(inputs._replace(strata=None)).error > 1e-3


@pytest.mark.parametrize('classes', [2, 10, 300])
@pytest.mark.parametrize('count', [20, 200, 5000])
def test_chance_is_no_order(classes, count):
    """No set of random order is taken for an ordered one, of few images neither."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights = rng.dirichlet(np.ones(classes))
        logits = np.eye(classes)[rng.choice(classes, count, p=weights)]
        assert not order_depends_on_class(logits, 10)


@pytest.mark.parametrize(('classes', 'count'), [(2, 40), (10, 20), (10, 100), (300, 3000)])
def test_class_order_is_found(classes, count):
    labels = np.sort(np.arange(count) % classes)
    assert order_depends_on_class(np.eye(classes)[labels], 10)
    some = np.random.default_rng(0).permutation(count)[: count // 10]
    labels[some] = np.random.default_rng(1).permutation(labels[some])  # a tenth out of order
    assert order_depends_on_class(np.eye(classes)[labels], 10)


def test_one_split_or_one_class_has_no_order():
    assert not order_depends_on_class(np.eye(3)[np.repeat(np.arange(3), 20)], 1)
    assert not order_depends_on_class(np.eye(3)[np.zeros(60, int)], 10)


def test_the_permutation_is_a_permutation():
    np.testing.assert_array_equal(np.sort(shuffle(57)), np.arange(57))
