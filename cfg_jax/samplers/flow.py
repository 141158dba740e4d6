"""The ODE and an SDE in the time of a rectified flow (Liu et al. 2023; Ma et al. 2024).

In the flow's scaling y = (1 - t) x + t eps = z / (alpha + sigma) with t = sigma / (alpha + sigma),
the ODE is dy / dt = eps - x: an Euler step of it is DDIM. Noise of the coefficient 2 D(t) in dt
leaves the distribution of y at every t as it is where the score, -eps / t, times D is added too.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers import Level, Predict, Sampler, State
from cfg_jax.samplers.estimates import FARTHEST, Estimate, estimate

_CLEAN = 0.01


@dataclasses.dataclass(frozen=True)
class FlowHeun(Sampler):
    """y' = y + (t' - t) (u + u') / 2, u = eps~ - x~, with u' at the end of an Euler step.

    Two evaluations a level but for the last, of order 2: NFE = 2 T - 1, both guided or neither, as
    EDM's Heun. From pure noise, where the noise level s of that is without bounds, t is 1.

    A step from t >= 0.01 to less than a thirtieth of t is Euler's, as the paper's grid ends with:
    u' of a network that does not predict u has the change of x~ over t'.
    """

    corrects: ClassVar[bool] = True
    revision: ClassVar[int] = 2

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """A Heun step of the ODE dy / dt = eps~ - x~: z at the next level, [B, ...]."""
        found, guidance = estimate(predict, z, level.logsnr, state.guidance, self.clip)

        def second():
            # Of the line x~ + t (eps~ - x~), at t'.
            prime = level.logsnr_prime
            ahead = diffusion.q_sample(found.x, prime, found.eps)
            end, after = estimate(predict, ahead, prime, guidance, self.clip, level.logsnr)
            t, t_prime = _time(level.logsnr), _time(prime)
            change = 0.5 * (t_prime - t) * (_velocity(end) - _velocity(found))
            corrected = ahead + change / diffusion.FLOW.factor(prime)
            z = jnp.where(_is_far(t, t_prime), ahead, corrected)
            return z, predict.of_one_level(guidance, after)

        z, guidance = jax.lax.cond(level.last, lambda: (found.x, guidance), second)
        return z, state._replace(guidance=guidance)


@dataclasses.dataclass(frozen=True)
class FlowSDE(Sampler):
    """y' = y + (t - t') (x~ - 2 eps~) + sqrt(2 t (t - t')) n: Euler-Maruyama at D(t) = t (SiT).

    The last step, from t to 0, has no noise: x~ - t eps~. A step from t >= 0.01 to less than a
    thirtieth of t is the ODE's: its noise would be far above the level that it leads to.
    """

    revision: ClassVar[int] = 1

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """A step of the SDE: z at the next level, [B, ...], or the mean at t = 0."""
        found, guidance = estimate(predict, z, level.logsnr, state.guidance, self.clip)
        t, t_prime = _time(level.logsnr), _time(level.logsnr_prime)

        def stepped() -> jax.Array:
            # y + (t - t') (x~ - 2 eps~) with y = (1 - t) x~ + t eps~.
            mean = (1.0 - t_prime) * found.x + (2.0 * t_prime - t) * found.eps
            noise = per_image_noise(level.keys, z.shape[1:])
            y = mean + jnp.sqrt(2.0 * t * (t - t_prime)) * noise
            ahead = diffusion.q_sample(found.x, level.logsnr_prime, found.eps)
            factor = diffusion.FLOW.factor(level.logsnr_prime)
            return jnp.where(_is_far(t, t_prime), ahead, y / factor)

        z = jax.lax.cond(level.last, lambda: found.x - t * found.eps, stepped)
        return z, state._replace(guidance=guidance)


def _time(logsnr: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(-0.5 * logsnr)


def _is_far(t: jax.Array, t_prime: jax.Array) -> jax.Array:
    """Whether a step leaves out most of the levels between t and the data."""
    return (t >= _CLEAN) & (t > FARTHEST * t_prime)


def _velocity(found: Estimate) -> jax.Array:
    return found.eps - found.x
