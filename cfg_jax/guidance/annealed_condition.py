"""Condition-annealed sampling (CADS, Sadat et al. 2024)."""

import dataclasses

import jax
import jax.numpy as jnp

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.conditioning.noisy import NoisyCondition
from cfg_jax.diffusion import u_cosine
from cfg_jax.guidance.modifier import Modifier


@dataclasses.dataclass(frozen=True)
class AnnealedCondition(Modifier):
    """The embedding y of the given condition becomes sqrt(gamma) y + scale sqrt(1 - gamma) n.

    gamma(u) = 1 for u <= tau1, (tau2 - u) / (tau2 - tau1) between, 0 for u >= tau2, with u = 1 at
    noise: the condition is noisy early and exact late. n ~ N(0, I) is drawn at every level, and the
    result is standardised to the mean and deviation of y, as a share `mix` of it.

    u is that of the paper's cosine schedule at the log-SNR, whatever the model's. On another one
    tau1 and tau2 are other shares of the steps: of DDPM's linear beta 68 % are above u = 0.6 and
    40 % above 0.9.

    Attributes:
      tau1, tau2: see above.
      scale: of the noise, in units of the embedding.
      mix: share of the standardised embedding; published 1.
    """

    tau1: float = 0.6
    tau2: float = 0.9
    scale: float = 0.1
    mix: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.tau1 < self.tau2 <= 1.0:
            raise ValueError(f'0 <= tau1 < tau2 <= 1; got {self.tau1} and {self.tau2}')

    def gamma(self, u: jax.Array) -> jax.Array:
        """clip((tau2 - u) / (tau2 - tau1), 0, 1), the kept share of the embedding at `u`."""
        return jnp.clip((self.tau2 - u) / (self.tau2 - self.tau1), 0.0, 1.0)

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """The inner rule's, all of the same form; 'given' with noise, the others with gamma = 1."""
        count = keys.shape[0]
        gamma = jnp.broadcast_to(self.gamma(u_cosine(logsnr)), (count,))
        scale, mix = jnp.full(count, self.scale), jnp.full(count, self.mix)
        return {
            name: NoisyCondition(
                given, gamma if name == 'given' else jnp.ones_like(gamma), scale, mix, keys
            )
            for name, given in super().conditions(conditioning, condition, logsnr, keys).items()
        }
