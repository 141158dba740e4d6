"""Samplers against Algorithm 2 written in float64 NumPy, and on Gaussian data in closed form."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import (
    FAST_COMPILE,
    M,
    S,
    gaussian_eps,
    gaussian_eps64,
    gaussian_moments,
    gaussian_samples,
    levels64,
    make,
    reference_sampler,
    run,
    start,
)
from support import user_error

from cfg_jax import diffusion, samplers
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers import SAMPLERS

ALL = [*(('ancestral', v) for v in (0.0, 0.3, 1.0)), ('ddim', 0.0)]
NAMES = [name for name in SAMPLERS if name in ('ancestral', 'ddim')]


@pytest.mark.parametrize('num_steps', [1, 0, -3])
def test_fewer_than_two_levels_are_refused(num_steps):
    z, keys = start()
    for name in SAMPLERS:
        with pytest.raises(ValueError, match='at least 2'):
            getattr(samplers, name)(gaussian_eps, z, keys, num_steps=num_steps)


def test_unknown_sampler_is_refused():
    message = user_error(SAMPLERS.make, 'leapfrog')
    assert "'leapfrog'" in message
    assert ', '.join(SAMPLERS) in message
    with pytest.raises(AttributeError, match='leapfrog'):
        samplers.leapfrog  # noqa: B018


@pytest.mark.parametrize('name', NAMES)
def test_a_sampler_stays_a_function_after_its_file_is_imported(name):
    importlib.import_module(f'cfg_jax.samplers.{name}')
    assert getattr(samplers, name).__name__ == name
    assert getattr(samplers, name).__doc__ == SAMPLERS[name].summary


@pytest.mark.parametrize(('name', 'v'), ALL)
def test_sampler_is_algorithm_2(name, v):
    """Path by path: with the Gaussian's eps, and with one whose x~ is clipped."""
    z, keys = start()

    def curved(z, _):
        return jnp.sin(2 * z)

    # x~ = (z - sigma eps) / alpha multiplies the rounding of the first level by 22026: 1e-3.
    x = run(make(name, v, 7), gaussian_eps, z, keys)
    expected = reference_sampler(gaussian_eps64, z, keys, 7, name, v, clip=False)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-3)
    x = run(make(name, v, 7, clip=True), curved, z, keys)
    expected = reference_sampler(lambda z, _: np.sin(2 * z), z, keys, 7, name, v, clip=True)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_t_levels_are_t_calls_from_noise_to_data(name):
    z, keys = start()
    seen = []

    def eps_fn(z, logsnr):
        jax.debug.callback(lambda value: seen.append(float(value)), logsnr, ordered=True)
        return gaussian_eps(z, logsnr)

    run(make(name, 0.3, 5), eps_fn, z, keys)
    jax.effects_barrier()
    np.testing.assert_allclose(seen, levels64(5)[0], rtol=0, atol=1e-5)
    assert (seen[0], seen[-1]) == (-20.0, 20.0)


