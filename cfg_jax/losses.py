"""Algorithm 1 of the paper: joint training of the conditional and the unconditional model.

And the loss of a classifier of noisy images, on the same draws.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cfg_jax import diffusion
from cfg_jax.classifier_guidance import ClassifierFn
from cfg_jax.guidance import EpsTheta
from cfg_jax.sampling import per_image_noise


class Draws(NamedTuple):
    """The random choices of Algorithm 1 for a batch."""

    label: jax.Array  # int32 [B], some of them replaced by the null label
    logsnr: jax.Array  # float32 [B]
    eps: jax.Array  # float32 [B, H, W, C]


def drop_label(
    keys: jax.Array, label: jax.Array, null_label: int, p_uncond: ArrayLike
) -> jax.Array:
    """Replaces each label by `null_label` with probability `p_uncond` (Algorithm 1, line 3).

    One independent Bernoulli per example from its own key; keys [B], label int32 [B].
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, p_uncond))(keys)
    return jnp.where(dropped, null_label, label)


def draw(
    keys: jax.Array,
    x: jax.Array,
    label: jax.Array,
    *,
    null_label: int,
    p_uncond: ArrayLike,
    logsnr_min: float = diffusion.LOGSNR_MIN,
    logsnr_max: float = diffusion.LOGSNR_MAX,
) -> Draws:
    """Lines 3-5 of Algorithm 1: c <- null with probability p_uncond, logsnr ~ p(logsnr), eps ~ N.

    Args:
      keys: one key per example, [B]; an example's draws depend on its own key alone.
      x: images in [-1, 1], [B, H, W, C].
      label: class ids, int32 [B].
      null_label: the id of the null token (`num_classes`).
      p_uncond: probability of unconditional training.
      logsnr_min, logsnr_max: ends of the cosine schedule that p(logsnr) follows.
    """
    label_keys, logsnr_keys, eps_keys = (
        jax.vmap(lambda key, stream=stream: jax.random.fold_in(key, stream))(keys)
        for stream in range(3)
    )
    u = jax.vmap(jax.random.uniform)(logsnr_keys)
    return Draws(
        label=drop_label(label_keys, label, null_label, p_uncond),
        logsnr=diffusion.logsnr_cosine(u, logsnr_min, logsnr_max),
        eps=per_image_noise(eps_keys, x.shape[1:]),
    )


def eps_mse(eps_theta: EpsTheta, x: jax.Array, draws: Draws) -> jax.Array:
    """Line 6 of Algorithm 1, eq. (5): ||eps_theta(z, c) - eps||^2, per example.

    The mean over pixels and channels stands for the squared norm, which only rescales the learning
    rate. Returns float32 [B].
    """
    z = diffusion.q_sample(x, draws.logsnr, draws.eps)
    error = eps_theta(z, draws.logsnr, draws.label) - draws.eps
    return jnp.mean(jnp.square(error), axis=tuple(range(1, x.ndim)))


def cross_entropy(
    classifier_fn: ClassifierFn, x: jax.Array, draws: Draws
) -> tuple[jax.Array, jax.Array]:
    """-log p(c | z, logsnr) of each example, and 1.0 where c is the likeliest class.

    Section 4 of Dhariwal & Nichol 2021: the classifier sees what the sampler will show it, images
    of every noise level. No label may be null. Both float32 [B].
    """
    logits = classifier_fn(diffusion.q_sample(x, draws.logsnr, draws.eps), draws.logsnr)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, draws.label)
    return loss, (jnp.argmax(logits, axis=-1) == draws.label).astype(jnp.float32)
