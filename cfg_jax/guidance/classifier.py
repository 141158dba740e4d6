"""Classifier guidance (Dhariwal & Nichol 2021): the method that classifier-free guidance replaces.

`w` is the weight of the paper's section 3.1 and ADM's gradient scale s. It counts from the model
that is shifted: w on eps(z, c) corresponds to w + 1 on eps(z), and for exact scores either is
classifier-free guidance with weight w.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer

from cfg_jax import diffusion
from cfg_jax.diffusion import ImageArray, Images, PerImage, broadcast_to_images, check_same_shape
from cfg_jax.guidance import (
    CLASSIFIER,
    CONDITIONAL,
    NULL,
    Evaluation,
    GuidanceLevel,
    Predictions,
    Rule,
)

# classifier(z [B, H, W, C], logsnr [B]) -> logits [B, num_classes]
Classifier = Callable[[jax.Array, jax.Array], jax.Array]


def log_prob_gradient(
    classifier: Classifier,
    z: Images,
    logsnr: PerImage,
    label: Integer[Array | np.ndarray, ' B'],
) -> ImageArray:
    """grad_z log p(label | z), [B, H, W, C].

    The classifier must treat each image on its own: the gradient is that of the sum over the batch.

    Args:
      classifier: logits of p(c | z, logsnr).
      z: noisy images [B, H, W, C].
      logsnr: one for all, [], or one per image, [B].
      label: class ids, int32 [B].

    Raises:
      ValueError: not as many labels or rows of logits as images.
    """
    if label.shape != z.shape[:1]:
        raise ValueError(f'{z.shape[0]} images need as many labels; got the shape {label.shape}')
    logsnr = jnp.broadcast_to(logsnr, z.shape[:1])

    def total(z: jax.Array) -> jax.Array:
        logits = classifier(z, logsnr)
        if logits.ndim != 2 or len(logits) != len(z):
            raise ValueError(f'{len(z)} images need as many rows of logits; got {logits.shape}')
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return jnp.sum(jnp.take_along_axis(log_probs, label[:, None], axis=-1))

    return jax.grad(total)(z)


def eps_shift(eps: Images, gradient: Images, logsnr: PerImage, w: PerImage) -> ImageArray:
    """eps - w sigma grad_z log p(c | z), eq. (5) of the paper and ADM's Algorithm 2.

    For any sampler. The sampler clips x~ after the shift, while `ClassifierMean` clips before it.

    Args:
      eps: conditional or unconditional prediction, [B, H, W, C].
      gradient: grad_z log p(c | z), [B, H, W, C].
      logsnr: one for all, [], or one per image, [B].
      w: guidance weight, a scalar or one per image, [B]; may be traced.

    Raises:
      ValueError: shapes that do not agree.
    """
    check_same_shape(eps=eps, gradient=gradient)
    scale = broadcast_to_images(w, eps) * broadcast_to_images(diffusion.sigma(logsnr), eps)
    return jnp.asarray(eps) - scale * gradient


@dataclasses.dataclass(frozen=True)
class ClassifierRule(Rule):
    """What both forms have in common.

    Attributes:
      conditional: whether the model that is guided knows the class too.
    """

    conditional: bool = True

    @property
    def unguided(self) -> Evaluation:
        """The model that is guided, alone."""
        return CONDITIONAL if self.conditional else NULL

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:  # type: ignore[override]
        """The model, and the classifier's gradient."""
        return self.unguided, CLASSIFIER


@dataclasses.dataclass(frozen=True)
class ClassifierEps(ClassifierRule):
    """eps - w sigma grad_z log p(c | z), for any sampler.

    Attributes:
      clip_first: shifts the eps of x~ clipped to [-1, 1], as ADM's code does for DDIM; the sampler
        is then given clip=False, since there the shifted x~ is not clipped.
    """

    clip_first: bool = False

    @property
    def unguided_at_zero(self) -> bool:
        """x~ is clipped at w = 0 too."""
        return not self.clip_first

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps - w sigma grad_z log p(c | z), [B, H, W, C]."""
        eps, gradient = predictions
        if self.clip_first:
            x = jnp.clip(diffusion.x_from_eps(level.z, eps, level.logsnr), -1.0, 1.0)
            eps = diffusion.eps_from_x(level.z, x, level.logsnr)
        return eps_shift(eps, gradient, level.logsnr, w), state


@dataclasses.dataclass(frozen=True)
class ClassifierMean(ClassifierRule):
    """w Sigma grad_z log p(c | z), added to the mean of the ancestral N(mean, Sigma).

    Eq. (10) and Algorithm 1 of Dhariwal & Nichol. They expand log p(c | z') around the mean of z';
    their code takes the gradient at z and its noise level instead, and so does this. To first order
    in the step it is `ClassifierEps`, which moves the same mean by (alpha' / alpha) w
    sigma^2_{l|l'} grad_z log p(c | z), with sigma^2_{l|l'} the variance of eq. (4) at v = 1.
    """

    ancestral_only: ClassVar[bool] = True

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """eps of the model, unchanged: only the mean is shifted."""
        return predictions[0], state

    def mean_gradient(self, w: PerImage, predictions: Predictions) -> ImageArray:
        """w grad_z log p(c | z); the sampler multiplies by the variance of its transition."""
        eps, gradient = predictions
        check_same_shape(eps=eps, gradient=gradient)
        return broadcast_to_images(w, gradient) * gradient
