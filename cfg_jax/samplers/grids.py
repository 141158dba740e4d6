"""Where the levels of a sampler lie."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.diffusion import CosineSchedule, Schedule

_DISCRETE_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Grid:
    """Levels at u = (T - t) / (T - 1), uniform in the u of a schedule (section 2 of the paper).

    The first and last level are the ends of the schedule, so T levels mean T steps.

    Attributes:
      schedule: logsnr as a function of u.
    """

    schedule: Schedule = CosineSchedule()

    def levels(self, num_steps: int) -> jax.Array:
        """The T = num_steps levels logsnr_min = l_1 < ... < l_T = logsnr_max, float32 [T].

        Raises:
          ValueError: fewer than two levels.
        """
        _at_least_two(num_steps)
        u = (num_steps - jnp.arange(1, num_steps + 1)) / (num_steps - 1)
        return self.schedule(u)


@dataclasses.dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Levels uniform in log-SNR between the ends of the schedule."""

    def levels(self, num_steps: int) -> jax.Array:
        """T levels, uniform in log-SNR, float32 [T]."""
        ends = super().levels(2)
        return jnp.linspace(ends[0], ends[1], _at_least_two(num_steps))


@dataclasses.dataclass(frozen=True)
class EDMGrid(Grid):
    """Noise levels s = sigma / alpha with s^(1 / rho) uniform (Karras et al. 2022, eq. 5).

    The ends are the schedule's, within EDM's noise levels: [0.002, 80].

    Attributes:
      rho: published 7.
      lowest, highest: noise levels.
    """

    rho: float = 7.0
    lowest: float = 0.002
    highest: float = 80.0

    def levels(self, num_steps: int) -> jax.Array:
        """T levels, -2 rho ln(s^(1 / rho)) with s^(1 / rho) uniform, float32 [T]."""
        with jax.ensure_compile_time_eval():  # inside a compiled trajectory too
            ends = np.asarray(super().levels(2), np.float64)
        noisiest, cleanest = np.exp(-0.5 * ends)
        highest, lowest = min(noisiest, self.highest), max(cleanest, self.lowest)
        s = np.linspace(
            highest ** (1 / self.rho), lowest ** (1 / self.rho), _at_least_two(num_steps)
        )
        return jnp.asarray(-2.0 * self.rho * np.log(s), jnp.float32)


@dataclasses.dataclass(frozen=True)
class FlowGrid(Grid):
    """t = sigma / (alpha + sigma) uniform from the schedule's noisiest to `last` (Ma et al. 2024).

    Attributes:
      last: from there one step leads to t = 0; published 0.04.
    """

    last: float = 0.04

    def levels(self, num_steps: int) -> jax.Array:
        """T levels, 2 ln((1 - t) / t) with t uniform, float32 [T].

        Raises:
          ValueError: fewer than two levels, or a schedule that ends above `last`.
        """
        with jax.ensure_compile_time_eval():  # inside a compiled trajectory too
            noisiest = float(super().levels(2)[0])
        first = 1.0 / (1.0 + np.exp(0.5 * noisiest))
        if first <= self.last:
            raise ValueError(f'the schedule begins at t = {first:.3g}, not above last={self.last}')
        t = np.linspace(first, self.last, _at_least_two(num_steps))[1:]
        return jnp.asarray([noisiest, *(2.0 * np.log((1.0 - t) / t))], jnp.float32)


@dataclasses.dataclass(frozen=True)
class RespacedGrid(Grid):
    """Levels at T of the discrete steps 0..999 of the schedule, evenly spaced with both ends.

    As ADM's timestep respacing does: step round(i 999 / (T - 1)), log-SNR of u = step / 999.
    """

    def levels(self, num_steps: int) -> jax.Array:
        """T levels at the steps round(i 999 / (T - 1)), float32 [T].

        Raises:
          ValueError: fewer than two levels, or more than there are steps.
        """
        last = _DISCRETE_STEPS - 1
        if num_steps > _DISCRETE_STEPS:
            raise ValueError(f'there are {_DISCRETE_STEPS} discrete steps; got {num_steps}')
        strides = np.full(num_steps - 1, last / (_at_least_two(num_steps) - 1))
        # Summed one by one, as published: where i 999 / (T - 1) ends in .5 its rounding decides.
        steps = np.rint(np.cumsum([0.0, *strides]))[::-1]
        return self.schedule(jnp.asarray(steps / last, jnp.float32))


@dataclasses.dataclass(frozen=True)
class StridedGrid(Grid):
    """Levels at T of the discrete steps 0..999: 0, k, 2 k, ..., k the stride with exactly T steps.

    As ADM's "ddimT": for T = 25 the noisiest step is 960, where `RespacedGrid` begins at 999.
    """

    def levels(self, num_steps: int) -> jax.Array:
        """T levels at the steps (T - 1) k, ..., k, 0, float32 [T].

        Raises:
          ValueError: no stride has so many steps.
        """
        _at_least_two(num_steps)
        counts = (len(range(0, _DISCRETE_STEPS, k)) for k in range(1, _DISCRETE_STEPS))
        stride = next((k for k, count in enumerate(counts, 1) if count == num_steps), None)
        if stride is None:
            raise ValueError(f'no stride takes {num_steps} of {_DISCRETE_STEPS} discrete steps')
        steps = np.arange(num_steps - 1, -1, -1) * stride
        return self.schedule(jnp.asarray(steps / (_DISCRETE_STEPS - 1), jnp.float32))


def _at_least_two(num_steps: int) -> int:
    if num_steps < 2:
        raise ValueError(f'num_steps must be at least 2, the two ends; got {num_steps}')
    return num_steps
