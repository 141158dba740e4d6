"""Rules that combine predictions under several conditions into one eps.

Convention, everywhere in this repository: `w` is the paper's guidance weight. w = 0 is the plain
conditional model; the scale `s` of many other codebases is s = 1 + w.

After the paper's rule follow later ones, each with its source: guidance in an interval of noise
levels, autoguidance, and adaptive projected guidance.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cfg_jax import diffusion
from cfg_jax.diffusion import broadcast_to_images

# eps_theta(z [B, H, W, C], logsnr [B], label int32 [B]) -> eps [B, H, W, C]
EpsTheta = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# What a sampler sees: eps_fn(z [B, H, W, C], logsnr []) -> eps [B, H, W, C]
EpsFn = Callable[[jax.Array, jax.Array], jax.Array]
# pair_fn(z [B, H, W, C], logsnr []) -> conditional and unconditional eps [B, H, W, C]
PairFn = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def guide(eps_cond: jax.Array, eps_uncond: jax.Array, w: ArrayLike) -> jax.Array:
    """eps~ = (1 + w) eps_cond - w eps_uncond, eq. (6); `w` is a scalar or one value per image."""
    w = broadcast_to_images(w, eps_cond)
    return (1.0 + w) * eps_cond - w * eps_uncond


def conditional(eps_theta: EpsTheta, label: jax.Array) -> EpsFn:
    """The unguided eps_theta(z, c): eq. (6) at w = 0, one network pass a step."""

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        return eps_theta(z, jnp.broadcast_to(logsnr, z.shape[:1]), label)

    return eps_fn


def pair(eps_theta: EpsTheta, label: jax.Array, null_label: int) -> PairFn:
    """eps_theta(z, c) and eps_theta(z) together.

    Mapped over the two labels of an image, the network runs both branches as one batch of 2B, and
    what does not depend on the label once, on z.
    """
    both_labels = jnp.stack([label, jnp.full_like(label, null_label)])  # [2, B]
    of_both = jax.vmap(eps_theta, in_axes=(None, None, 0))

    def pair_fn(z: jax.Array, logsnr: jax.Array) -> tuple[jax.Array, jax.Array]:
        eps_cond, eps_uncond = of_both(z, jnp.broadcast_to(logsnr, z.shape[:1]), both_labels)
        return eps_cond, eps_uncond

    return pair_fn


def classifier_free(eps_theta: EpsTheta, label: jax.Array, null_label: int, w: ArrayLike) -> EpsFn:
    """Classifier-free guidance, eq. (6) and line 4 of Algorithm 2.

    `w` may be traced: one compilation serves every guidance weight.
    """
    pair_fn = pair(eps_theta, label, null_label)
    return lambda z, logsnr: guide(*pair_fn(z, logsnr), w)


def logsnr_of_noise_level(noise_level: float) -> float:
    """logsnr = -2 ln s of the noise level s = sigma / alpha in which EDM's papers speak.

    s = 0 is clean (infinity), s = infinity pure noise (-infinity).

    Raises:
      ValueError: a negative level.
    """
    if noise_level < 0:
        raise ValueError(f'a noise level is at least 0; got {noise_level}')
    return -2.0 * math.log(noise_level) if noise_level else math.inf


def in_interval(
    guided: EpsFn, unguided: EpsFn, lowest: float = 0.0, highest: float = math.inf
) -> EpsFn:
    """Guidance at noise levels s in (lowest, highest], none elsewhere, where its pass is saved.

    Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and
    Distribution Quality", with s = sigma / alpha = exp(-logsnr / 2): logsnr in [-2 ln highest,
    -2 ln lowest). The level is that of the step, one for all images.
    """
    first, end = logsnr_of_noise_level(highest), logsnr_of_noise_level(lowest)

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        inside = (first <= logsnr) & (logsnr < end)
        return jax.lax.cond(inside, guided, unguided, z, logsnr)

    return eps_fn


def autoguidance(main: EpsFn, guide_fn: EpsFn, w: ArrayLike) -> EpsFn:
    """eps~ = (1 + w) eps_main(z, c) - w eps_guide(z, c): away from a worse version of the model.

    Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", whose weight is
    1 + w. Both are given the same condition; the guide is smaller or trained less.
    """

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        return guide(main(z, logsnr), guide_fn(z, logsnr), w)

    return eps_fn


def project(
    eps_cond: jax.Array,
    eps_uncond: jax.Array,
    z: jax.Array,
    logsnr: ArrayLike,
    w: ArrayLike,
    *,
    eta: float = 0.0,
    radius: float = math.inf,
) -> jax.Array:
    """Adaptive projected guidance without momentum (Sadat et al. 2024), [B, H, W, C].

    With denoised predictions x = (z - sigma eps) / alpha, per image and over all its pixels,

        g = x_cond - x_uncond,  g <- g min(1, radius / |g|),  g = g_par + g_perp along x_cond,
        x~ = x_cond + w (g_perp + eta g_par).

    eta = 1 and radius = infinity are eq. (6). It is computed in eps, which stays finite at small
    alpha: x - x' = -(sigma / alpha) (eps - eps'), and x_cond points where z - sigma eps_cond does.
    The momentum of their method is left out: it would need a state that samplers do not carry.

    Args:
      eps_cond, eps_uncond, z: [B, H, W, C].
      logsnr: one for all, [], or one per image, [B].
      w: guidance weight, a scalar or one per image, [B].
      eta: share of the parallel part that is kept; the paper's default is 0.
      radius: largest |g|, in the units of images in [-1, 1]; grows with the square root of the
        number of pixels.
    """
    axes = tuple(range(1, z.ndim))
    alpha = broadcast_to_images(diffusion.alpha(logsnr), z)
    sigma = broadcast_to_images(diffusion.sigma(logsnr), z)
    difference = eps_cond - eps_uncond
    along = z - sigma * eps_cond
    inner = jnp.sum(difference * along, axes, keepdims=True)
    squared = jnp.sum(jnp.square(along), axes, keepdims=True)
    parallel = inner / jnp.maximum(squared, jnp.finfo(z.dtype).tiny) * along
    length = jnp.sqrt(jnp.sum(jnp.square(difference), axes, keepdims=True))
    # min(1, radius / |g|) with |g| = sigma / alpha |difference|; true for an infinite radius too.
    scale = jnp.where(sigma * length > radius * alpha, radius * alpha / (sigma * length), 1.0)
    kept = difference - (1.0 - eta) * parallel
    return eps_cond + broadcast_to_images(w, z) * scale * kept
