"""One interface to every kind of network: the same Gaussian denoiser in each, as the same eps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import M, S, alpha_sigma64, gaussian_eps64

from cfg_jax import diffusion
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.models.denoiser import Denoiser, Preconditioning
from cfg_jax.registry import SCALINGS, TARGETS
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import sample_loop

LEVELS = np.linspace(-9.0, 9.0, 13)
SHAPE = (13, 3, 2, 2)
# The process of each scaling by its own formulas: (alpha, sigma) of log-SNR, and the network's time
# input, with the log-SNR that it means.
WORLDS = {
    'variance_preserving': (alpha_sigma64, lambda logsnr: logsnr, lambda time: time),
    'flow': (  # z = (1 - t) x + t eps
        lambda logsnr: (1 / (1 + np.exp(-logsnr / 2)), 1 / (1 + np.exp(logsnr / 2))),
        lambda logsnr: jax.nn.sigmoid(-0.5 * logsnr),
        lambda t: 2 * np.log((1 - t) / t),
    ),
    'edm': (  # z = x + s eps, and the network is shown c_noise = ln(s) / 4
        lambda logsnr: (np.ones_like(logsnr), np.exp(-logsnr / 2)),
        lambda logsnr: -0.125 * logsnr,
        lambda c_noise: -8 * c_noise,
    ),
}


def z_of_levels():
    """z in the variance-preserving scaling, one level an image."""
    rng = np.random.default_rng(0)
    alpha, sigma = (a[:, None, None, None] for a in alpha_sigma64(LEVELS))
    return np.float32(alpha * (M + S * rng.normal(size=SHAPE)) + sigma * rng.normal(size=SHAPE))


def expectations64(y, logsnr, world):
    """E[x | y] and E[eps | y] for y = alpha x + sigma eps and x ~ N(M, S^2)."""
    alpha, sigma = world(logsnr)
    x = M + alpha * S**2 / ((alpha * S) ** 2 + sigma**2) * (y - alpha * M)
    return x, (y - alpha * x) / sigma


def exact_network(scaling, prediction):
    """network(params, y, time, c) -> prediction(y, E[x | y], E[eps | y], logsnr), in float64."""
    world, _, logsnr_of = WORLDS[scaling]

    def in_float64(y, time):
        logsnr = logsnr_of(np.asarray(time, np.float64))[:, None, None, None]
        y = np.asarray(y, np.float64)
        return np.float32(prediction(y, *expectations64(y, logsnr, world), logsnr))

    def network(params, y, time, condition):
        return jax.pure_callback(in_float64, jax.ShapeDtypeStruct(y.shape, y.dtype), y, time)

    return network


def v_of(x, eps, logsnr):
    alpha, sigma = alpha_sigma64(logsnr)
    return alpha * eps - sigma * x


PREDICTIONS = {
    'eps': lambda y, x, eps, logsnr: eps,
    'x': lambda y, x, eps, logsnr: x,
    'v': lambda y, x, eps, logsnr: v_of(x, eps, logsnr),
    'velocity': lambda y, x, eps, logsnr: eps - x,
}


def check(denoiser, tolerance=2e-5):
    z = z_of_levels()
    found = np.asarray(denoiser.eps((), z, LEVELS.astype(np.float32), None))
    expected = gaussian_eps64(z.astype(np.float64), LEVELS[:, None, None, None])
    # eps = (z - alpha x) / sigma multiplies the rounding of x and of z by 1 / sigma.
    scale = np.maximum(1.0, 1 / alpha_sigma64(LEVELS)[1])[:, None, None, None]
    np.testing.assert_array_less(np.abs(found - expected) / scale, tolerance)
    prediction = denoiser.predict((), z, LEVELS.astype(np.float32), None)
    np.testing.assert_array_equal(prediction.eps, found)
    assert prediction.v is None


@pytest.mark.parametrize('scaling', SCALINGS)
@pytest.mark.parametrize('target', TARGETS)
def test_every_target_in_every_scaling_is_the_same_eps(scaling, target):
    network = exact_network(scaling, PREDICTIONS[target])
    check(Denoiser(network, TARGETS.load(target), SCALINGS.load(scaling), time=WORLDS[scaling][1]))


def test_edm_preconditioning():
    """D(y) = c_skip y + c_out F(c_in y, c_noise) with Karras's functions of s, F exact."""
    deviation = 0.5  # sigma_data

    def s(logsnr):
        return jnp.exp(-0.5 * logsnr)

    def total(logsnr):
        return jnp.square(s(logsnr)) + deviation**2

    karras = Preconditioning(
        skip=lambda logsnr: deviation**2 / total(logsnr),
        out=lambda logsnr: s(logsnr) * deviation / jnp.sqrt(total(logsnr)),
        inside=lambda logsnr: 1.0 / jnp.sqrt(total(logsnr)),
    )

    def network(params, inside, c_noise, condition):
        def in_float64(inside, c_noise):
            level = np.exp(4 * np.asarray(c_noise, np.float64))[:, None, None, None]
            root = np.sqrt(level**2 + deviation**2)
            y = inside * root
            x, _ = expectations64(y, -2 * np.log(level), WORLDS['edm'][0])
            c_skip, c_out = deviation**2 / root**2, level * deviation / root
            return np.float32((x - c_skip * y) / c_out)

        return jax.pure_callback(in_float64, inside, inside, c_noise)

    time = WORLDS['edm'][1]
    check(Denoiser(network, diffusion.X, diffusion.EDM, time, preconditioning=karras))


