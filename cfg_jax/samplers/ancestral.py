"""Algorithm 2 of the paper: guided ancestral sampling."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers import Level, Predict, Sampler, State


@dataclasses.dataclass(frozen=True)
class Ancestral(Sampler):
    """Algorithm 2, with z_1 ~ N(0, I) given.

    Attributes:
      v: exponent of the variance, eq. (4): 0 the posterior's, 1 the forward process's. A network
        that predicts it per pixel takes its place.
    """

    shifts_mean: ClassVar[bool] = True

    v: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.v, float) and not 0.0 <= self.v <= 1.0:  # not of one that is traced
            raise ValueError(f'v is in [0, 1]; got {self.v}')

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """The body of Algorithm 2's loop: z_t -> z_{t+1}."""
        # eps~ = (1 + w) eps_theta(z, c) - w eps_theta(z), or what another rule makes of them
        prediction, guidance = predict(z, level.logsnr, state.guidance)
        # x~ = (z - sigma eps~) / alpha
        x = prediction.to_x(z, level.logsnr)
        x = jnp.clip(x, -1.0, 1.0) if self.clip else x

        def transition() -> jax.Array:
            # z_{t+1} ~ N(mu~(z_t, x~), (sigma~^2)^(1 - v) (sigma^2)^v)
            v = self.v if prediction.v is None else prediction.v
            mean, log_variance = diffusion.q_posterior(z, x, level.logsnr, level.logsnr_prime, v)
            if prediction.mean_gradient is not None:  # classifier guidance alone
                mean = mean + jnp.exp(log_variance) * prediction.mean_gradient
            noise = per_image_noise(level.keys, z.shape[1:])
            return mean + jnp.exp(0.5 * log_variance) * noise

        # return x~_T at the last level
        z = jax.lax.cond(level.last, lambda: x, transition)
        return z, state._replace(guidance=guidance)
