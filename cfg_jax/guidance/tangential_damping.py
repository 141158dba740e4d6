"""Tangential damping of the unconditional prediction (TCFG, Kwon et al. 2025)."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, Images, PerImage
from cfg_jax.guidance import GuidanceLevel, Predictions, Rule
from cfg_jax.guidance.classifier_free import guide


def damp(eps_cond: Images, eps_uncond: Images, share: float) -> ImageArray:
    """eps_uncond without its part across the first right singular vector of both, [B, ...].

    v is the leading right singular vector of the 2 x N matrix of eps_cond and eps_uncond, per
    image; eps' = <eps_uncond, v> v + share (eps_uncond - <eps_uncond, v> v).

    Args:
      eps_cond, eps_uncond: [B, ...].
      share: of the part across v that is kept; 1 changes nothing.
    """
    rows = jnp.stack([eps_cond, eps_uncond], axis=1).reshape(eps_cond.shape[0], 2, -1)
    # The right singular vectors of a 2 x N matrix from its 2 x 2 Gram matrix.
    gram = jnp.einsum('bin,bjn->bij', rows, rows)
    _, vectors = jnp.linalg.eigh(gram)  # ascending: the last belongs to the largest
    v = jnp.einsum('bi,bin->bn', vectors[:, :, 1], rows)
    v = v / jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), jnp.finfo(v.dtype).tiny)
    along = (jnp.sum(rows[:, 1] * v, axis=1, keepdims=True) * v).reshape(eps_uncond.shape)
    return along + share * (eps_uncond - along)


@dataclasses.dataclass(frozen=True)
class TangentialDamping(Rule):
    """(1 + w) eps(z, c) - w eps'(z), eps' without what the two predictions do not share.

    Depends on the space; published in eps.

    Attributes:
      share: of the tangential part that is kept: 0 as published, 1 is the paper's rule.
    """

    share: float = 0.0

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """(1 + w) eps(z, c) - w eps'(z), [B, H, W, C]."""
        eps_cond, eps_uncond = predictions
        return guide(eps_cond, damp(eps_cond, eps_uncond, self.share), w), state
