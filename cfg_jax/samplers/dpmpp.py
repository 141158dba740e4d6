"""DPM-Solver++ (Lu et al. 2022), the multistep solver of order 2, as ODE and as SDE.

With the half log-SNR l = logsnr / 2 and h = l' - l, the exact solution between two levels is

    z' = (sigma' / sigma) z + alpha' (1 - exp(-h)) x~            (ODE)

for a constant x~; the second order takes x~ linear in l, from the x~ of this and the last level.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers import Level, Predict, Sampler, State
from cfg_jax.samplers.estimates import estimate, extrapolation


class _History(NamedTuple):
    """x~ and logsnr of the last level; h = infinity before the first, which is of order 1."""

    x: jax.Array
    logsnr: jax.Array
    any: jax.Array  # bool []


@dataclasses.dataclass(frozen=True)
class DPMPP2M(Sampler):
    """DPM-Solver++(2M): one evaluation a level, deterministic, order 2.

    x = (1 + r / 2) x~ - (r / 2) x~_last with r = h / h_last extrapolates to the middle of the step.
    The first step is of order 1, and so is one more than twice as long as the last, such as that to
    the cleanest level of the paper's grid.
    """

    revision: ClassVar[int] = 1

    def init(self, z: jax.Array) -> Any:
        """Nothing yet."""
        return _History(jnp.zeros_like(z), jnp.zeros((), jnp.float32), jnp.zeros((), bool))

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """z' = (sigma' / sigma) z + alpha' (1 - exp(-h)) x at the next level, [B, ...]."""
        found, guidance = estimate(predict, z, level.logsnr, state.guidance, self.clip)
        x, history = found.x, state.history
        h = 0.5 * (level.logsnr_prime - level.logsnr)
        h_last = 0.5 * (level.logsnr - history.logsnr)
        straight = x + 0.5 * extrapolation(h, h_last, history.any) * (x - history.x)
        z = jax.lax.cond(level.last, lambda: x, lambda: self._transition(z, straight, h, level))
        return z, State(guidance, _History(x, level.logsnr, jnp.ones((), bool)))

    def _transition(self, z: jax.Array, x: jax.Array, h: jax.Array, level: Level) -> jax.Array:
        ratio = diffusion.sigma(level.logsnr_prime) / diffusion.sigma(level.logsnr)
        return ratio * z - diffusion.alpha(level.logsnr_prime) * jnp.expm1(-h) * x


@dataclasses.dataclass(frozen=True)
class DPMPP2MSDE(DPMPP2M):
    """SDE-DPM-Solver++(2M): the same with the noise of the reverse SDE.

    z' = (sigma' / sigma) exp(-h) z + alpha' (1 - exp(-2 h)) x + sigma' sqrt(1 - exp(-2 h)) n.
    """

    def _transition(self, z: jax.Array, x: jax.Array, h: jax.Array, level: Level) -> jax.Array:
        alpha, sigma = diffusion.alpha(level.logsnr_prime), diffusion.sigma(level.logsnr_prime)
        ratio = sigma / diffusion.sigma(level.logsnr) * jnp.exp(-h)
        share = -jnp.expm1(-2.0 * h)
        noise = per_image_noise(level.keys, z.shape[1:])
        return ratio * z + alpha * share * x + sigma * jnp.sqrt(share) * noise
