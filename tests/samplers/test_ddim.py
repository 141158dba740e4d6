"""DDIM: the probability flow of Gaussian data, and Euler's method on a rectified flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from gaussian import (
    FAST_COMPILE,
    M,
    S,
    gaussian_eps,
    gaussian_moments,
    gaussian_samples,
    levels64,
    make,
    run,
    start,
)

from cfg_jax import diffusion, samplers
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.samplers.grids import Grid


def test_approaches_the_probability_flow():
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


def test_draws_nothing():
    z, keys = start()
    found = run(make('ddim', 0.0, 4), gaussian_eps, z, keys)
    np.testing.assert_array_equal(run(make('ddim', 0.0, 4), gaussian_eps, z, keys[::-1]), found)


def test_is_eulers_method_on_a_rectified_flow():
    """The same network u(y, t), sampled twice.

    There: y = (1 - t) x + t eps, dy/dt = u, from t to t' by y + (t' - t) u; written here in NumPy.
    Here: the variance-preserving z = y / sqrt((1 - t)^2 + t^2), with u as a velocity target in the
    flow scaling, and t = sigmoid(-logsnr / 2).
    """
    kernel = np.random.default_rng(3).normal(size=(2, 2)).astype(np.float32)

    def network(params, y, t, condition):
        t = t.reshape(-1, 1, 1, 1)
        return jnp.tanh(y @ params + t) + condition.reshape(-1, 1, 1, 1) * jnp.cos(y)

    limits = {'logsnr_min': -6.0, 'logsnr_max': 9.0}
    condition = np.float32([0.5, -1.0, 0.0, 2.0])
    z = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
    denoiser = Denoiser(
        network,
        diffusion.VELOCITY,
        diffusion.FLOW,
        time=lambda logsnr: jax.nn.sigmoid(-0.5 * logsnr),
    )

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def by_ddim(z):
        return samplers.ddim(
            lambda z, logsnr: denoiser.eps(kernel, z, logsnr, condition),
            z,
            jax.random.split(jax.random.key(0), 4),
            num_steps=12,
            clip=False,
            grid=Grid(CosineSchedule(**limits)),
        )

    t = 1 / (1 + np.exp(levels64(12, **limits)[0] / 2))
    y = z * np.hypot(1 - t[0], t[0])
    for now, after in zip(t, [*t[1:], 0.0], strict=True):  # the last level goes on to x at t = 0
        u = np.asarray(network(kernel, jnp.float32(y), jnp.full(4, now, jnp.float32), condition))
        y = y + (after - now) * u
    # Rounding in z of a few 1e-7, divided by the alpha = 0.05 of the first level.
    np.testing.assert_allclose(by_ddim(z), y, rtol=0, atol=2e-5)
