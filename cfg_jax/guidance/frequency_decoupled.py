"""Frequency-decoupled guidance (FDG, Sadat et al. 2025)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, Images, PerImage, broadcast_to_images, check_same_shape
from cfg_jax.guidance import GuidanceLevel, Predictions, Rule


def low_pass(image: Images) -> ImageArray:
    """One level of a Laplacian pyramid's low band: blur by (1, 4, 6, 4, 1) / 16 both ways.

    [B, H, W, C], edges repeated. image - low_pass(image) is the high band.
    """
    image = jnp.asarray(image)
    taps = jnp.asarray([1.0, 4.0, 6.0, 4.0, 1.0], image.dtype) / 16.0
    for axis in (1, 2):
        padding = [(0, 0)] * image.ndim
        padding[axis] = (2, 2)
        padded = jnp.pad(image, padding, mode='edge')
        size = image.shape[axis]
        image = jnp.zeros_like(image)
        for i, tap in enumerate(taps):
            image = image + tap * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
    return image


@dataclasses.dataclass(frozen=True)
class FrequencyDecoupled(Rule):
    """eps(z, c) + w (low L(g) + high (g - L(g))), g = eps(z, c) - eps(z), L a low pass.

    low = high = 1 is the paper's rule. The bands are linear, so the space does not matter.

    Attributes:
      low, high: of w, for each band; the published choice is a smaller weight at low frequencies.
    """

    low: float = 0.5
    high: float = 1.0

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps(z, c) + w (low L(g) + high (g - L(g))), [B, H, W, C]."""
        eps_cond, eps_uncond = predictions
        check_same_shape(eps_cond=eps_cond, eps_uncond=eps_uncond)
        difference = eps_cond - eps_uncond
        low = low_pass(difference)
        step = self.low * low + self.high * (difference - low)
        return eps_cond + broadcast_to_images(w, level.z) * step, state
