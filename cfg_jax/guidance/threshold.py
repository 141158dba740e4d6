"""Thresholding of the guided x (Saharia et al. 2022, Imagen)."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.diffusion import ImageArray, Images, PerImage
from cfg_jax.guidance import GuidanceLevel, Predictions
from cfg_jax.guidance.modifier import Modifier
from cfg_jax.registry import TARGETS


def threshold(x: Images, quantile: float) -> ImageArray:
    """clip(x, -s, s) / s with s = max(1, the quantile of an image's |x|), [B, ...].

    quantile = 0 is static thresholding, s = 1.
    """
    size = jnp.abs(x.reshape(x.shape[0], -1))
    s = jnp.maximum(jnp.quantile(size, quantile, axis=1), 1.0) if quantile else jnp.ones(len(x))
    s = diffusion.broadcast_to_images(s, x)
    return jnp.clip(x, -s, s) / s


@dataclasses.dataclass(frozen=True)
class Threshold(Modifier):
    """The x of the guided prediction is clipped, and eps follows from it.

    For images in [-1, 1], not for latents. Samplers with `clip` clip statically anyway. Where an
    interval does not guide, nothing is thresholded either.

    Attributes:
      quantile: of |x|, dynamic thresholding; 0 for the static one at 1. Published ports take 0.995.
    """

    affine: ClassVar[bool] = False  # type: ignore[override]
    quantile: float = 0.995

    def __post_init__(self) -> None:
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f'quantile is in [0, 1]; got {self.quantile}')

    @property
    def revision(self) -> int:  # type: ignore[override]
        """Its own, and the inner rule's."""
        return 1 + self.inner.revision

    @property
    def unguided_at_zero(self) -> bool:
        """The x of w = 0 is clipped too."""
        return False

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """The prediction of the inner rule with its x clipped, [B, H, W, C]."""
        guided, state = self.inner.combine(level, w, predictions, state)
        target = TARGETS.load(self.space)
        eps = target.to_eps(level.z, guided, level.logsnr)
        x = threshold(diffusion.x_from_eps(level.z, eps, level.logsnr), self.quantile)
        eps = diffusion.eps_from_x(level.z, x, level.logsnr)
        return target.of(x, eps, level.logsnr), state
