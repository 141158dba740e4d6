"""Guidance away from a condition that is not wanted."""

import dataclasses
from typing import Any, ClassVar

import jax

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.diffusion import ImageArray, PerImage, broadcast_to_images
from cfg_jax.guidance import CONDITIONAL, NULL, Evaluation, GuidanceLevel, Predictions, Rule
from cfg_jax.guidance.classifier_free import guide

NEGATIVE = Evaluation(condition='negative')


@dataclasses.dataclass(frozen=True)
class Negative(Rule):
    """Away from a class, in the null condition's place or next to it.

    keep_null = False: (1 + w) eps(z, c) - w eps(z, n)
    keep_null = True:  (1 + w) eps(z, c) - w eps(z) - strength (eps(z, n) - eps(z))

    The second keeps the true null: with strength = 0 it is the paper's rule.

    Attributes:
      label: n, the class that is not wanted.
      keep_null: see above.
      strength: of the separate term.
    """

    revision: ClassVar[int] = 1

    label: int = 0
    keep_null: bool = False
    strength: float = 1.0

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:  # type: ignore[override]
        """Conditional and negative, and null if it is kept."""
        return (CONDITIONAL, NULL, NEGATIVE) if self.keep_null else (CONDITIONAL, NEGATIVE)

    @property
    def unguided_at_zero(self) -> bool:
        """The separate term stays at w = 0."""
        return not (self.keep_null and self.strength)

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """'negative' is the class `label` for every image."""
        negative = conditioning.from_user([self.label] * keys.shape[0])
        return super().conditions(conditioning, condition, logsnr, keys) | {'negative': negative}

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """(1 + w) eps(z, c) - w eps(z, n), or with the null kept, [B, H, W, C]."""
        if not self.keep_null:
            eps_cond, eps_negative = predictions
            return guide(eps_cond, eps_negative, w), state
        eps_cond, eps_uncond, eps_negative = predictions
        away = broadcast_to_images(self.strength, level.z) * (eps_negative - eps_uncond)
        return guide(eps_cond, eps_uncond, w) - away, state
