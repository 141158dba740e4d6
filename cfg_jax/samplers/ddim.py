"""DDIM (Song et al. 2021)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers import Level, Predict, Sampler, State
from cfg_jax.samplers.estimates import Estimate, estimate


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """z' = alpha' x~ + sqrt(sigma'^2 - eta^2 tau^2) eps~ + eta tau n.

    tau^2 = (1 - exp(logsnr - logsnr')) sigma'^2 is the variance of q(z' | z, x), so eta = 1 is
    the ancestral sampler with v = 0, and eta = 0 is deterministic: in the scaling of rectified
    flows Euler's method. With `clip`, eps~ is computed again from the clipped x~, so that both
    describe the same z; a rule that renoises (CFG++) gives the eps of the second term itself, of
    images where that is another than its eps~.

    Attributes:
      eta: share of the noise, in [0, 1].
    """

    renoises: ClassVar[bool] = True

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f'eta is in [0, 1]; got {self.eta}')

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """z' = alpha' x~ + sqrt(sigma'^2 - eta^2 tau^2) eps~ + eta tau n, [B, ...]."""
        found, guidance = estimate(predict, z, level.logsnr, state.guidance, self.clip)
        x, eps = found.x, _eps_of_the_way(found)

        def transition() -> jax.Array:
            if not self.eta:
                return diffusion.q_sample(x, level.logsnr_prime, eps)
            # 1 - eta^2 (1 - exp(logsnr - logsnr')) is the kept share of sigma'^2.
            fresh = -(self.eta**2) * jnp.expm1(level.logsnr - level.logsnr_prime)
            noise = per_image_noise(level.keys, z.shape[1:])
            mixed = jnp.sqrt(1.0 - fresh) * eps + jnp.sqrt(fresh) * noise
            return diffusion.q_sample(x, level.logsnr_prime, mixed)

        return jax.lax.cond(level.last, lambda: x, transition), state._replace(guidance=guidance)


def _eps_of_the_way(found: Estimate) -> jax.Array:
    renoise = found.prediction.renoise
    if renoise is None:
        return found.eps
    other = jnp.any(
        renoise != found.prediction.eps, axis=tuple(range(1, renoise.ndim)), keepdims=True
    )
    return jnp.where(other, renoise, found.eps)
