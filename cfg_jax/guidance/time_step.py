"""Time-step guidance (Sadat et al. 2024, "No Training, No Problem")."""

import dataclasses
from typing import ClassVar

import jax

from cfg_jax.guidance import CONDITIONAL, Evaluation, GuidanceLevel
from cfg_jax.guidance.classifier_free import ClassifierFree

WRONG_TIME = Evaluation(time='wrong')


@dataclasses.dataclass(frozen=True)
class TimeStep(ClassifierFree):
    """(1 + w) eps(z, l, c) - w eps(z, l', c), the network shown l' = l + deviation n, n ~ N(0, 1).

    z stays at its level; only the time input of the second evaluation is wrong. The paper perturbs
    the embedding of the time step; here it is log-SNR, the only time of this library. No null
    condition is needed, and deviation = 0 does not guide.

    Attributes:
      deviation: of log-SNR.
    """

    revision: ClassVar[int] = 1
    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, WRONG_TIME)

    deviation: float = 1.0

    def time(self, evaluation: Evaluation, level: GuidanceLevel) -> jax.Array:
        """l for the first evaluation and l' for the second, a draw per image."""
        if evaluation.time == 'given':
            return level.logsnr
        # Not the key itself, from which the noise of `annealed_condition` is drawn.
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(level.keys)
        noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
        return level.logsnr + self.deviation * noise