def test_training_compares_the_networks_own_prediction():
    """`prediction` is of the target, for the z of the variance-preserving scaling, with options."""
    z = z_of_levels()
    options = []
    exact = exact_network('flow', PREDICTIONS['velocity'])

    def network(*args, **given):
        options.append(given)
        return exact(*args)

    denoiser = Denoiser(network, diffusion.VELOCITY, diffusion.FLOW, time=WORLDS['flow'][1])
    logsnr = LEVELS.astype(np.float32)
    found = denoiser.prediction((), z, logsnr, None, train=True)
    assert options == [{'train': True}]
    level = LEVELS[:, None, None, None]
    x, eps = expectations64(z.astype(np.float64), level, alpha_sigma64)
    np.testing.assert_allclose(found, eps - x, rtol=0, atol=2e-5)


@pytest.mark.usefixtures('unchecked')
def test_one_level_for_all_images():
    denoiser = Denoiser(
        exact_network('edm', PREDICTIONS['eps']),
        diffusion.EPS,
        diffusion.EDM,
        time=WORLDS['edm'][1],
    )
    z = z_of_levels()
    for_all = denoiser.eps((), z, jnp.float32(0.5), None)
    one_each = denoiser.eps((), z, jnp.full(len(z), 0.5), None)
    np.testing.assert_array_equal(for_all, one_each)
    with pytest.raises(ValueError, match='shape'):
        denoiser.eps((), z, jnp.zeros(3), None)


def test_another_time_can_be_shown_to_the_network_alone():
    seen = []

    def network(params, y, time, condition):
        seen.append((y, time))
        return y

    denoiser = Denoiser(network, diffusion.X, diffusion.EDM, time=lambda logsnr: 10.0 * logsnr)
    z = z_of_levels()
    plain = denoiser.predict((), z, 1.0, None)
    shown = denoiser.predict((), z, 1.0, None, shown_logsnr=3.0)
    np.testing.assert_array_equal(seen[1][0], seen[0][0])  # scaled by the true level
    np.testing.assert_array_equal(seen[0][1], np.full(len(z), 10.0))
    np.testing.assert_array_equal(seen[1][1], np.full(len(z), 30.0))
    np.testing.assert_array_equal(shown.eps, plain.eps)


