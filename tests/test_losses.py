"""Algorithm 1: the draws' distributions, and the loss where the answer is known in closed form."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import alpha_sigma64, gaussian_eps
from scipy import stats

from cfg_jax import diffusion, losses
from cfg_jax.conditioning.label import Label
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.registry import SCALINGS, TARGETS, WEIGHTINGS

FAST_COMPILE = {'xla_backend_optimization_level': 1}
NULL = 10
MANY = 40_000
SHAPE = (2, 2, 1)
LABEL = np.arange(MANY, dtype=np.int32) % NULL  # classes 0..9 in turn
TARGETS_64 = {  # p(x, eps, alpha, sigma)
    'eps': lambda x, eps, alpha, sigma: eps,
    'x': lambda x, eps, alpha, sigma: x,
    'v': lambda x, eps, alpha, sigma: alpha * eps - sigma * x,
    'velocity': lambda x, eps, alpha, sigma: eps - x,
}


class Draws(NamedTuple):
    """The random choices of Algorithm 1, as the network sees them."""

    label: np.ndarray
    logsnr: np.ndarray
    eps: np.ndarray


@functools.partial(jax.jit, static_argnames=('limits',), compiler_options=FAST_COMPILE)
def draw(keys, x, label, p_uncond, limits=(-20.0, 20.0)):
    """What a network is given, with eps from z = alpha x + sigma eps."""
    seen = []

    def network(z, logsnr, c):
        level = logsnr[:, None, None, None]
        seen.append(Draws(c, logsnr, (z - diffusion.alpha(level) * x) / diffusion.sigma(level)))
        return z

    algorithm_1(network, x, label, keys, p_uncond, schedule=CosineSchedule(*limits))
    return seen[0]


def algorithm_1(network, x, label, keys, p_uncond=0.3, **settings):
    return losses.algorithm_1(
        network, x, label, keys, conditioning=Label(NULL), p_uncond=p_uncond, **settings
    )


@functools.cache
def draw_many(p_uncond=0.3, limits=(-20.0, 20.0)):
    """Draws for MANY examples with x = 0, on the host."""
    keys = jax.random.split(jax.random.key(0), MANY)
    return jax.device_get(draw(keys, np.zeros((MANY, *SHAPE)), LABEL, p_uncond, limits))


def fixed(monkeypatch, logsnr, eps):
    """Settings of `algorithm_1` that make it draw this log-SNR [B] and this eps [B, ...]."""
    monkeypatch.setattr(losses, 'per_image_noise', lambda keys, shape: jnp.asarray(eps))
    return {'schedule': lambda u: jnp.asarray(logsnr, jnp.float32)}


def keys_of(count):
    return jax.random.split(jax.random.key(1), count)


def test_dropped_share_is_p_uncond():
    draws = draw_many(0.3)
    dropped = draws.label == NULL  # no real class: those are 0..9
    assert abs(dropped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / MANY)
    np.testing.assert_array_equal(draws.label[~dropped], LABEL[~dropped])
    assert draws.label.dtype == np.int32


def test_labels_are_never_dropped_at_zero_and_always_at_one():
    np.testing.assert_array_equal(draw_many(0.0).label, LABEL)
    np.testing.assert_array_equal(draw_many(1.0).label, np.full(MANY, NULL))


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
            np.testing.assert_allclose(getattr(part, name), expected, rtol=2e-6, atol=2e-6)
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


def test_exact_eps_has_no_loss(monkeypatch):
    draws = Draws(*(array[:32] for array in draw_many()))
    x = np.random.default_rng(0).uniform(-1, 1, size=(32, *SHAPE))
    settings = fixed(monkeypatch, draws.logsnr, draws.eps)
    loss, _ = algorithm_1(lambda *_: draws.eps, np.float32(x), draws.label, keys_of(32), **settings)
    assert loss.shape == (32,)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, np.zeros(32))


def test_zero_prediction_has_the_loss_of_the_noise():
    keys, x = jax.random.split(jax.random.key(0), MANY), np.zeros((MANY, *SHAPE), np.float32)
    loss, logsnr = jax.jit(
        lambda x, keys: algorithm_1(lambda z, *_: jnp.zeros_like(z), x, LABEL, keys),
        compiler_options=FAST_COMPILE,
    )(x, keys)
    draws = draw_many()
    expected = np.mean(np.square(draws.eps, dtype=np.float64), axis=(1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(logsnr, draws.logsnr, rtol=1e-6, atol=1e-6)
    # E eps^2 = 1, and eps^2 has variance 2.
    assert abs(np.mean(loss) - 1.0) < 4 * np.sqrt(2 / draws.eps.size)


def test_network_sees_the_noised_images_and_the_drawn_condition(monkeypatch):
    drawn = Draws(*(array[:16] for array in draw_many()))
    x = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    seen = []

    def eps_theta(z, logsnr, label):
        seen.append((z, logsnr, label))
        return z

    settings = fixed(monkeypatch, drawn.logsnr, drawn.eps)
    keys = jax.random.split(jax.random.key(0), MANY)[:16]  # those of `draw_many`
    _, returned = algorithm_1(eps_theta, x, LABEL[:16], keys, **settings)
    ((z, logsnr, label),) = seen
    logsnr64 = drawn.logsnr.astype(np.float64)[:, None, None, None]
    alpha, sigma = alpha_sigma64(logsnr64)
    np.testing.assert_allclose(z, alpha * x + sigma * drawn.eps, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logsnr, drawn.logsnr)
    np.testing.assert_array_equal(returned, drawn.logsnr)
    np.testing.assert_array_equal(label, drawn.label)
    assert np.any(label == NULL)


def test_loss_of_the_optimal_eps_on_gaussian_data():
    """x ~ N(m, s^2): the best eps is E[eps | z], its loss is Var[eps | z], which `loss_at` gives.

    The mean over p(logsnr) is the integral over u, by the midpoint rule.
    """
    m, s = 0.3, 0.5  # of `gaussian`

    def loss_at(alpha, sigma):
        return (alpha * s) ** 2 / ((alpha * s) ** 2 + sigma**2)

    @functools.partial(jax.jit, static_argnames=('schedule',), compiler_options=FAST_COMPILE)
    def losses_of_the_optimum(x, keys, schedule):
        return algorithm_1(
            lambda z, logsnr, label: gaussian_eps(z, logsnr), x, LABEL, keys, schedule=schedule
        )[0]

    b = np.arctan(np.exp(-10.0))
    u = (np.arange(100_000) + 0.5) / 100_000
    angle = (np.arctan(np.exp(10.0)) - b) * u + b  # alpha = cos(angle), sigma = sin(angle)
    mean_loss = loss_at(np.cos(angle), np.sin(angle)).mean()
    one_level = loss_at((1 + np.exp(-1.0)) ** -0.5, (1 + np.exp(1.0)) ** -0.5)

    x = m + s * np.random.default_rng(7).normal(size=(MANY, *SHAPE)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), MANY)
    for schedule, expected in (
        (CosineSchedule(), mean_loss),
        (lambda u: jnp.full_like(u, 1.0), one_level),
    ):
        per_example = np.asarray(losses_of_the_optimum(x, keys, schedule), np.float64)
        standard_error = per_example.std() / np.sqrt(MANY)
        assert abs(per_example.mean() - expected) < 4 * standard_error
        assert standard_error < 0.01 * expected  # sharp enough to see a wrong formula


LEVELS = np.linspace(-20.0, 20.0, 41)


@pytest.mark.parametrize('name', WEIGHTINGS)
def test_a_weighting_is_the_squared_error_of_its_target(name):
    """weight(logsnr) (eps - eps')^2 = (p - p')^2 with p' of eps' at the same z; float64."""
    rng = np.random.default_rng(0)
    x, eps, error = rng.normal(size=(3, 41))
    alpha, sigma = alpha_sigma64(LEVELS)
    z, eps_prime = alpha * x + sigma * eps, eps + 0.1 * error
    x_prime = (z - sigma * eps_prime) / alpha
    p, p_prime = (TARGETS_64[name](a, e, alpha, sigma) for a, e in ((x, eps), (x_prime, eps_prime)))
    weight = WEIGHTINGS.load(name)(jnp.asarray(LEVELS, jnp.float32))
    assert weight.dtype == jnp.float32
    np.testing.assert_allclose(weight * (eps - eps_prime) ** 2, (p - p_prime) ** 2, rtol=2e-5)


def network_of(name, z64, eps64, logsnr64):
    """A network that predicts target `name` of eps at z, exactly, whatever it is given."""
    alpha, sigma = alpha_sigma64(logsnr64)
    x = (z64 - sigma * eps64) / alpha
    return lambda *_: jnp.asarray(TARGETS_64[name](x, eps64, alpha, sigma), jnp.float32)


@pytest.mark.parametrize('name', TARGETS)
@pytest.mark.parametrize('weighting', [None, *WEIGHTINGS])
def test_every_target_has_the_weighted_loss_of_eps(monkeypatch, name, weighting):
    """loss = weight(logsnr) mean |eps' - eps|^2, whatever the network predicts."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(9, *SHAPE)).astype(np.float32)
    eps, error = rng.normal(size=(2, 9, *SHAPE)).astype(np.float32)
    logsnr = np.linspace(-7, 7, 9, dtype=np.float32)
    logsnr64 = logsnr.astype(np.float64)[:, None, None, None]
    alpha, sigma = alpha_sigma64(logsnr64)
    eps_prime = eps + 0.3 * error
    network = network_of(name, alpha * x + sigma * eps, eps_prime, logsnr64)
    weight = None if weighting is None else WEIGHTINGS.load(weighting)
    loss, _ = algorithm_1(
        network,
        x,
        LABEL[:9],
        keys_of(9),
        target=TARGETS.load(name),
        weight=weight,
        **fixed(monkeypatch, logsnr, eps),
    )
    mse = np.mean((0.3 * error.astype(np.float64)) ** 2, axis=(1, 2, 3))
    factor = {
        None: 1.0,
        'eps': 1.0,
        'x': np.exp(-logsnr64),
        'v': 1 + np.exp(-logsnr64),
        'velocity': (1 + np.exp(-logsnr64 / 2)) ** 2,
    }[weighting]
    np.testing.assert_allclose(loss, np.ravel(factor * np.ones((9, 1, 1, 1))) * mse, rtol=2e-3)
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize('name', TARGETS)
@pytest.mark.parametrize('scaling', SCALINGS)
def test_gaussian_denoisers_of_every_target_and_scaling_have_one_loss(name, scaling):
    """The exact denoiser of N(0.3, 0.25), as a network of any kind, through `Denoiser`."""
    keys = keys_of(512)
    rng = np.random.default_rng(3)
    x = (0.3 + 0.5 * rng.normal(size=(512, *SHAPE))).astype(np.float32)
    schedule = CosineSchedule(-7.0, 7.0)
    target = TARGETS.load(name)
    factor = SCALINGS.load(scaling).factor

    def network(params, seen, logsnr, label):
        level = logsnr[:, None, None, None]
        z = seen / factor(level)
        eps = gaussian_eps(z, logsnr)
        x = diffusion.x_from_eps(z, eps, logsnr)
        return TARGETS_64[name](x, eps, diffusion.alpha(level), diffusion.sigma(level))

    denoiser = Denoiser(network, target, SCALINGS.load(scaling))

    def loss(keys):
        def prediction(z, logsnr, c):
            return denoiser.prediction((), z, logsnr, c)

        return algorithm_1(prediction, x, LABEL[:512], keys, target=target, schedule=schedule)[0]

    def expected(keys):
        return algorithm_1(
            lambda z, logsnr, c: gaussian_eps(z, logsnr), x, LABEL[:512], keys, schedule=schedule
        )[0]

    found, expected = (jax.jit(f, compiler_options=FAST_COMPILE)(keys) for f in (loss, expected))
    assert np.mean(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('shape', [(4, 1, 1, 1), (4, 8, 8, 1), (1, 8, 8, 3), (8, 8, 3), (4, 8, 8)])
@pytest.mark.parametrize('name', TARGETS)
def test_a_prediction_of_another_shape_is_refused_while_tracing(shape, name):
    """Against images [4, 8, 8, 3] all of these would be broadcast."""
    x = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)

    def loss(x):
        return algorithm_1(
            lambda *_: jnp.zeros(shape), x, LABEL[:4], keys_of(4), target=TARGETS.load(name)
        )

    with pytest.raises(ValueError, match='prediction has the shape'):
        jax.eval_shape(loss, x)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize(('keys', 'labels'), [(4, 1), (4, 3), (1, 4), (3, 4)])
