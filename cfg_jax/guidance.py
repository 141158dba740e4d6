"""Rules that combine predictions under several conditions into one eps.

Convention, everywhere in this repository: `w` is the paper's guidance weight. w = 0 is the plain
conditional model; the scale `s` of many other codebases is s = 1 + w.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cfg_jax.diffusion import broadcast_to_images

# eps_theta(z [B, H, W, C], logsnr [B], label int32 [B]) -> eps [B, H, W, C]
EpsTheta = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# What a sampler sees: eps_fn(z [B, H, W, C], logsnr []) -> eps [B, H, W, C]
EpsFn = Callable[[jax.Array, jax.Array], jax.Array]


def guide(eps_cond: jax.Array, eps_uncond: jax.Array, w: ArrayLike) -> jax.Array:
    """eps~ = (1 + w) eps_cond - w eps_uncond, eq. (6); `w` is a scalar or one value per image."""
    w = broadcast_to_images(w, eps_cond)
    return (1.0 + w) * eps_cond - w * eps_uncond


def conditional(eps_theta: EpsTheta, label: jax.Array) -> EpsFn:
    """The unguided eps_theta(z, c): eq. (6) at w = 0, one network pass a step."""

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        return eps_theta(z, jnp.broadcast_to(logsnr, z.shape[:1]), label)

    return eps_fn


def classifier_free(eps_theta: EpsTheta, label: jax.Array, null_label: int, w: ArrayLike) -> EpsFn:
    """Classifier-free guidance, eq. (6) and line 4 of Algorithm 2.

    Both branches run as one batch of 2B, so that the accelerator sees one large pass. `w` may be
    traced: one compilation serves every guidance weight.
    """
    both_labels = jnp.concatenate([label, jnp.full_like(label, null_label)])  # [2B]

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        both_z = jnp.concatenate([z, z])  # [2B, H, W, C]
        eps = eps_theta(both_z, jnp.broadcast_to(logsnr, both_z.shape[:1]), both_labels)
        eps_cond, eps_uncond = jnp.split(eps, 2)
        return guide(eps_cond, eps_uncond, w)

    return eps_fn
