"""CFG++ (Chung et al. 2024): guidance that stays on the data manifold, for DDIM."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, PerImage, broadcast_to_images
from cfg_jax.guidance import GuidanceLevel, Predictions, Rule


@dataclasses.dataclass(frozen=True)
class CFGPlusPlus(Rule):
    """eps~ = eps(z) + w (eps(z, c) - eps(z)) for x~, and eps(z) for the way to the next level:

        x~ = (z - sigma eps~) / alpha,  z' = alpha' x~ + sigma' eps(z).

    Here w is the method's scale in (0, 1]; w = 0 is the conditional model, as everywhere, and not
    the limit of small w, which is the unconditional one. One step is a DDIM step of classifier-free
    guidance with scale s = w / (1 - exp(-(logsnr' - logsnr) / 2)), so its strength depends on the
    number of steps.
    """

    renoises: ClassVar[bool] = True

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps~ of x~."""
        eps_cond, eps_uncond = predictions
        w = broadcast_to_images(w, level.z)
        guided = eps_uncond + w * (eps_cond - eps_uncond)
        return jnp.where(w == 0.0, eps_cond, guided), state

    def renoise(self, w: PerImage, predictions: Predictions) -> ImageArray:
        """eps(z), at w = 0 eps(z, c)."""
        eps_cond, eps_uncond = predictions
        return jnp.where(broadcast_to_images(w, eps_cond) == 0.0, eps_cond, eps_uncond)