@pytest.mark.parametrize(('name', 'v'), ALL)
def test_last_level_returns_x_without_noise(name, v):
    """A network that is sure of x gives x itself; noise of sigma(20) = 4.5e-5 would show."""
    z, keys = start()
    x = np.random.default_rng(0).uniform(-1, 1, size=z.shape).astype(np.float32)

    def eps_fn(z, logsnr):
        return diffusion.eps_from_x(z, x, logsnr)

    np.testing.assert_allclose(run(make(name, v, 4), eps_fn, z, keys), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_clip_keeps_images_in_range(name):
    z, keys = start()

    def wild(z, logsnr):  # x~ = (1 / alpha - 1e6 sigma / alpha) z: -44 z even at logsnr_max
        return 1e6 * z

    clipped = run(make(name, 0.3, 4, clip=True), wild, z, keys)
    assert np.abs(clipped).max() == 1.0
    assert np.abs(run(make(name, 0.3, 4, clip=False), wild, z, keys)).max() > 1.0


@pytest.mark.parametrize(('name', 'v'), ALL)
@pytest.mark.parametrize('num_steps', [8, 64])
def test_moments_are_those_of_the_exact_recursion(name, v, num_steps):
    _, x = gaussian_samples(name, v, num_steps, 4096)
    mean, std = gaussian_moments(name, v, num_steps)
    # Standard errors: std / sqrt(n) of a mean, std / sqrt(2 n) of a standard deviation.
    assert abs(x.mean() - mean) < 5 * std / np.sqrt(x.size)
    assert abs(x.std() - std) < 5 * std / np.sqrt(2 * x.size)


@pytest.mark.parametrize(('name', 'v'), ALL)
def test_256_steps_reproduce_the_data(name, v):
    """Up to Monte-Carlo error and the known bias of 256 steps, at most 1.5 % of s."""
    _, x = gaussian_samples(name, v, 256, 4096)
    mean, std = gaussian_moments(name, v, 256)
    assert abs(mean - M) < 1e-4
    assert abs(std - S) < 0.015 * S
    assert abs(x.mean() - M) < 1e-4 + 5 * S / np.sqrt(x.size)
    assert abs(x.std() - S) < abs(std - S) + 5 * S / np.sqrt(2 * x.size)
    assert abs(x.std() - std) < 5 * S / np.sqrt(2 * x.size)


@pytest.mark.parametrize(('name', 'v'), [('ancestral', 0.3), ('ddim', 0.0)])
def test_an_image_does_not_depend_on_its_batch(name, v):
    z, keys = start()
    sampler = functools.partial(make(name, v, 6, clip=True), lambda z, _: jnp.tanh(z))
    sample = jax.jit(sampler, compiler_options=FAST_COMPILE)
    together = np.asarray(sample(z, keys))
    for rows in (np.array([5, 0, 7, 3, 1, 6, 4, 2]), np.arange(3, 6)):
        np.testing.assert_allclose(sample(z[rows], keys[rows]), together[rows], rtol=0, atol=1e-5)
    if name == 'ancestral':  # and it does depend on its own key
        other = sample(z, keys[::-1])
        assert np.all(np.abs(other - together).max(axis=(1, 2, 3)) > 1e-2)


@pytest.mark.usefixtures('unchecked')
def test_as_many_keys_as_images():
    z, keys = start()
    for name in NAMES:
        for some in (keys[:1], keys[:5], keys[0]):
            with pytest.raises(ValueError, match='need as many keys'):
                make(name, 0.3, 4)(gaussian_eps, z, some)


@pytest.mark.usefixtures('unchecked')
def test_eps_of_another_shape_is_refused():
    """Broadcasting would hide it: [B, 1, 1, 1], one image for all, one channel of three."""
    z, keys = start()
    wide = jnp.broadcast_to(z, (*z.shape[:-1], 3))
    for eps_fn in (
        lambda z, _: z.mean(axis=(1, 2, 3), keepdims=True),
        lambda z, _: z[:1],
        lambda z, _: z[..., :1],
    ):
        with pytest.raises(ValueError, match='shape'):
            jax.eval_shape(functools.partial(make('ddim', 0.0, 4), eps_fn), wide, keys)


def test_noise_of_an_image_is_drawn_from_its_key():
    keys = jax.random.split(jax.random.key(0), 5)
    noise = per_image_noise(keys, (3, 2, 1))
    for i in range(5):
        np.testing.assert_array_equal(noise[i], jax.random.normal(keys[i], (3, 2, 1)))


@pytest.mark.parametrize(('name', 'v'), [('ancestral', 0.7), ('ddim', 0.0)])
def test_a_sampler_binds_its_settings(name, v):
    z, keys = start()
    limits = {'logsnr_min': -12.0, 'logsnr_max': 8.0}
    made = make(name, v, 5, **limits)
    expected = reference_sampler(gaussian_eps64, z, keys, 5, name, v, clip=False, **limits)
    np.testing.assert_allclose(run(made, gaussian_eps, z, keys), expected, rtol=0, atol=1e-4)
