"""Guidance weights that change with the noise level (Wang et al. 2024, MDT's powered cosine)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.diffusion import u_cosine
from cfg_jax.guidance import GuidanceLevel
from cfg_jax.guidance.modifier import Modifier

KINDS = ('linear', 'cosine', 'powered_cosine', 'exponential', 'constant')


@dataclasses.dataclass(frozen=True)
class WeightSchedule(Modifier):
    """w(u) = w max(minimum, f(u) / mean f), with u in [0, 1] the level's u in the cosine schedule.

    u = 1 is noise, so every f rises as denoising proceeds:

        linear          f = 1 - u
        cosine          f = (1 + cos(pi u)) / 2
        powered_cosine  f = (1 - cos(pi (1 - u)^power)) / 2
        exponential     f = exp(-rate u)
        constant        f = 1

    Attributes:
      kind: of f.
      power: of powered_cosine.
      rate: of exponential.
      minimum: of the factor, clamped from below; 0 leaves f as it is.
      normalise: divide by the mean over u, so that the mean weight over levels uniform in u is w;
        else f is at most 1. DDPM's linear beta has more of its levels near u = 1: their mean weight
        is 0.59 w (linear) and 0.55 w (cosine).
    """

    kind: str = 'linear'
    power: float = 1.0
    rate: float = 3.0
    minimum: float = 0.0
    normalise: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'kind is one of {", ".join(KINDS)}; got {self.kind!r}')
        if not (self.power > 0 and self.rate > 0 and self.minimum >= 0):
            raise ValueError('power and rate are above 0, and minimum is at least 0')

    def factor(self, u: jax.Array | np.ndarray) -> jax.Array:
        """w(u) / w, in the shape of `u`."""
        factor = self._shape(u) / (self._mean() if self.normalise else 1.0)
        return jnp.maximum(factor, self.minimum)

    def weight(self, level: GuidanceLevel, w: jax.Array) -> jax.Array:
        """w(u) at the level."""
        return self.inner.weight(level, self.factor(u_cosine(level.logsnr)) * w)

    def _shape(self, u: jax.Array | np.ndarray) -> jax.Array:
        u = jnp.asarray(u, jnp.float32)
        return {
            'linear': lambda: 1.0 - u,
            'cosine': lambda: 0.5 * (1.0 + jnp.cos(math.pi * u)),
            'powered_cosine': lambda: 0.5 * (1.0 - jnp.cos(math.pi * (1.0 - u) ** self.power)),
            'exponential': lambda: jnp.exp(-self.rate * u),
            'constant': lambda: jnp.ones_like(u),
        }[self.kind]()

    def _mean(self) -> float:
        """Of f over u in [0, 1]: closed forms, and the midpoint rule for powers of cosine."""
        if self.kind == 'exponential':
            return (1.0 - math.exp(-self.rate)) / self.rate
        if self.kind == 'powered_cosine':
            u = (np.arange(4096) + 0.5) / 4096
            return float(np.mean(0.5 * (1.0 - np.cos(math.pi * (1.0 - u) ** self.power))))
        return 1.0 if self.kind == 'constant' else 0.5
