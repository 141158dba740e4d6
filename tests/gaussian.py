"""Gaussian data x ~ N(M, S^2) in closed form: schedule, transitions, exact eps, exact samples.

The exact eps(z) = sigma (z - alpha m) / (alpha^2 s^2 + sigma^2) is linear in z, so the mean and the
variance at each level of a sampler follow exactly from those at the level before.
"""

import functools

import jax
import numpy as np

from cfg_jax import diffusion, samplers
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.samplers.grids import Grid

M, S = 0.3, 0.5
SHAPE = (4, 4, 1)
FAST_COMPILE = {'xla_backend_optimization_level': 1}  # compiling takes most of the time here


def alpha_sigma64(logsnr):
    """(alpha, sigma) in float64: alpha^2 = 1 / (1 + exp(-logsnr)), sigma^2 = 1 - alpha^2."""
    logsnr = np.asarray(logsnr, np.float64)
    return (1 + np.exp(-logsnr)) ** -0.5, (1 + np.exp(logsnr)) ** -0.5


def levels64(num_steps, logsnr_min=-20.0, logsnr_max=20.0):
    """(logsnr, alpha, sigma), each [T], by the paper's formula."""
    u = (num_steps - np.arange(1, num_steps + 1)) / (num_steps - 1)
    b = np.arctan(np.exp(-logsnr_max / 2))
    logsnr = -2 * np.log(np.tan((np.arctan(np.exp(-logsnr_min / 2)) - b) * u + b))
    return logsnr, *alpha_sigma64(logsnr)


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
    """The exact eps of the Gaussian data, float32; logsnr [] or [B]."""
    logsnr = diffusion.broadcast_to_images(logsnr, z)
    alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
    return sigma * (z - alpha * M) / ((alpha * S) ** 2 + sigma**2)


def gaussian_eps64(z, logsnr):
    """The same in float64; logsnr []."""
    alpha, sigma = alpha_sigma64(logsnr)
    return sigma * (z - alpha * M) / ((alpha * S) ** 2 + sigma**2)


def make(name, v, num_steps, clip=False, **limits):
    """The sampler of that name as sample(eps_fn, z, keys)."""
    settings = {'v': v} if name == 'ancestral' else {}
    grid = Grid(CosineSchedule(**limits))
    return functools.partial(
        getattr(samplers, name), num_steps=num_steps, clip=clip, grid=grid, **settings
    )


@functools.cache
def start(count=8):
    """(z_1, keys) of `count` images."""
    z = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)
    return z, jax.random.split(jax.random.key(0), count)


def run(sampler, eps_fn, z, keys):
    """Images of a sampler of `make`, compiled."""
    sample = jax.jit(functools.partial(sampler, eps_fn), compiler_options=FAST_COMPILE)
    return np.asarray(sample(z, keys))


@functools.cache
def gaussian_samples(name, v, num_steps, count):
    """(z_1, images) of the Gaussian data, float64."""
    z, keys = start(count)
    x = run(make(name, v, num_steps), gaussian_eps, z, keys)
    return np.asarray(z, np.float64), np.asarray(x, np.float64)
