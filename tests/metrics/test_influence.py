"""Standard errors of the Frechet distance against closed forms and the spread of fresh sets."""

import numpy as np
import pytest

from cfg_jax.metrics import Inputs
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.frechet import distance_from, fid, frechet_distance, sfid
from cfg_jax.metrics.influence import Influence, _Expansion, frechet_influence
from cfg_jax.metrics.statistics import Gaussian, Moments, Reference

DIM, COUNT = 16, 300


def influence(rows, reference, strata=None):
    return frechet_influence(rows, Moments.of_many(rows), reference, strata)


def error_of(rows, reference, strata=None):
    return influence(rows, reference, strata).standard_error()


def distance_of(rows, reference):
    return frechet_distance(Moments.of(rows).gaussian(), reference)


def test_error_in_one_dimension():
    """Of N(m, s^2) against N(0, 1), (m - 0)^2 + (s - 1)^2, by the delta method.

    Var = (4 m^2 s^2 + 2 (s - 1)^2 s^2) / N: of a mean s^2 / N, of a deviation s^2 / (2 N).
    """
    count, m, s = 4000, 1.0, 3.0
    sample = m + s * np.random.default_rng(0).normal(size=(count, 1))
    error = error_of(sample, Gaussian(np.zeros(1), np.eye(1)))
    expected = np.sqrt((4 * m**2 * s**2 + 2 * (s - 1) ** 2 * s**2) / count)
    assert error == pytest.approx(expected, rel=0.05)


def test_influence_in_one_dimension():
    """Of m^2 + (s - 1)^2 with c = x - m: (2 c m + (1 - 1 / s) c^2) less g(x, x) / (2 n).

    A variance v moves by c^2 - v to first order and by -2 c c' to second, v - 2 sqrt(v) by
    (1 - 1 / s) dv + dv dv' / (2 s^3); so g(x, x) is c^4 / (2 s^3) + c^2 / s and a constant.
    """
    x = 0.7 + 1.6 * np.random.default_rng(0).normal(size=8)
    c, m, s = x - x.mean(), x.mean(), x.std(ddof=1)
    expected = 2 * c * m + c**2 - c**2 / s - (c**4 / (2 * s**3) + c**2 / s) / (2 * 8)
    first = influence(x[:, None], Gaussian(np.zeros(1), np.eye(1))).first
    # A constant does not matter.
    found, expected = first - first.mean(), expected - expected.mean()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def derivative(rows, reference, number):
    """d distance / d weight of one image, by central differences of weighted moments."""

    def weighted(extra):
        weights = np.ones(len(rows))
        weights[number] += extra
        mu = weights @ rows / weights.sum()
        centred = (rows - mu) * np.sqrt(weights)[:, None]
        # The covariance of the sample is unbiased; its share of each image stays.
        scale = len(rows) / (len(rows) - 1) / weights.sum()
        return frechet_distance(Gaussian(mu, centred.T @ centred * scale), reference)

    step = 1e-4
    return (weighted(step) - weighted(-step)) / (2 * step)


def test_first_order_influence_is_a_derivative():
    """d T / d weight_i = f(x_i) / N, up to the constant that the weights' sum adds.

    f at the sample holds what image i adds to its own derivative; of that half is taken off.
    """
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)) + 1.0
    reference = Moments.of(rng.normal(size=(500, 4))).gaussian()
    ours = influence(rows, reference).first
    numbers = np.arange(0, 400, 37)
    slopes = 400 * np.array([derivative(rows, reference, number) for number in numbers])
    ours, slopes = ours[numbers] - ours[numbers].mean(), slopes - slopes.mean()
    np.testing.assert_allclose(ours, slopes, rtol=0, atol=0.05 * np.abs(slopes).max())


