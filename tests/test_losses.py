"""Algorithm 1: the draws' distributions, and the loss where the answer is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfg_jax import (
    diffusion,
    losses,
)

FAST_COMPILE = {'xla_backend_optimization_level': 1}
NULL = 10
MANY = 40_000
SHAPE = (2, 2, 1)
LABEL = np.arange(MANY, dtype=np.int32) % NULL  # classes 0..9 in turn


@functools.partial(jax.jit, static_argnames=('limits',), compiler_options=FAST_COMPILE)
def draw(keys, x, label, p_uncond, limits=(-20.0, 20.0)):
    return losses.draw(
        keys,
        x,
        label,
        null_label=NULL,
        p_uncond=p_uncond,
        logsnr_min=limits[0],
        logsnr_max=limits[1],
    )


@functools.cache
def draw_many(p_uncond=0.3, limits=(-20.0, 20.0)):
    """Draws for MANY examples, on the host."""
    keys = jax.random.split(jax.random.key(0), MANY)
    return jax.device_get(draw(keys, np.zeros((MANY, *SHAPE)), LABEL, p_uncond, limits))


def first(count, draws):
    return losses.Draws(*(array[:count] for array in draws))


def test_labels_are_never_dropped_at_zero_and_always_at_one():
    keys = jax.random.split(jax.random.key(0), MANY)
    np.testing.assert_array_equal(losses.drop_label(keys, LABEL, NULL, 0.0), LABEL)
    np.testing.assert_array_equal(losses.drop_label(keys, LABEL, NULL, 1.0), np.full(MANY, NULL))
    np.testing.assert_array_equal(draw_many(0.0).label, LABEL)
    np.testing.assert_array_equal(draw_many(1.0).label, np.full(MANY, NULL))


def test_dropped_share_is_p_uncond():
    draws = draw_many(0.3)
    dropped = draws.label == NULL  # no real class: those are 0..9
    assert abs(dropped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / MANY)
    np.testing.assert_array_equal(draws.label[~dropped], LABEL[~dropped])
    assert draws.label.dtype == np.int32


def test_labels_are_dropped_independently():
    dropped = draw_many(0.3).label == NULL
    # The correlation of independent pairs has a standard error of 1 / sqrt(pairs).
    for lag in (1, 2, NULL):
        correlation = np.corrcoef(dropped[:-lag], dropped[lag:])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(MANY - lag)
    by_class = dropped.reshape(-1, NULL).mean(axis=0)  # no class is dropped more than another
    assert np.all(np.abs(by_class - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / (MANY / NULL)))


def test_streams_of_an_example_are_independent():
    draws = draw_many(0.3)
    u = diffusion.u_cosine(draws.logsnr)
    columns = draws.label == NULL, u, *draws.eps.reshape(MANY, -1).T
    correlations = np.corrcoef(columns)[np.triu_indices(len(columns), k=1)]
    assert np.all(np.abs(correlations) < 4 / np.sqrt(MANY))


def test_draws_of_an_example_depend_on_its_own_key_alone():
    count = 64
    keys, x = jax.random.split(jax.random.key(0), count), np.zeros((count, *SHAPE))
    together = draw(keys, x, LABEL[:count], 0.5)
    shuffled = np.random.default_rng(0).permutation(count)
    for rows in (shuffled, np.arange(5, 12)):
        part = draw(keys[rows], x[rows], LABEL[rows], 0.5)
        np.testing.assert_array_equal(np.asarray(together.label)[rows], part.label)
        # Elementary functions round differently in the last lanes of a vector.
        for name in ('logsnr', 'eps'):
            expected = np.asarray(getattr(together, name))[rows]
            np.testing.assert_allclose(getattr(part, name), expected, rtol=1e-6, atol=1e-6)
    for distinct in (together.logsnr, together.eps[:, 0, 0, 0]):
        assert len(np.unique(distinct)) == count  # and different keys draw differently


@pytest.mark.parametrize('limits', [(-20.0, 20.0), (-10.0, 6.0)])
def test_logsnr_follows_the_cosine_schedule(limits):
    logsnr = draw_many(0.3, limits).logsnr
    u = np.asarray(diffusion.u_cosine(logsnr, *limits), np.float64)
    assert stats.kstest(u, 'uniform').pvalue > 1e-3
    # The CDF written out: P(logsnr < l) = 1 - u(l), with tan(a u + b) = exp(-l / 2).
    b, end = np.arctan(np.exp(-limits[1] / 2)), np.arctan(np.exp(-limits[0] / 2))
    for level in (-3.0, 0.0, 3.0):
        expected = 1 - (np.arctan(np.exp(-level / 2)) - b) / (end - b)
        share = np.mean(logsnr < level)
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / MANY)


def test_eps_is_standard_normal():
    eps = draw_many().eps
    assert eps.shape == (MANY, *SHAPE)
    assert stats.kstest(eps.ravel(), 'norm').pvalue > 1e-3


def test_exact_eps_has_no_loss():
    draws = first(32, draw_many())
    x = np.random.default_rng(0).uniform(-1, 1, size=(32, *SHAPE))
    per_example = losses.eps_mse(lambda z, logsnr, label: draws.eps, x, draws)
    assert per_example.shape == (32,)
    assert per_example.dtype == jnp.float32
    np.testing.assert_array_equal(per_example, np.zeros(32))


def test_zero_prediction_has_the_loss_of_the_noise():
    draws = draw_many()
    x = np.zeros((MANY, *SHAPE), np.float32)
    per_example = np.asarray(losses.eps_mse(lambda z, *_: jnp.zeros_like(z), x, draws))
    expected = np.mean(np.square(draws.eps, dtype=np.float64), axis=(1, 2, 3))
    np.testing.assert_allclose(per_example, expected, rtol=1e-5)
    # E eps^2 = 1, and eps^2 has variance 2.
    assert abs(per_example.mean() - 1.0) < 4 * np.sqrt(2 / draws.eps.size)


def test_network_sees_the_noised_images_and_the_drawn_condition():
    draws = first(16, draw_many())
    x = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    seen = []

    def eps_theta(z, logsnr, label):
        seen.append((z, logsnr, label))
        return z

    losses.eps_mse(eps_theta, x, draws)
    ((z, logsnr, label),) = seen
    logsnr64 = draws.logsnr.astype(np.float64)[:, None, None, None]
    alpha, sigma = (1 + np.exp(-logsnr64)) ** -0.5, (1 + np.exp(logsnr64)) ** -0.5
    np.testing.assert_allclose(z, alpha * x + sigma * draws.eps, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logsnr, draws.logsnr)
    np.testing.assert_array_equal(label, draws.label)
    assert np.any(label == NULL)


def test_loss_of_the_optimal_eps_on_gaussian_data():
    """x ~ N(m, s^2): the best eps is E[eps | z], its loss is Var[eps | z], which `loss_at` gives.

    The mean over p(logsnr) is the integral over u, by the midpoint rule.
    """
    m, s = 0.3, 0.5

    def loss_at(alpha, sigma):
        return (alpha * s) ** 2 / ((alpha * s) ** 2 + sigma**2)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def losses_of_the_optimum(x, draws):
        def optimal(z, logsnr, label):
            logsnr = logsnr[:, None, None, None]
            alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
            return sigma * (z - alpha * m) / ((alpha * s) ** 2 + sigma**2)

        return losses.eps_mse(optimal, x, draws)

    b = np.arctan(np.exp(-10.0))
    u = (np.arange(100_000) + 0.5) / 100_000
    angle = (np.arctan(np.exp(10.0)) - b) * u + b  # alpha = cos(angle), sigma = sin(angle)
    mean_loss = loss_at(np.cos(angle), np.sin(angle)).mean()
    one_level = loss_at((1 + np.exp(-1.0)) ** -0.5, (1 + np.exp(1.0)) ** -0.5)

    draws = draw_many()
    x = m + s * np.random.default_rng(7).normal(size=draws.eps.shape)
    fixed = draws._replace(logsnr=np.full(MANY, 1.0, np.float32))
    for some_draws, expected in ((draws, mean_loss), (fixed, one_level)):
        per_example = np.asarray(losses_of_the_optimum(x, some_draws), np.float64)
        standard_error = per_example.std() / np.sqrt(MANY)
        assert abs(per_example.mean() - expected) < 4 * standard_error
        assert standard_error < 0.01 * expected  # sharp enough to see a wrong formula


def test_cross_entropy_of_a_linear_classifier():
    """-log softmax of logits at z = alpha x + sigma eps, written out in float64."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(6, *SHAPE)).astype(np.float32)
    logsnr = np.linspace(-8, 8, 6, dtype=np.float32)
    eps = rng.normal(size=x.shape).astype(np.float32)
    label = np.int32([0, 1, 2, 2, 1, 0])
    kernel = rng.normal(size=(4, 3)).astype(np.float32)
    seen = []

    def classifier_fn(z, logsnr):
        seen.append(logsnr)
        return z.reshape(6, -1) @ kernel + logsnr[:, None] * np.float32([0.1, 0.0, -0.1])

    loss, correct = losses.cross_entropy(classifier_fn, x, losses.Draws(label, logsnr, eps))
    alpha, sigma = (1 / np.sqrt(1 + np.exp(sign * np.float64(logsnr))) for sign in (-1, 1))
    z = alpha[:, None] * x.reshape(6, -1) + sigma[:, None] * eps.reshape(6, -1)
    logits = z @ kernel + logsnr[:, None] * np.array([0.1, 0.0, -0.1])
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), label]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(correct, logits.argmax(axis=1) == label)
    assert 0 < correct.sum() < 6
    np.testing.assert_array_equal(seen[0], logsnr)
