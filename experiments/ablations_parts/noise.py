"""A guidance rule of the ablations: noise in the place of the unconditional prediction."""

import dataclasses
from typing import Any, ClassVar

import jax

from cfg_jax.guidance import CONDITIONAL, Evaluation, GuidanceLevel, Predictions, Rule
from cfg_jax.guidance.classifier_free import guide
from cfg_jax.keys import per_image_noise


@dataclasses.dataclass(frozen=True)
class NoiseForUnconditional(Rule):
    """(1 + w) eps(z, c) - w n with fresh noise n ~ N(0, I), independent per image and level."""

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL,)

    def combine(
        self, level: GuidanceLevel, w: jax.Array, predictions: Predictions, state: Any
    ) -> tuple[jax.Array, Any]:
        """See the class."""
        (eps_cond,) = predictions
        return guide(eps_cond, per_image_noise(level.keys, level.z.shape[1:]), w), state
