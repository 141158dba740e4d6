"""A weight for each part of a condition (Brooks et al. 2023, InstructPix2Pix)."""

import dataclasses
from typing import Any, ClassVar

import jax

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.diffusion import ImageArray, PerImage, broadcast_to_images
from cfg_jax.errors import UserError
from cfg_jax.guidance import CONDITIONAL, NULL, Evaluation, GuidanceLevel, Predictions, Rule

FIRST = Evaluation(condition='first')


@dataclasses.dataclass(frozen=True)
class TwoConditions(Rule):
    """eps(z) + first (eps(z, a) - eps(z)) + (1 + w) (eps(z, a, b) - eps(z, a)).

    For a condition of two parts, a pytree with two leaves a and b, whose parts were dropped apart
    and together in training. first = 1 + w is the paper's rule on both parts.

    Attributes:
      first: weight of part a, as a scale (the paper's 1.5 of images).
    """

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, FIRST, NULL)

    revision: ClassVar[int] = 1

    first: float = 1.5

    @property
    def unguided_at_zero(self) -> bool:
        """Part a keeps its weight at w = 0."""
        return self.first == 1.0

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """'first' is the condition with its second leaf null.

        Raises:
          UserError: a condition of another number of parts.
        """
        leaves, structure = jax.tree.flatten(condition)
        if len(leaves) != 2:
            raise UserError(
                f"the rule two_conditions needs a condition of two parts; the model's has"
                f' {len(leaves)}: choose another rule'
            )
        null = conditioning.null(condition)
        first = jax.tree.unflatten(structure, [leaves[0], jax.tree.leaves(null)[1]])
        return {'given': condition, 'null': null, 'first': first}

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps(z) + first (eps(z, a) - eps(z)) + (1 + w) (eps(z, a, b) - eps(z, a))."""
        both, first, null = predictions
        scale = broadcast_to_images(1.0 + w, level.z)
        return null + self.first * (first - null) + scale * (both - first), state
