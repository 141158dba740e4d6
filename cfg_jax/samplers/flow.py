"""Heun's method in the time of a rectified flow (Liu et al. 2023; Ma et al. 2024).

In the flow's scaling y = (1 - t) x + t eps = z / (alpha + sigma) with t = sigma / (alpha + sigma),
the ODE is dy / dt = eps - x: an Euler step of it is DDIM.
"""

import dataclasses

import jax

from cfg_jax import diffusion
from cfg_jax.samplers import Level, Predict, Sampler, State
from cfg_jax.samplers.estimates import Estimate, estimate


@dataclasses.dataclass(frozen=True)
class FlowHeun(Sampler):
    """y' = y + (t' - t) (u + u') / 2, u = eps~ - x~, with u' at the end of an Euler step.

    Two evaluations a level but for the last, of order 2: NFE = 2 T - 1. From pure noise, where the
    noise level s of EDM's Heun is without bounds, t is 1.
    """

    @property
    def predictions(self) -> int:
        """Two a level, and one at the last."""
        return 2 * self.num_steps - 1

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """A Heun step of the ODE dy / dt = eps~ - x~: z at the next level, [B, ...]."""
        found, guidance = estimate(predict, z, level.logsnr, state.guidance, self.clip)

        def corrected():
            # Of the line x~ + t (eps~ - x~), at t'.
            ahead = diffusion.q_sample(found.x, level.logsnr_prime, found.eps)
            end, after = estimate(predict, ahead, level.logsnr_prime, guidance, self.clip)
            t, t_prime = (jax.nn.sigmoid(-0.5 * a) for a in (level.logsnr, level.logsnr_prime))
            change = 0.5 * (t_prime - t) * (_velocity(end) - _velocity(found))
            return ahead + change / diffusion.FLOW.factor(level.logsnr_prime), after

        z, guidance = jax.lax.cond(level.last, lambda: (found.x, guidance), corrected)
        return z, state._replace(guidance=guidance)


def _velocity(found: Estimate) -> jax.Array:
    return found.eps - found.x
