"""Rescaled guidance (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps")."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, Images, PerImage
from cfg_jax.guidance import GuidanceLevel, Predictions
from cfg_jax.guidance.modifier import Modifier


def rescale(guided: Images, conditional: Images, phi: float) -> ImageArray:
    """phi p~ std(p_cond) / std(p~) + (1 - phi) p~, deviations over an image's pixels, [B, ...].

    Args:
      guided: p~, the guided prediction, [B, ...].
      conditional: p_cond, [B, ...].
      phi: share of the rescaled prediction, in [0, 1].
    """
    axes = tuple(range(1, guided.ndim))
    wanted = jnp.std(conditional, axes, keepdims=True)
    found = jnp.std(guided, axes, keepdims=True)
    ratio = wanted / jnp.maximum(found, jnp.finfo(guided.dtype).tiny)
    return (phi * ratio + 1.0 - phi) * guided


@dataclasses.dataclass(frozen=True)
class Rescale(Modifier):
    """phi p~ std(p_cond) / std(p~) + (1 - phi) p~, in the space of the inner rule.

    phi = 0 is the inner rule. Unlike the paper's rule it depends on the space: deviations of eps, x
    and v differ.

    Attributes:
      phi: the published value is 0.7.
    """

    affine: ClassVar[bool] = False  # type: ignore[override]

    phi: float = 0.7

    def __post_init__(self) -> None:
        if not 0.0 <= self.phi <= 1.0:
            raise ValueError(f'phi is in [0, 1]; got {self.phi}')

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """The inner rule's prediction with the deviation of the conditional one, [B, H, W, C]."""
        guided, state = self.inner.combine(level, w, predictions, state)
        return rescale(guided, predictions[0], self.phi), state
