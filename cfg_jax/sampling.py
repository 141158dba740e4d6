"""Samplers over one callable `eps_fn(z, logsnr)`: they know nothing of networks or guidance.

Every image carries its own random key, so that its trajectory does not depend on the images it
shares a batch with. A whole trajectory is one `lax.scan`; `num_steps` is static.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cfg_jax import diffusion
from cfg_jax.guidance import EpsFn

SAMPLERS = ('ancestral', 'ddim')
# sampler(eps_fn, z [B, ...], keys [B]) -> x [B, ...]
Sampler = Callable[[EpsFn, jax.Array, jax.Array], jax.Array]
# mean_shift_fn(z [B, ...], logsnr [], variance) -> shift [B, ...], `variance` broadcastable to z
MeanShiftFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# step(t, z, x, logsnr, logsnr_prime) -> z_prime
_Step = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def per_image_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape] from one key per image, keys [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def logsnr_levels(
    num_steps: int,
    logsnr_min: float = diffusion.LOGSNR_MIN,
    logsnr_max: float = diffusion.LOGSNR_MAX,
) -> jax.Array:
    """The T = num_steps levels logsnr_min = l_1 < ... < l_T = logsnr_max, shape [T].

    u is spaced uniformly, u_t = (T - t) / (T - 1) (section 2; the first and last level are the ends
    of the schedule, so T levels mean T evaluations of eps).

    Raises:
      ValueError: fewer than two levels.
    """
    if num_steps < 2:
        raise ValueError(f'num_steps must be at least 2, the two ends; got {num_steps}')
    u = (num_steps - jnp.arange(1, num_steps + 1)) / (num_steps - 1)
    return diffusion.logsnr_cosine(u, logsnr_min, logsnr_max)


def ancestral(
    eps_fn: EpsFn,
    z: jax.Array,
    keys: jax.Array,
    *,
    num_steps: int,
    v: ArrayLike = 0.0,
    clip: bool = True,
    logsnr_min: float = diffusion.LOGSNR_MIN,
    logsnr_max: float = diffusion.LOGSNR_MAX,
    mean_shift_fn: MeanShiftFn | None = None,
) -> jax.Array:
    """Algorithm 2: the paper's ancestral sampler.

    Args:
      eps_fn: the (guided) noise prediction eps~(z, logsnr).
      z: start, z_1 ~ N(0, I), float32 [B, ...].
      keys: one random key per image, [B]; step t uses fold_in(key, t).
      num_steps: T, the number of levels and of calls of eps_fn (static).
      v: exponent of the variance, eq. (4): 0 the posterior's, 1 the forward process's. May be
        traced.
      clip: clip x~ to [-1, 1] before the transition. The paper does not say; its authors' public
        code does, and x~ = (z - sigma eps~) / alpha explodes at small alpha without it.
      logsnr_min, logsnr_max: ends of the schedule.
      mean_shift_fn: added to the mean of every transition, given z, its logsnr and the
        transition's variance: how ADM's ancestral sampler is guided by a classifier
        (`classifier_guidance.mean_shift`).

    Returns:
      x~ at logsnr_max, [B, ...].
    """

    def step(t, z, x, logsnr, logsnr_prime):
        mean, log_variance = diffusion.q_posterior(z, x, logsnr, logsnr_prime, v)
        if mean_shift_fn is not None:
            mean = mean + mean_shift_fn(z, logsnr, jnp.exp(log_variance))
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, t))(keys)
        return mean + jnp.exp(0.5 * log_variance) * per_image_noise(step_keys, z.shape[1:])

    return _run(eps_fn, step, z, logsnr_levels(num_steps, logsnr_min, logsnr_max), clip)


def ddim(
    eps_fn: EpsFn,
    z: jax.Array,
    keys: jax.Array | None = None,
    *,
    num_steps: int,
    clip: bool = True,
    logsnr_min: float = diffusion.LOGSNR_MIN,
    logsnr_max: float = diffusion.LOGSNR_MAX,
) -> jax.Array:
    """DDIM (Song et al. 2021, eta = 0): z' = alpha' x~ + sigma' eps~, deterministic.

    Arguments as in `ancestral`; `keys` is part of every sampler's signature and unused here. With
    `clip`, eps~ is recomputed from the clipped x~, so that both describe the same z.
    """
    del keys

    def step(t, z, x, logsnr, logsnr_prime):
        del t
        return diffusion.q_sample(x, logsnr_prime, diffusion.eps_from_x(z, x, logsnr))

    return _run(eps_fn, step, z, logsnr_levels(num_steps, logsnr_min, logsnr_max), clip)


def make_sampler(
    name: str,
    *,
    num_steps: int,
    v: float = 0.0,
    clip: bool = True,
    logsnr_min: float = diffusion.LOGSNR_MIN,
    logsnr_max: float = diffusion.LOGSNR_MAX,
) -> Sampler:
    """The sampler called `name` ('ancestral' or 'ddim') with its settings bound.

    Raises:
      ValueError: no such sampler.
    """
    settings = {
        'num_steps': num_steps,
        'clip': clip,
        'logsnr_min': logsnr_min,
        'logsnr_max': logsnr_max,
    }
    if name == 'ancestral':
        return functools.partial(ancestral, v=v, **settings)
    if name == 'ddim':
        return functools.partial(ddim, **settings)
    raise ValueError(f'no sampler is called {name!r}; there are: {", ".join(SAMPLERS)}')


def _run(eps_fn: EpsFn, step: _Step, z: jax.Array, levels: jax.Array, clip: bool) -> jax.Array:
    """Runs `step` over consecutive levels; the last level returns x~ itself, without noise."""
    last = len(levels) - 1

    def body(z, inputs):
        t, logsnr, logsnr_prime = inputs
        x = diffusion.x_from_eps(z, eps_fn(z, logsnr), logsnr)
        x = jnp.clip(x, -1.0, 1.0) if clip else x
        # The last level is in the loop too: outside of it the network would be compiled twice.
        z = jax.lax.cond(t == last, lambda: x, lambda: step(t, z, x, logsnr, logsnr_prime))
        return z, None

    primes = jnp.append(levels[1:], levels[-1])  # the last one is not used
    x, _ = jax.lax.scan(body, z, (jnp.arange(len(levels)), levels, primes))
    return x
