"""Autoguidance (Karras et al. 2024): a worse version of the model in the null condition's place."""

import dataclasses
from typing import ClassVar

from cfg_jax.guidance import CONDITIONAL, GUIDE, Evaluation
from cfg_jax.guidance.classifier_free import ClassifierFree


@dataclasses.dataclass(frozen=True)
class Autoguidance(ClassifierFree):
    """(1 + w) eps_main(z, c) - w eps_guide(z, c).

    "Guiding a Diffusion Model with a Bad Version of Itself", whose weight is 1 + w. Both networks
    are given the same condition; the guide is smaller or trained less.
    """

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, GUIDE)
