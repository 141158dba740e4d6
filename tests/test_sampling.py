"""Samplers against Algorithm 2 written in float64 NumPy, and on Gaussian data in closed form.

Data x ~ N(m, s^2) has the exact eps(z) = sigma (z - alpha m) / (alpha^2 s^2 + sigma^2). It is
linear in z, so mean and variance at each level follow exactly from those at the level before.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import (
    diffusion,
    sampling,
)

M, S = 0.3, 0.5  # of the Gaussian data
SHAPE = (4, 4, 1)
FAST_COMPILE = {'xla_backend_optimization_level': 1}  # compiling takes most of the time here
ANCESTRAL = [('ancestral', v) for v in (0.0, 0.3, 1.0)]
ALL = [*ANCESTRAL, ('ddim', 0.0)]


def levels64(num_steps, logsnr_min=-20.0, logsnr_max=20.0):
    """(logsnr, alpha, sigma), each [T], by the paper's formula."""
    u = (num_steps - np.arange(1, num_steps + 1)) / (num_steps - 1)
    b = np.arctan(np.exp(-logsnr_max / 2))
    logsnr = -2 * np.log(np.tan((np.arctan(np.exp(-logsnr_min / 2)) - b) * u + b))
    return logsnr, (1 + np.exp(-logsnr)) ** -0.5, (1 + np.exp(logsnr)) ** -0.5


def transition64(name, v, level, next_level):
    """(weight of z, weight of x, variance) of z' given z and x, in float64."""
    (logsnr, alpha, sigma), (logsnr_p, alpha_p, sigma_p) = level, next_level
    if name == 'ddim':  # z' = alpha' x + sigma' (z - alpha x) / sigma
        return sigma_p / sigma, alpha_p - alpha * sigma_p / sigma, 0.0
    r = np.exp(logsnr - logsnr_p)
    variance = ((1 - r) * sigma_p**2) ** (1 - v) * ((1 - r) * sigma**2) ** v
    return r * alpha_p / alpha, (1 - r) * alpha_p, variance


def reference_sampler(eps_fn, z, keys, num_steps, name, v, clip, **limits):
    """Algorithm 2 in float64; only the noise comes from JAX, by the documented keys."""
    z = np.asarray(z, np.float64)
    levels = list(zip(*levels64(num_steps, **limits), strict=True))
    for t, (logsnr, alpha, sigma) in enumerate(levels):
        x = (z - sigma * eps_fn(z, logsnr)) / alpha
        x = np.clip(x, -1, 1) if clip else x
        if t == num_steps - 1:
            return x
        z_weight, x_weight, variance = transition64(name, v, levels[t], levels[t + 1])
        step_keys = [jax.random.fold_in(key, t) for key in keys]
        noise = np.stack([jax.random.normal(key, z.shape[1:]) for key in step_keys])
        z = z_weight * z + x_weight * x + np.sqrt(variance) * noise
    return None


def gaussian_moments(name, v, num_steps):
    """Exact mean and standard deviation of the sampler's output on Gaussian data."""
    levels = list(zip(*levels64(num_steps), strict=True))
    mean, variance = 0.0, 1.0  # of z_1
    for t, (_, alpha, sigma) in enumerate(levels):
        gain = alpha * S**2 / ((alpha * S) ** 2 + sigma**2)  # E[x | z] = m + gain (z - alpha m)
        offset = M * (1 - gain * alpha)
        if t < num_steps - 1:
            z_weight, x_weight, added = transition64(name, v, levels[t], levels[t + 1])
            slope = z_weight + x_weight * gain
            mean, variance = slope * mean + x_weight * offset, slope**2 * variance + added
    return gain * mean + offset, gain * np.sqrt(variance)


def gaussian_eps(z, logsnr):
    """The exact eps of the Gaussian data, float32."""
    alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
    return sigma * (z - alpha * M) / ((alpha * S) ** 2 + sigma**2)


def gaussian_eps64(z, logsnr):
    alpha, sigma = (1 + np.exp(-logsnr)) ** -0.5, (1 + np.exp(logsnr)) ** -0.5
    return sigma * (z - alpha * M) / ((alpha * S) ** 2 + sigma**2)


def make(name, v, num_steps, clip=False):
    return sampling.make_sampler(name, num_steps=num_steps, v=v, clip=clip)


@functools.cache
def start(count=8):
    """(z_1, keys) of `count` images."""
    z = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)
    return z, jax.random.split(jax.random.key(0), count)


def run(sampler, eps_fn, z, keys):
    sample = jax.jit(functools.partial(sampler, eps_fn), compiler_options=FAST_COMPILE)
    return np.asarray(sample(z, keys))


@functools.cache
def gaussian_samples(name, v, num_steps, count):
    z, keys = start(count)
    x = run(make(name, v, num_steps), gaussian_eps, z, keys)
    return np.asarray(z, np.float64), np.asarray(x, np.float64)