def test_second_order_influence_is_a_derivative_of_the_first():
    """g(x, y) is how the influence of x changes, by N, when the weight of y does.

    In second differences over x, x' and y, y' all terms of x or y alone are gone.
    """
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    reference = Moments.of(rng.normal(size=(80, 3)) + 0.5).gaussian()

    def distance(weights):
        mu = weights @ rows / weights.sum()
        centred = (rows - mu) * np.sqrt(weights)[:, None]
        covariance = centred.T @ centred * (len(rows) / (len(rows) - 1) / weights.sum())
        return frechet_distance(Gaussian(mu, covariance), reference)

    def mixed(x, y):
        step, total = 1e-2, 0.0
        for sign_x in (1, -1):
            for sign_y in (1, -1):
                weights = np.ones(len(rows))
                weights[x] += sign_x * step
                weights[y] += sign_y * step
                total += sign_x * sign_y * distance(weights)
        return total / (4 * step**2)

    expansion = _Expansion(Moments.of(rows), reference)
    for x, x_like, y, y_like in ((0, 1, 2, 3), (10, 20, 30, 40), (5, 6, 50, 51)):
        numeric = mixed(x, y) - mixed(x_like, y) - mixed(x, y_like) + mixed(x_like, y_like)
        (ours,) = expansion.second(*(rows[[number]] for number in (x, x_like, y, y_like)))
        assert ours == pytest.approx(60**2 * numeric, rel=0.1)


def fresh_sets(exact, sets, labels=None, rng=None):
    """Sets whose true distance from the reference is `exact`, half of it shift, half scale."""
    rng = rng or np.random.default_rng(0)
    mixing = np.diag(np.linspace(0.5, 2.0, DIM))
    centres = 1.5 * np.random.default_rng(1).normal(size=(3, DIM))
    covariance, mean = mixing @ mixing, np.zeros(DIM)
    if labels is not None:
        mean = centres.mean(axis=0)
        covariance = covariance + (centres - mean).T @ (centres - mean) / 3
    scale = np.sqrt(exact / 2 / np.trace(covariance))
    shift = np.sqrt(exact / 2) * np.eye(DIM)[0]

    def draw():
        rows = rng.normal(size=(COUNT, DIM)) @ mixing + (0.0 if labels is None else centres[labels])
        return (1 + scale) * (rows - mean) + mean + shift

    return [draw() for _ in range(sets)], Gaussian(mean, covariance)


