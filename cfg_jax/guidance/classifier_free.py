"""Classifier-free guidance, the paper's rule."""

import dataclasses
from typing import Any, ClassVar

from cfg_jax.diffusion import ImageArray, Images, PerImage, broadcast_to_images, check_same_shape
from cfg_jax.guidance import GuidanceLevel, Predictions, Rule


def guide(eps_cond: Images, eps_uncond: Images, w: PerImage) -> ImageArray:
    """eps~ = (1 + w) eps_cond - w eps_uncond, eq. (6), [B, ...].

    Args:
      eps_cond, eps_uncond: eps_theta(z, c) and eps_theta(z), [B, ...].
      w: the paper's guidance weight, a scalar or one value per image [B]; may be traced.

    Raises:
      ValueError: shapes that do not agree.
    """
    check_same_shape(eps_cond=eps_cond, eps_uncond=eps_uncond)
    w = broadcast_to_images(w, eps_cond)
    return (1.0 + w) * eps_cond - w * eps_uncond


@dataclasses.dataclass(frozen=True)
class ClassifierFree(Rule):
    """(1 + w) eps_theta(z, c) - w eps_theta(z)."""

    affine: ClassVar[bool] = True

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """(1 + w) eps(z, c) - w eps(z), [B, H, W, C]; no state."""
        eps_cond, eps_uncond = predictions
        return guide(eps_cond, eps_uncond, w), state
