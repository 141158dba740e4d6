"""Guidance in a limited interval of noise levels (Kynkaanniemi et al. 2024)."""

import dataclasses
import math

import jax

from cfg_jax.guidance.modifier import Modifier


def logsnr_of_noise_level(noise_level: float) -> float:
    """logsnr = -2 ln s of the noise level s = sigma / alpha in which EDM's papers speak.

    s = 0 is clean (infinity), s = infinity pure noise (-infinity).

    Raises:
      ValueError: a negative level.
    """
    if not noise_level >= 0:
        raise ValueError(f'a noise level is at least 0; got {noise_level}')
    return -2.0 * math.log(noise_level) if noise_level else math.inf


@dataclasses.dataclass(frozen=True)
class Interval(Modifier):
    """A rule at noise levels s = sigma / alpha in (lowest, highest], unguided elsewhere.

    "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality": with
    s = exp(-logsnr / 2) it guides for logsnr in [-2 ln highest, -2 ln lowest). Outside of it the
    unconditional evaluation is saved. The level is that of the step, one for all images.
    """

    lowest: float = 0.0
    highest: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 <= self.lowest < self.highest:
            raise ValueError(
                f'the interval needs 0 <= lowest < highest; got {self.lowest} and {self.highest}'
            )

    def active(self, logsnr: jax.Array) -> jax.Array:
        """Whether the level lies in the interval, and the inner rule is active there."""
        first, end = logsnr_of_noise_level(self.highest), logsnr_of_noise_level(self.lowest)
        inside = (first <= logsnr) & (logsnr < end)
        inner = self.inner.active(logsnr)
        return inside if inner is None else inside & inner
