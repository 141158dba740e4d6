"""EDM's samplers (Karras et al. 2022, Algorithms 1 and 2): Euler and Heun in the noise level.

In EDM's scaling y = z / alpha = x + s eps with the noise level s = exp(-logsnr / 2), the ODE is
dy / ds = eps: an Euler step of it is DDIM.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers import Level, Predict, Sampler, State
from cfg_jax.samplers.estimates import FARTHEST, estimate


@dataclasses.dataclass(frozen=True)
class Euler(Sampler):
    """y' = y + (s' - s) eps~, after churn.

    Churn adds noise before each step at levels s in [churn_min, churn_max]: s grows to
    s^ = (1 + gamma) s, gamma = min(churn / T, sqrt(2) - 1), and y by churn_noise
    sqrt(s^2^ - s^2) n. The last level has none. churn = 0 is deterministic.

    Attributes:
      churn: published: 40 for ImageNet-64 at T = 256.
      churn_min, churn_max: noise levels; published 0.05 and 50.
      churn_noise: published 1.003.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not (self.churn >= 0 and 0 <= self.churn_min <= self.churn_max):
            raise ValueError('churn is at least 0, and 0 <= churn_min <= churn_max')

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """An Euler step of the ODE dy / ds = eps~, behind churn: z at the next level, [B, ...]."""
        z, logsnr = self._churned(z, level)
        found, guidance = estimate(predict, z, logsnr, state.guidance, self.clip, level.logsnr)
        x, eps = found.x, found.eps
        z = jax.lax.cond(
            level.last, lambda: x, lambda: diffusion.q_sample(x, level.logsnr_prime, eps)
        )
        return z, state._replace(guidance=guidance)

    def _churned(self, z: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
        """z and its level after noise was added."""
        if not self.churn:
            return z, level.logsnr
        s = jnp.exp(-0.5 * level.logsnr)
        gamma = min(self.churn / self.num_steps, math.sqrt(2.0) - 1.0)
        churns = (self.churn_min <= s) & (s <= self.churn_max) & ~level.last
        gamma = jnp.where(churns, gamma, 0.0)
        logsnr = level.logsnr - 2.0 * jnp.log1p(gamma)
        noise = per_image_noise(level.keys, z.shape[1:])
        added = self.churn_noise * s * jnp.sqrt((1.0 + gamma) ** 2 - 1.0)
        y = z / diffusion.alpha(level.logsnr) + added * noise
        return jnp.where(churns, diffusion.alpha(logsnr) * y, z), logsnr


@dataclasses.dataclass(frozen=True)
class Heun(Euler):
    """y' = y + (s' - s) (eps~ + eps~') / 2 with eps~' at the end of an Euler step.

    Two evaluations a level but for the last, of order 2: NFE = 2 T - 1. A rule that is active in an
    interval decides for both by the level that the step begins at, before churn, as published.

    A step to less than a thirtieth of the noise level is Euler's: eps~' = eps~ + (x~ - x~') / s',
    so that the correction is (s / s' - 1) / 2 times the change of x~. The paper's grid begins and
    ends with such steps, from s = 22,026 and to s = 0.00005.
    """

    corrects: ClassVar[bool] = True
    revision: ClassVar[int] = 1

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """A Heun step of the ODE dy / ds = eps~, behind churn: z at the next level, [B, ...]."""
        z, logsnr = self._churned(z, level)
        found, guidance = estimate(predict, z, logsnr, state.guidance, self.clip, level.logsnr)
        x, eps = found.x, found.eps

        def second():
            prime = level.logsnr_prime
            ahead = diffusion.q_sample(x, prime, eps)
            end, after = estimate(predict, ahead, prime, guidance, self.clip, level.logsnr)
            # y' = z / alpha + (s' - s) (eps + eps') / 2, times alpha'.
            s, s_prime = jnp.exp(-0.5 * logsnr), jnp.exp(-0.5 * prime)
            y = x + s * eps + 0.5 * (s_prime - s) * (eps + end.eps)
            corrected = diffusion.alpha(prime) * y
            z = jnp.where(s > FARTHEST * s_prime, ahead, corrected)
            return z, predict.of_one_level(guidance, after)

        z, guidance = jax.lax.cond(level.last, lambda: (x, guidance), second)
        return z, state._replace(guidance=guidance)
