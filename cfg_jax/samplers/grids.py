"""Where the levels of a sampler lie."""

import dataclasses

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import CosineSchedule, Schedule


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
        if num_steps < 2:
            raise ValueError(f'num_steps must be at least 2, the two ends; got {num_steps}')
        u = (num_steps - jnp.arange(1, num_steps + 1)) / (num_steps - 1)
        return self.schedule(u)
