"""Classifier guidance (Dhariwal & Nichol 2021): the method that classifier-free guidance replaces.

A gradient function `gradient_fn(z, logsnr)` stands for grad_z log p(c | z) with the classes bound:
`functools.partial(log_prob_gradient, classifier_fn, label=label)`. It enters a sampler either
through eps (`eps_shift`) or through the mean of the ancestral transitions (`mean_shift`).

`w` is the weight of the paper's section 3.1 and ADM's gradient scale s. It counts from the model
that is shifted: w on eps(z, c) corresponds to w + 1 on eps(z), and for exact scores either is
classifier-free guidance with weight w.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cfg_jax import diffusion
from cfg_jax.diffusion import broadcast_to_images
from cfg_jax.guidance import EpsFn
from cfg_jax.sampling import MeanShiftFn

# classifier_fn(z [B, H, W, C], logsnr [B]) -> logits [B, num_classes]
ClassifierFn = Callable[[jax.Array, jax.Array], jax.Array]
# gradient_fn(z [B, H, W, C], logsnr []) -> grad_z log p(c | z) [B, H, W, C]
GradientFn = Callable[[jax.Array, jax.Array], jax.Array]


def log_prob_gradient(
    classifier_fn: ClassifierFn, z: jax.Array, logsnr: ArrayLike, label: jax.Array
) -> jax.Array:
    """grad_z log p(label | z), [B, H, W, C].

    The classifier must treat each image on its own: the gradient is that of the sum over the batch.

    Args:
      classifier_fn: logits of p(c | z, logsnr).
      z: noisy images [B, H, W, C].
      logsnr: one for all, [], or one per image, [B].
      label: class ids, int32 [B].
    """
    logsnr = jnp.broadcast_to(logsnr, z.shape[:1])

    def total(z: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(classifier_fn(z, logsnr).astype(jnp.float32))
        return jnp.sum(jnp.take_along_axis(log_probs, label[:, None], axis=-1))

    return jax.grad(total)(z)


def eps_shift(eps_fn: EpsFn, gradient_fn: GradientFn, w: ArrayLike) -> EpsFn:
    """eps~ = eps - w sigma grad_z log p(c | z), for any sampler.

    Section 3.1 of the paper; eq. (14) and Algorithm 2 of Dhariwal & Nichol, who sample with DDIM.
    A sampler that clips then clips the guided x~; ADM's code clips x~ before the shift, not after.

    Args:
      eps_fn: conditional or unconditional predictions.
      gradient_fn: grad_z log p(c | z).
      w: guidance weight, a scalar or one per image, [B]. May be traced.
    """

    def shifted(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        scale = broadcast_to_images(w, z) * broadcast_to_images(diffusion.sigma(logsnr), z)
        return eps_fn(z, logsnr) - scale * gradient_fn(z, logsnr)

    return shifted


def mean_shift(gradient_fn: GradientFn, w: ArrayLike) -> MeanShiftFn:
    """w Sigma grad_z log p(c | z), added to the mean of N(mean, Sigma), for `sampling.ancestral`.

    Eq. (10) and Algorithm 1 of Dhariwal & Nichol. They expand log p(c | z') around the mean of z';
    their code takes the gradient at z and its noise level instead, and so does this. To first order
    in the step it is `eps_shift`, which moves the same mean by (alpha' / alpha) w sigma^2_{l|l'}
    grad_z log p(c | z), with sigma^2_{l|l'} the variance of eq. (4) at v = 1.

    Args:
      gradient_fn: grad_z log p(c | z).
      w: guidance weight, a scalar or one per image, [B]. May be traced.
    """

    def shift(z: jax.Array, logsnr: jax.Array, variance: jax.Array) -> jax.Array:
        return broadcast_to_images(w, z) * variance * gradient_fn(z, logsnr)

    return shift