class Learned:
    """eps of the Gaussian, and h in [-1, 1] per pixel, whatever z."""

    def __init__(self, shape):
        self.h = np.random.default_rng(5).uniform(-1, 1, size=shape).astype(np.float32)

    def __call__(self, params, z, logsnr, condition):
        eps = exact_network('variance_preserving', PREDICTIONS['eps'])(params, z, logsnr, None)
        return jnp.concatenate([eps, self.h[: len(z)]], axis=-1)


def test_learned_variance_is_the_second_half():
    network = Learned(SHAPE)
    denoiser = Denoiser(network, learned_variance=True)
    z = z_of_levels()
    prediction = denoiser.predict((), z, LEVELS.astype(np.float32), None)
    np.testing.assert_allclose(prediction.v, (network.h + 1) / 2, rtol=1e-6)
    plain = Denoiser(exact_network('variance_preserving', PREDICTIONS['eps']))
    np.testing.assert_array_equal(prediction.eps, plain.eps((), z, LEVELS.astype(np.float32), None))


def test_learned_variance_reaches_the_ancestral_sampler():
    """From one level to the last: z' ~ N(mean, (sigma~^2)^(1 - v) (sigma^2)^v), v of each pixel.

    The spread over 4,000 images of the same z_1 is that of the transition.
    """
    count, shape = 4000, (2, 2, 1)
    network = Learned((1, *shape))
    network.h = np.broadcast_to(network.h, (count, *shape))
    denoiser = Denoiser(network, learned_variance=True)

    class Predict:
        def init(self, z):
            return ()

        def __call__(self, z, logsnr, state, step=None):
            return denoiser.predict((), z, logsnr, None), state

    grid = Grid(CosineSchedule(-2.0, 3.0))
    sampler = Ancestral(num_steps=2, v=0.3, clip=False, grid=grid)
    z = jnp.broadcast_to(jax.random.normal(jax.random.key(0), shape), (count, *shape))
    keys = jax.random.split(jax.random.key(1), count)
    x = np.asarray(jax.jit(functools.partial(sample_loop, sampler, Predict()))(z, keys)[0])
    v = (network.h[0].astype(float) + 1) / 2
    assert v.max() - v.min() > 0.3
    ((_, sigma), (alpha_p, sigma_p)) = (alpha_sigma64(level) for level in (-2.0, 3.0))
    added = (1 - np.exp(-5.0)) * sigma_p ** (2 * (1 - v)) * sigma ** (2 * v)
    gain = alpha_p * S**2 / ((alpha_p * S) ** 2 + sigma_p**2)  # of x~ at the last level
    expected = gain * np.sqrt(added)
    # The standard error of a standard deviation is 1 / sqrt(2 n) of it.
    np.testing.assert_allclose(x.std(axis=0), expected, rtol=5 / np.sqrt(2 * count))


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('shape', [(4, 1, 1, 1), (4, 8, 8, 1), (1, 8, 8, 3), (4, 8, 8, 6)])
@pytest.mark.parametrize('target', TARGETS)
def test_an_output_of_another_shape_is_refused_while_tracing(shape, target):
    denoiser = Denoiser(lambda *_: jnp.zeros(shape), TARGETS.load(target))
    z = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    for method in (denoiser.eps, denoiser.prediction):
        with pytest.raises(ValueError, match='network_output has the shape'):
            jax.eval_shape(lambda z, method=method: method((), z, 0.0, None), z)


@pytest.mark.usefixtures('unchecked')
def test_a_learned_variance_needs_twice_the_channels():
    denoiser = Denoiser(lambda params, z, *_: z, learned_variance=True)
    z = jax.ShapeDtypeStruct((4, 8, 8, 2), jnp.float32)
    with pytest.raises(ValueError, match='network_output has the shape'):
        jax.eval_shape(lambda z: denoiser.eps((), z, 0.0, None), z)
