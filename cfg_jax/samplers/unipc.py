"""UniPC (Zhao et al. 2023), the predictor-corrector of order 2 in x (its B(h) = expm1(h) form)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.samplers import Level, Predict, Sampler, State
from cfg_jax.samplers.estimates import estimate, extrapolation


class _History(NamedTuple):
    """What the corrector of the next level needs."""

    z: jax.Array  # before the last step
    x: jax.Array  # x~ of the last level
    x_before: jax.Array  # x~ of the level before that
    logsnr: jax.Array  # of the last level
    logsnr_before: jax.Array
    count: jax.Array  # levels so far, int32 []


@dataclasses.dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC-2: each level's evaluation corrects the step that led to it, then predicts the next.

    With h = (logsnr' - logsnr) / 2 and D1 = (x~_last - x~) / r, r = h_last / h (negative, toward
    the past), the predictor is

        z' = (sigma' / sigma) z + alpha' (1 - exp(-h)) x~ + alpha' (1 - exp(-h)) D1 / 2,

    and the corrector, with D2 = x~' - x~ of the new evaluation, takes rho_1 D1 + rho_2 D2 for
    D1 / 2, where rho solves the two order conditions. The corrected z replaces the predicted one;
    the evaluation is not made again. A step more than twice as long as the last is predicted with
    D1 = 0.
    """

    revision: ClassVar[int] = 1

    def init(self, z: jax.Array) -> Any:
        """Nothing yet."""
        zero = jnp.zeros((), jnp.float32)
        zeros = jnp.zeros_like(z)
        return _History(zeros, zeros, zeros, zero, zero, jnp.zeros((), jnp.int32))

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """Corrects z by the evaluation at this level, then predicts z at the next one, [B, ...]."""
        found, guidance = estimate(predict, z, level.logsnr, state.guidance, self.clip)
        x, history = found.x, state.history
        z = jnp.where(history.count > 0, _corrected(history, x, level.logsnr), z)

        def predicted() -> jax.Array:
            h = _half(level.logsnr, level.logsnr_prime)
            h_last = _half(history.logsnr, level.logsnr)
            ratio = extrapolation(h, h_last, history.count > 0)
            base = _first_order(z, x, level.logsnr, level.logsnr_prime)
            factor = -diffusion.alpha(level.logsnr_prime) * jnp.expm1(-h)
            return base + 0.5 * factor * ratio * (x - history.x)

        following = _History(z, x, history.x, level.logsnr, history.logsnr, history.count + 1)
        return jax.lax.cond(level.last, lambda: x, predicted), State(guidance, following)


def _half(logsnr: jax.Array, logsnr_prime: jax.Array) -> jax.Array:
    return 0.5 * (logsnr_prime - logsnr)


def _first_order(
    z: jax.Array, x: jax.Array, logsnr: jax.Array, logsnr_prime: jax.Array
) -> jax.Array:
    """(sigma' / sigma) z + alpha' (1 - exp(-h)) x."""
    ratio = diffusion.sigma(logsnr_prime) / diffusion.sigma(logsnr)
    weight = -diffusion.alpha(logsnr_prime) * jnp.expm1(-_half(logsnr, logsnr_prime))
    return ratio * z + weight * x


def _corrected(history: _History, x_new: jax.Array, logsnr: jax.Array) -> jax.Array:
    """z at `logsnr` from the step before, with the evaluation x_new that was made there."""
    h = _half(history.logsnr, logsnr)
    h_safe = jnp.where(h > 0, h, 1.0)
    phi_2, phi_3 = _phi_2_3(h_safe)
    two = history.count > 1
    h_last = _half(history.logsnr_before, history.logsnr)
    r = jnp.where(two, h_last / h_safe, 1.0)  # the past point lies at s = -r
    new = x_new - history.x  # at s = 1
    past = history.x_before - history.x  # at s = -r
    # The quadratic through s = -r, 0, 1: slope and curvature.
    curvature = jnp.where(two, (new + past / r) / (1.0 + r), 0.0)
    slope = new - curvature
    change = phi_2 * slope + 2.0 * phi_3 * curvature
    base = _first_order(history.z, history.x, history.logsnr, logsnr)
    return base + diffusion.alpha(logsnr) * h_safe * change


def _phi_2_3(h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int_0^1 s e^{-(1 - s) h} ds and int_0^1 s^2 / 2 e^{-(1 - s) h} ds, for h > 0."""
    phi_1 = -jnp.expm1(-h) / h
    phi_2 = (1.0 - phi_1) / h
    phi_3 = (0.5 - phi_2) / h
    # The closed forms cancel for small h, where few terms of the series are exact.
    series = [sum((-h) ** k / math.factorial(k + order) for k in range(8)) for order in (2, 3)]
    small = h < 0.5
    return jnp.where(small, series[0], phi_2), jnp.where(small, series[1], phi_3)