def test_lengths_that_disagree_are_refused_while_tracing(keys, labels):
    x = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    with pytest.raises(ValueError, match='shape'):
        jax.eval_shape(lambda x: algorithm_1(lambda z, *_: z, x, LABEL[:labels], keys_of(keys)), x)


def test_cross_entropy_of_a_linear_classifier(monkeypatch):
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

    settings = fixed(monkeypatch, logsnr, eps)
    loss, correct, returned = losses.noisy_cross_entropy(
        classifier_fn, x, label, keys_of(6), **settings
    )
    alpha, sigma = (a[:, None] for a in alpha_sigma64(logsnr))
    z = alpha * x.reshape(6, -1) + sigma * eps.reshape(6, -1)
    logits = z @ kernel + logsnr[:, None] * np.array([0.1, 0.0, -0.1])
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), label]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(correct, logits.argmax(axis=1) == label)
    assert 0 < correct.sum() < 6
    np.testing.assert_array_equal(seen[0], logsnr)
    np.testing.assert_array_equal(returned, logsnr)


def test_cross_entropy_has_the_draws_of_algorithm_1():
    keys, x = jax.random.split(jax.random.key(0), 16), np.zeros((16, *SHAPE), np.float32)
    seen = []

    def classifier_fn(z, logsnr):
        seen.append(z)
        return z.reshape(16, -1)

    *_, logsnr = losses.noisy_cross_entropy(classifier_fn, x, LABEL[:16] % 4, keys)
    algorithm_1(lambda z, logsnr, c: seen.append(z) or z, x, LABEL[:16], keys)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(logsnr, algorithm_1(lambda z, *_: z, x, LABEL[:16], keys)[1])


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize(('labels', 'rows'), [(6, 1), (1, 6), (5, 6), (6, 5)])
def test_cross_entropy_of_another_number_of_labels_or_logits_is_refused(labels, rows):
    x = np.zeros((6, *SHAPE), np.float32)
    with pytest.raises(ValueError, match='as many labels and rows of logits'):
        losses.noisy_cross_entropy(
            lambda z, _: jnp.zeros((rows, 3)), x, np.zeros(labels, np.int32), keys_of(6)
        )
