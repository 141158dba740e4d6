"""CFG-Zero* (Fan et al. 2025), for models of the flow velocity."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, PerImage
from cfg_jax.guidance import GuidanceLevel, Predictions, Rule
from cfg_jax.guidance.classifier_free import guide


@dataclasses.dataclass(frozen=True)
class CFGZeroStar(Rule):
    """(1 + w) v_cond - w a v_uncond with a = <v_cond, v_uncond> / |v_uncond|^2, per image.

    In velocities eps - x of rectified flow. In the first part of the trajectory the velocity is 0:
    there the prediction of a flow model is said to be worse than none.

    Attributes:
      zero: share of the flow's time t in [0, 1], from noise, with zero velocity; 0 for none,
        published the first 4 % of the steps.
      optimised: whether a is as above; else 1, which with zero = 0 is the paper's rule.
    """

    space: ClassVar[str] = 'velocity'

    revision: ClassVar[int] = 1

    zero: float = 0.04
    optimised: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.zero < 1.0:
            raise ValueError(f'zero is in [0, 1); got {self.zero}')

    @property
    def unguided_at_zero(self) -> bool:
        """The first part of the trajectory is left out at w = 0 too."""
        return self.zero == 0.0

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """(1 + w) v_cond - w a v_uncond of velocities [B, H, W, C]; 0 at the noisiest levels."""
        v_cond, v_uncond = predictions
        if self.optimised:
            axes = tuple(range(1, v_cond.ndim))
            inner = jnp.sum(v_cond * v_uncond, axes, keepdims=True)
            squared = jnp.sum(jnp.square(v_uncond), axes, keepdims=True)
            v_uncond = inner / jnp.maximum(squared, jnp.finfo(v_uncond.dtype).tiny) * v_uncond
        guided = guide(v_cond, v_uncond, w)
        if self.zero:
            t = jax.nn.sigmoid(-0.5 * level.logsnr)  # sigma / (alpha + sigma)
            guided = jnp.where(t > 1.0 - self.zero, 0.0, guided)
        return guided, state
