"""Composition of conditions (Liu et al. 2022, "Compositional Visual Generation")."""

import dataclasses
from typing import Any, ClassVar

import jax

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.diffusion import ImageArray, PerImage, broadcast_to_images
from cfg_jax.guidance import CONDITIONAL, NULL, Evaluation, GuidanceLevel, Predictions, Rule
from cfg_jax.guidance.classifier_free import guide


@dataclasses.dataclass(frozen=True)
class Composition(Rule):
    """eps(z) + (1 + w) (eps(z, c) - eps(z)) + sum_i weight_i (eps(z, c_i) - eps(z)).

    A positive weight asks for a class too (AND), a negative one avoids it (NOT). Without further
    classes it is the paper's rule. At w = 0 the further classes are asked for all the same. The
    weights sum to 1, so the space does not matter; sampling along the sum is not exact sampling of
    the product of densities.

    Attributes:
      labels: further classes, such as '3/7'.
      weights: of each, such as '1.5/-0.5'; one weight stands for all.
    """

    revision: ClassVar[int] = 1

    labels: str = ''
    weights: str = '1.0'

    def __post_init__(self) -> None:
        try:
            labels, weights = self._labels(), self._weights()
        except ValueError:
            raise ValueError(
                f"labels are whole numbers as in '3/7', weights numbers as in '1.5/-0.5'; got"
                f' {self.labels!r} and {self.weights!r}'
            ) from None
        if len(labels) != len(weights):
            raise ValueError(f'{len(labels)} labels need as many weights; got {len(weights)}')

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:  # type: ignore[override]
        """Conditional, null, and one for each further class."""
        names = [f'further {label}' for label in self._labels()]
        return (CONDITIONAL, NULL, *(Evaluation(condition=name) for name in names))

    @property
    def unguided_at_zero(self) -> bool:
        """Further classes stay at w = 0."""
        return not any(self._weights())

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """'further L' is the class L for every image."""
        further = {
            f'further {label}': conditioning.from_user([label] * keys.shape[0])
            for label in self._labels()
        }
        return super().conditions(conditioning, condition, logsnr, keys) | further

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps(z) + (1 + w) (eps(z, c) - eps(z)) + sum_i weight_i (eps(z, c_i) - eps(z))."""
        eps_cond, eps_uncond, *others = predictions
        guided = guide(eps_cond, eps_uncond, w)
        for weight, eps in zip(self._weights(), others, strict=True):
            guided = guided + broadcast_to_images(weight, level.z) * (eps - eps_uncond)
        return guided, state

    def _labels(self) -> list[int]:
        return [int(part) for part in self.labels.split('/') if part]

    def _weights(self) -> list[float]:
        weights = [float(part) for part in self.weights.split('/') if part]
        return weights * len(self._labels()) if len(weights) == 1 else weights
