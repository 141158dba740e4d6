"""A guidance rule of the ablations: away from a null label that training never showed."""

import dataclasses
from typing import ClassVar

import jax

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.guidance import CONDITIONAL, Evaluation
from cfg_jax.guidance.classifier_free import ClassifierFree

UNTRAINED = Evaluation(condition='untrained')


@dataclasses.dataclass(frozen=True)
class UntrainedNull(ClassifierFree):
    """(1 + w) eps(z, c) - w eps(z) of a network with p_uncond = 0, whose null label is as it began.

    Rules that ask for the 'null' of such a network are refused, as a mistake; here it is the point.
    """

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, UNTRAINED)

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """'untrained' is the null condition."""
        return {'given': condition, 'untrained': conditioning.null(condition)}
