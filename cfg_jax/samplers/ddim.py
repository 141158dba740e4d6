"""DDIM (Song et al. 2021), the deterministic sampler."""

import dataclasses

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.samplers import Level, Predict, Sampler, State


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """z' = alpha' x~ + sigma' eps~ (eta = 0).

    In the scaling of rectified flows it is Euler's method. With `clip`, eps~ is computed again from
    the clipped x~, so that both describe the same z.
    """

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """See the class."""
        prediction, guidance = predict(z, level.logsnr, state.guidance)
        x = diffusion.x_from_eps(z, prediction.eps, level.logsnr)
        x = jnp.clip(x, -1.0, 1.0) if self.clip else x
        eps = diffusion.eps_from_x(z, x, level.logsnr)
        z = jax.lax.cond(
            level.last, lambda: x, lambda: diffusion.q_sample(x, level.logsnr_prime, eps)
        )
        return z, state._replace(guidance=guidance)
