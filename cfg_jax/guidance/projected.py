"""Adaptive projected guidance (Sadat et al. 2024)."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.diffusion import ImageArray, Images, PerImage, broadcast_to_images, check_same_shape
from cfg_jax.guidance import GuidanceLevel, Predictions, Rule

_NOISIEST = 160.0  # noise level sigma / alpha; DDPM's 1,000 steps of linear beta begin at 157


@dataclasses.dataclass(frozen=True)
class Projected(Rule):
    """x~ = x_cond + w (g_perp + eta g_par), of the averaged and shortened difference g in x.

    With denoised predictions x = (z - sigma eps) / alpha, per image and over all its pixels,

        g_t = x_cond - x_uncond + momentum g_{t-1}     (the running sum, from 0)
        g = g_t min(1, radius / |g_t|) = g_par + g_perp along x_cond.

    eta = 1, radius = infinity and momentum = 0 are the paper's rule. Levels noisier than those of
    published models, as the paper's grid begins with, stay out of the sum: at sigma / alpha of
    22,026 the difference in x is that of the network's errors, and would outlast ten levels.

    Attributes:
      eta: share of the parallel part that is kept; the published default is 0.
      radius: largest |g|, in the units of images in [-1, 1]; grows with the square root of the
        number of pixels.
      momentum: of the running difference; published values are negative, -0.5 to -0.75.
    """

    eta: float = 0.0
    radius: float = math.inf
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not self.radius > 0 or not abs(self.momentum) < 1:
            raise ValueError(
                f'radius is above 0 and |momentum| below 1; got {self.radius} and {self.momentum}'
            )

    @property
    def revision(self) -> int:  # type: ignore[override]
        """Of the running sum."""
        return 1 if self.momentum else 0

    def init(self, z: jax.Array) -> Any:
        """The running difference, in x; nothing without momentum."""
        return jnp.zeros_like(z) if self.momentum else ()

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps of x_cond + w (g_perp + eta g_par), [B, H, W, C]; the state is the running sum."""
        eps_cond, eps_uncond = predictions
        z, logsnr = level.z, level.logsnr
        difference = eps_cond - eps_uncond
        if self.momentum:
            # x - x' = -(sigma / alpha) (eps - eps'): the sum is kept in x, as published.
            ratio = broadcast_to_images(jnp.exp(-0.5 * logsnr), z)
            state = -ratio * difference + self.momentum * state
            difference = -state / ratio
            state = jnp.where(ratio > _NOISIEST, 0.0, state)
        return project(eps_cond, difference, z, logsnr, w, eta=self.eta, radius=self.radius), state


def project(
    eps_cond: Images,
    difference: Images,
    z: Images,
    logsnr: PerImage,
    w: PerImage,
    *,
    eta: float = 0.0,
    radius: float = math.inf,
) -> ImageArray:
    """eps_cond + w (d_perp + eta d_par) with d the shortened difference in eps, [B, H, W, C].

    Computed in eps, which stays finite at small alpha: x - x' = -(sigma / alpha) (eps - eps'), and
    x_cond points where z - sigma eps_cond does. |(sigma / alpha) d| is at most `radius`.

    Args:
      eps_cond, z: [B, H, W, C].
      difference: eps_cond - eps_uncond, [B, H, W, C].
      logsnr: one for all, [], or one per image, [B].
      w: guidance weight, a scalar or one per image, [B].
      eta, radius: see `Projected`.

    Raises:
      ValueError: shapes that do not agree.
    """
    check_same_shape(eps_cond=eps_cond, difference=difference, z=z)
    axes = tuple(range(1, z.ndim))
    alpha = broadcast_to_images(diffusion.alpha(logsnr), z)
    sigma = broadcast_to_images(diffusion.sigma(logsnr), z)
    along = z - sigma * eps_cond
    inner = jnp.sum(difference * along, axes, keepdims=True)
    squared = jnp.sum(jnp.square(along), axes, keepdims=True)
    parallel = inner / jnp.maximum(squared, jnp.finfo(z.dtype).tiny) * along
    length = jnp.sqrt(jnp.sum(jnp.square(difference), axes, keepdims=True))
    # min(1, radius / |g|) with |g| = sigma / alpha |difference|; true for an infinite radius too.
    scale = jnp.where(sigma * length > radius * alpha, radius * alpha / (sigma * length), 1.0)
    kept = difference - (1.0 - eta) * parallel
    return jnp.asarray(eps_cond) + broadcast_to_images(w, z) * scale * kept
