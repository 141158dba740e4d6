"""Bootstrapped errors against closed forms, and against the spread of sets really drawn again."""

import numpy as np
import pytest

from cfg_jax.metrics import bootstrap, inception_score
from cfg_jax.metrics.inception_score import bootstrap_error, mean_over_splits


def test_error_of_a_mean_is_sigma_by_root_n():
    """Var of the mean is the unbiased one of the images, by N, exactly; 2,000 replicates: 1.6%."""
    values = np.random.default_rng(0).exponential(size=150)
    error = bootstrap.standard_error(lambda w: w @ values / 150, 150, replicates=2000)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(150), rel=0.06)


def test_sets_are_as_large_as_the_set_and_drawn_with_replacement():
    drawn = []
    bootstrap.standard_error(lambda w: drawn.append(w) or 0.0, 40, replicates=500)
    weights = np.array(drawn)
    assert weights.shape == (500, 40)
    np.testing.assert_allclose(weights.sum(axis=1), 40, rtol=1e-12)
    # Each image stands in a set 40 / 39 times Binomial(39, 1 / 40) times.
    assert weights.var(axis=0).mean() == pytest.approx(1.0, rel=0.05)
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=5 / np.sqrt(500))
    assert weights.max() > 2


def test_error_is_the_unbiased_deviation_over_replicates():
    values = iter([1.0, 2.0, 6.0])
    error = bootstrap.standard_error(lambda w: next(values), 10, replicates=3)
    assert error == pytest.approx(np.sqrt(7.0))  # (4 + 1 + 9) / 2


def test_errors_repeat_with_their_seed():
    rows = np.random.default_rng(0).normal(size=(50, 4))
    for error in (
        lambda seed: bootstrap.standard_error(lambda w: w @ rows[:, 0], 50, 10, seed),
        lambda seed: bootstrap_error(rows, 2, 10, seed),
    ):
        assert error(3) == error(3) != error(4)


def value_of_weights(monkeypatch, weights, error, *arguments):
    """The value that `error` gives a set with these weights."""
    with monkeypatch.context() as patch:
        patch.setattr(inception_score, 'standard_error', lambda metric, *_: metric(weights))
        return error(*arguments)


def test_weights_are_repeated_rows_to_the_inception_score(monkeypatch):
    rng = np.random.default_rng(0)
    logits = 2.0 * rng.normal(size=(40, 6)).astype(np.float32)
    weights = rng.multinomial(40, np.full(40, 1 / 40))
    ours = value_of_weights(monkeypatch, weights, bootstrap_error, logits, 1, 2)
    expected = mean_over_splits(np.repeat(logits, weights, axis=0), splits=1)[0]
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('splits', [1, 4])
def test_error_of_the_inception_score_is_the_spread_of_sets(splits):
    rng = np.random.default_rng(0)
    sets = [2.0 * rng.normal(size=(400, 5)) + [2.0, 1.0, 0.0, 0.0, 0.0] for _ in range(600)]
    spread = np.std([mean_over_splits(logits, splits)[0] for logits in sets])
    errors = [bootstrap_error(logits, splits, replicates=100) for logits in sets[:8]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.12)


def test_error_of_equal_images_is_zero():
    same = np.ones((20, 3))
    assert bootstrap_error(same, 2, 5) == pytest.approx(0.0, abs=1e-12)


def test_strata_keep_their_numbers():
    """Two classes far apart, as many of each by design: only the spread inside them counts."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    values = 100.0 * labels + rng.normal(size=400)

    def mean(weights):
        for label in range(2):
            assert weights[labels == label].sum() == pytest.approx(200, rel=1e-12)
        return float(weights @ values / 400)

    error = bootstrap.standard_error(mean, 400, 400, strata=labels)
    assert error == pytest.approx(1.0 / np.sqrt(400), rel=0.15)
    drawn = bootstrap.standard_error(lambda weights: float(weights @ values / 400), 400, 400)
    assert drawn == pytest.approx(50.0 / np.sqrt(400), rel=0.15)


def test_is_of_confident_balanced_samples_is_exact():
    """Every image is surely of its class and each split has as many of each: nothing to vary."""
    labels = np.arange(200) % 10
    logits = 100.0 * np.eye(10)[labels]
    assert bootstrap_error(logits, 4, 10, strata=labels) < 1e-9
    assert bootstrap_error(logits, 4, 10) > 0.01


@pytest.mark.parametrize(('of_each', 'off'), [(1, 0.3), (2, 0.15), (5, 0.15)])
def test_few_images_of_each_class_have_the_error_of_new_sets(of_each, off):
    """40 classes, two splits: m draws of m images would give 0, 0.7 and 0.9 times the spread.

    Classes of one image each are taken for one class, which is near the truth and not more.
    """
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(40), 2 * of_each)
    order = np.argsort(np.tile(np.arange(2 * of_each), 40), kind='stable')  # classes in turn
    labels = labels[order]

    def drawn():
        return rng.normal(size=(len(labels), 40)) + 1.5 * np.eye(40)[labels]

    spread = np.std([mean_over_splits(drawn(), 2)[0] for _ in range(400)])
    errors = [bootstrap_error(drawn(), 2, 100, strata=labels) for _ in range(8)]
    assert np.mean(errors) == pytest.approx(spread, rel=off)
