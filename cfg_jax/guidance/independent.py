"""Independent-condition guidance (Sadat et al. 2024, "No Training, No Problem")."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.guidance import CONDITIONAL, Evaluation
from cfg_jax.guidance.classifier_free import ClassifierFree

OTHER = Evaluation(condition='other')


@dataclasses.dataclass(frozen=True)
class Independent(ClassifierFree):
    """(1 + w) eps(z, c) - w eps(z, c'), c' drawn independently of z and c at every level.

    The condition c' says nothing of the image, so eps(z, c') stands for eps(z): it gives a guidance
    weight to conditional networks that were trained without a null condition.
    """

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, OTHER)

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """'other' is drawn from the level's keys; no null condition is needed."""
        numbers = jnp.zeros(keys.shape, jnp.int32)
        return {'given': condition, 'other': conditioning.draw(keys, numbers, 'uniform')}
