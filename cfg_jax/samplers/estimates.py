"""What evaluations say of the image: x~, and the eps~ that belongs to it; x~ of a step to come."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.models.denoiser import Prediction
from cfg_jax.samplers import Predict

FARTHEST = 30.0  # times the noise level at a step's end, from where no correction is made
_LONGEST = 2.0


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
    predict: Predict,
    z: jax.Array,
    logsnr: jax.Array,
    guidance: Any,
    clip: bool,
    step: jax.Array | None = None,
) -> tuple[Estimate, Any]:
    """The estimate at z [B, ...] and logsnr [], and the next state of guidance.

    `step` is the level of the step, [], where that is another one than logsnr, see `Predict`.
    """
    prediction, guidance = predict(z, logsnr, guidance, step)
    x = prediction.to_x(z, logsnr)
    if not clip:
        return Estimate(x, prediction.eps, prediction), guidance
    x = jnp.clip(x, -1.0, 1.0)
    return Estimate(x, diffusion.eps_from_x(z, x, logsnr), prediction), guidance


def extrapolation(h: jax.Array, h_last: jax.Array, known: jax.Array) -> jax.Array:
    """r = h / h_last [] for x~ + r (x~ - x~_last) at the end of a step, or 0 for x~ alone.

    0 without a last level (not `known`), and for a step more than `_LONGEST` times as long as the
    last: there a straight line says nothing, and r times the change is far beyond the image. The
    paper's grid ends so, at 20 levels with r = 11.

    Args:
      h, h_last: of this step and the last, in half log-SNR, [].
      known: whether there was a last level, bool [].
    """
    # Chosen before the division: the first level has no last one.
    ratio = h / jnp.where(known, h_last, 1.0)
    return jnp.where(known & (ratio <= _LONGEST), ratio, 0.0)
