"""What one evaluation says of the image: x~, and the eps~ that belongs to it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.models.denoiser import Prediction
from cfg_jax.samplers import Predict


class Estimate(NamedTuple):
    """Of z at a level, [B, ...] each.

    Attributes:
      x: x~ = (z - sigma eps~) / alpha, clipped to [-1, 1] where the sampler does.
      eps: eps~ that describes the same z together with x.
      prediction: as it came.
    """

    x: jax.Array
    eps: jax.Array
    prediction: Prediction


def estimate(
    predict: Predict, z: jax.Array, logsnr: jax.Array, guidance: Any, clip: bool
) -> tuple[Estimate, Any]:
    """The estimate at z [B, ...] and logsnr [], and the next state of guidance."""
    prediction, guidance = predict(z, logsnr, guidance)
    x = prediction.to_x(z, logsnr)
    if not clip:
        return Estimate(x, prediction.eps, prediction), guidance
    x = jnp.clip(x, -1.0, 1.0)
    return Estimate(x, diffusion.eps_from_x(z, x, logsnr), prediction), guidance