def test_levels_are_equally_spaced_on_the_schedule():
    for num_steps in (2, 3, 128, 1024):
        levels = sampling.logsnr_levels(num_steps)
        assert levels.shape == (num_steps,)
        assert (float(levels[0]), float(levels[-1])) == (-20.0, 20.0)
        # Rounding u_t by 6e-8 moves logsnr by up to |dlogsnr/du| 6e-8, steep beside the ends.
        expected = levels64(num_steps)[0]
        slope = np.pi * np.cosh(expected / 2)
        np.testing.assert_array_less(
            np.abs(levels - expected), 4e-6 + 1e-7 * slope * (np.abs(expected) < 20)
        )
        assert np.all(np.diff(levels) > 0)
    assert (float(sampling.logsnr_levels(5, -9.0, 4.0)[0])) == pytest.approx(-9.0, abs=2e-6)
    assert (float(sampling.logsnr_levels(5, -9.0, 4.0)[-1])) == pytest.approx(4.0, abs=2e-6)


@pytest.mark.parametrize('num_steps', [1, 0, -3])
def test_fewer_than_two_levels_are_refused(num_steps):
    z, keys = start()
    for name in sampling.SAMPLERS:
        with pytest.raises(ValueError, match='at least 2'):
            make(name, 0.0, num_steps)(gaussian_eps, z, keys)


def test_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match=r"'heun'.*ancestral, ddim"):
        sampling.make_sampler('heun', num_steps=4)


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


@pytest.mark.parametrize('name', sampling.SAMPLERS)
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


@pytest.mark.parametrize('name', sampling.SAMPLERS)
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


def test_ddim_approaches_the_probability_flow():
    """Its map of Gaussian data is x = m + s (z_1 - alpha_1 m) / sqrt(alpha_1^2 s^2 + sigma_1^2)."""
    _, alpha, sigma = levels64(2)
    errors = []
    for num_steps in (8, 32, 128):
        z, x = gaussian_samples('ddim', 0.0, num_steps, 64)
        flow = M + S * (z - alpha[0] * M) / np.hypot(alpha[0] * S, sigma[0])
        errors.append(np.abs(x - flow).max())
        mean, std = gaussian_moments('ddim', 0.0, num_steps)
        # Affine in z_1, path by path; 2e-3 is the rounding of x~ = 22026 (z - sigma eps).
        np.testing.assert_allclose(x, mean + std * z, rtol=0, atol=2e-3)
    # First order: a quarter of the step, about a quarter of the error.
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.3 * errors[1]


@pytest.mark.parametrize(('name', 'v'), ANCESTRAL)
def test_ancestral_error_falls_with_the_steps(name, v):
    errors = [abs(gaussian_samples(name, v, t, 4096)[1].std() - S) for t in (8, 64, 256)]
    five_standard_errors = 5 * S / np.sqrt(2 * 4096 * np.prod(SHAPE))
    assert errors[1] + five_standard_errors < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]  # at v = 1 already as small as the Monte-Carlo error


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


def test_ddim_needs_no_keys():
    z, keys = start()
    with_keys = run(make('ddim', 0.0, 4), gaussian_eps, z, keys)
    np.testing.assert_array_equal(run(make('ddim', 0.0, 4), gaussian_eps, z, None), with_keys)


def test_noise_of_an_image_is_drawn_from_its_key():
    keys = jax.random.split(jax.random.key(0), 5)
    noise = sampling.per_image_noise(keys, (3, 2, 1))
    for i in range(5):
        np.testing.assert_array_equal(noise[i], jax.random.normal(keys[i], (3, 2, 1)))


def test_v_can_be_traced():
    z, keys = start()
    traces = []

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def sample(v):
        traces.append(v)
        return sampling.ancestral(gaussian_eps, z, keys, num_steps=6, v=v, clip=False)

    static = run(make('ancestral', 0.7, 6), gaussian_eps, z, keys)
    np.testing.assert_allclose(sample(0.7), static, rtol=0, atol=1e-3)
    assert np.abs(sample(0.0) - static).max() > 0.1
    assert len(traces) == 1


@pytest.mark.parametrize(('name', 'v'), [('ancestral', 0.7), ('ddim', 0.0)])
def test_make_sampler_binds_its_settings(name, v):
    z, keys = start()
    limits = {'logsnr_min': -12.0, 'logsnr_max': 8.0}
    made = sampling.make_sampler(name, num_steps=5, v=v, clip=False, **limits)
    expected = reference_sampler(gaussian_eps64, z, keys, 5, name, v, clip=False, **limits)
    np.testing.assert_allclose(run(made, gaussian_eps, z, keys), expected, rtol=0, atol=1e-4)