@pytest.mark.parametrize('exact', [0.0, 0.8, 8.0, 80.0])
def test_error_is_the_spread_of_fresh_sets(exact):
    """Near distance 0 as far from it: a bootstrap is 2 times too large there."""
    sets, reference = fresh_sets(exact, 600)
    distance = distance_from(reference)
    spread = np.std([distance(Moments.of(rows).gaussian()) for rows in sets])  # 3 % off
    errors = [error_of(rows, reference) for rows in sets[:40]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_the_first_order_alone_is_too_large_at_zero():
    """What the correction is for: by sqrt(2)."""
    sets, reference = fresh_sets(0.0, 600)
    spread = np.std([distance_of(rows, reference) for rows in sets])
    first = [influence(rows, reference).first.std() / np.sqrt(COUNT) for rows in sets[:40]]
    assert np.mean(first) > 1.25 * spread


@pytest.mark.parametrize('exact', [0.0, 8.0])
def test_strata_keep_their_numbers(exact):
    """As many of each class by design: the spread between classes does not count."""
    labels = np.arange(COUNT) % 3
    sets, reference = fresh_sets(exact, 600, labels)
    spread = np.std([distance_of(rows, reference) for rows in sets])
    errors = [error_of(rows, reference, labels) for rows in sets[:40]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    ignored = np.mean([error_of(rows, reference) for rows in sets[:10]])
    assert ignored > (1.3 if exact == 0.0 else 1.05) * spread


@pytest.mark.parametrize('exact', [0.0, 0.8, 8.0])
def test_error_of_a_difference_is_the_spread_of_differences(exact):
    """Two rows of one noise: their difference is known better than either row."""
    sets, reference = fresh_sets(exact, 600)
    others = [1.05 * rows + 0.05 for rows in sets]
    differences = [
        distance_of(b, reference) - distance_of(a, reference)
        for a, b in zip(sets, others, strict=True)
    ]
    spread = np.std(differences)
    errors = [
        (influence(b, reference) - influence(a, reference)).standard_error()
        for a, b in zip(sets[:40], others[:40], strict=True)
    ]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    unpaired = np.mean(
        [
            np.hypot(error_of(a, reference), error_of(b, reference))
            for a, b in zip(sets[:10], others[:10], strict=True)
        ]
    )
    assert unpaired > 2 * spread


def test_a_set_does_not_differ_from_itself():
    sets, reference = fresh_sets(0.8, 1)
    assert (influence(sets[0], reference) - influence(sets[0], reference)).standard_error() == 0.0


def test_sets_that_do_not_go_together_are_refused():
    sets, reference = fresh_sets(0.8, 2)
    with pytest.raises(ValueError, match='same number'):
        influence(sets[0], reference) - influence(sets[1][:-1], reference)
    with pytest.raises(ValueError, match='strata'):
        influence(sets[0], reference) - influence(sets[1], reference, np.arange(COUNT) % 2)


@pytest.mark.parametrize('count', [2, 3, 5, DIM, 2 * DIM])
def test_few_images_have_an_error_too(count):
    """A singular covariance does not make it infinite or zero."""
    sets, reference = fresh_sets(8.0, 20)
    rows = [rows[:count] for rows in sets]
    spread = np.std([distance_of(each, reference) for each in rows])
    errors = [error_of(each, reference) for each in rows]
    assert np.mean(errors) == pytest.approx(spread, rel=0.7)


def test_error_of_equal_images_is_zero():
    same = np.ones((20, 3))
    reference = Gaussian(np.zeros(3), np.eye(3))
    assert error_of(same, reference) == pytest.approx(0.0, abs=1e-12)
    assert error_of(same, Gaussian(np.zeros(3), np.zeros((3, 3)))) == pytest.approx(0.0, abs=1e-12)


def test_strata_of_one_image_have_an_error():
    """Each class once: pooled, as if all were drawn alike, since one image has no spread."""
    sets, reference = fresh_sets(8.0, 1)
    alone = error_of(sets[0], reference, np.arange(COUNT))
    assert alone == pytest.approx(error_of(sets[0], reference), rel=1e-6)
    one = np.where(np.arange(COUNT) == 7, 5, 0)
    assert error_of(sets[0], reference, one) == pytest.approx(alone, rel=0.1)


def test_blocks_do_not_matter(monkeypatch):
    sets, reference = fresh_sets(0.8, 1)
    whole = influence(sets[0], reference)
    monkeypatch.setattr('cfg_jax.metrics.influence._BLOCK', 7)
    blocks = influence(sets[0], reference)
    np.testing.assert_allclose(blocks.first, whole.first, rtol=1e-9)
    np.testing.assert_allclose(blocks.second, whole.second, rtol=1e-9)


def test_error_by_hand():
    """Without a second order the standard error of a mean, within strata with n_k - 1."""
    first = np.array([1.0, 2.0, 6.0, 10.0, 14.0])
    none, zeros = np.zeros(0), np.zeros(5, int)
    assert Influence(first, none, zeros).standard_error() == pytest.approx(
        first.std(ddof=1) / np.sqrt(5)
    )
    # {1, 2, 6}: variance 7, {10, 14}: variance 8; (3 * 7 + 2 * 8) / 25.
    strata = np.array([0, 0, 0, 1, 1])
    assert Influence(first, none, strata).standard_error() == pytest.approx(np.sqrt(37 / 25))
    # Mean square of the second order 8 * 25: its variance is 1, of which two are taken off and one
    # stays; and that stays where the first order is all excess.
    second = np.full(4, np.sqrt(200.0))
    large = Influence(3.0 * first, second, strata).standard_error()
    assert large == pytest.approx(np.sqrt(9 * 37 / 25 - 1.0))
    assert Influence(first, second, strata).standard_error() == pytest.approx(1.0)


def test_metrics_give_it_where_it_is_asked_for():
    sets, gaussian = fresh_sets(0.8, 2)
    samples = Features(sets[0], spatial=sets[1])
    inputs = Inputs(samples, Reference(gaussian, gaussian, None, {}))
    for metric, rows in ((fid, sets[0]), (sfid, sets[1])):
        assert metric(inputs).error is None
        value = metric(inputs._replace(replicates=2))
        assert value.error == error_of(rows, gaussian)
        assert value.influence.standard_error() == value.error
        assert value.value == metric(inputs).value == distance_of(rows, gaussian)
