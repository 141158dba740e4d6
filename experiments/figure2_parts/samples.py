"""Guided samples of the exact mixture: no network, no training, no clipping."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import guidance, keys as keys_lib
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.loop import follow
from figure2_parts.gaussian_mixture import exact_eps
from figure2_parts.triangle import MIXTURE, NUM_CLASSES

NUM_STEPS = 512
FEW_STEPS = 128  # four times fewer: shows that the steps are not what separates the two
V = 1.0  # with s = 1 the reverse transition of one class is then exact at every number of steps


def sample(seed: int, num_samples: int, w: float, num_steps: int) -> np.ndarray:
    """Guided samples of every class, [K, num_samples, 2]; the same noise for every w."""
    label = np.repeat(np.arange(NUM_CLASSES), num_samples)
    x = _sample(keys_lib.image_keys(seed, np.arange(len(label))), label, w, num_steps)
    return np.asarray(x, np.float64).reshape(NUM_CLASSES, num_samples, 2)


@functools.partial(jax.jit, static_argnames='num_steps')
def _sample(keys: jax.Array, label: jax.Array, w: jax.Array, num_steps: int) -> jax.Array:
    eps_theta, null = exact_eps(MIXTURE), jnp.full_like(label, NUM_CLASSES)

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        levels = jnp.broadcast_to(logsnr, z.shape[:1])
        return guidance.guide(eps_theta(z, levels, label), eps_theta(z, levels, null), w)

    z = keys_lib.per_image_noise(keys, (2,))
    return follow(Ancestral(num_steps, clip=False, v=V), eps_fn, z, keys)
