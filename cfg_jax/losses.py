"""Algorithm 1 of the paper: joint training of the conditional and the unconditional model.

And the loss of a classifier of noisy images, and what weighs the loss at each log-SNR.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Num

from cfg_jax import diffusion
from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.conditioning.dropping import drop
from cfg_jax.diffusion import EPS, CosineSchedule, Images, Schedule, Target
from cfg_jax.keys import Keys, per_image_noise, stream

# network(z [B, H, W, C], logsnr [B], condition) -> prediction of a target [B, H, W, C]
Network = Callable[[jax.Array, jax.Array, Condition], jax.Array]
# classifier(z [B, H, W, C], logsnr [B]) -> logits [B, num_classes]
Classifier = Callable[[jax.Array, jax.Array], jax.Array]
# weight(logsnr [B]) -> float32 [B]
Weight = Callable[[jax.Array], jax.Array]

_CONDITION, _LOGSNR, _EPS = range(3)  # the random streams of one example


def algorithm_1(
    network: Network,
    x: Images,
    c: Condition,
    keys: Keys,
    *,
    conditioning: Conditioning,
    p_uncond: Num[ArrayLike, ''],
    schedule: Schedule = CosineSchedule(),
    target: Target = EPS,
    weight: Weight | None = None,
) -> tuple[Float[Array, ' B'], Float[Array, ' B']]:
    """Algorithm 1, the loss of each example: |eps_theta(z, c) - eps|^2, eq. (5).

    The mean over pixels and channels stands for the squared norm, which only rescales the learning
    rate. With another target the network's prediction p is compared with its target, and

        loss = weight(logsnr) (d eps / d p)^2 |p_theta(z, c) - p|^2,

    which is weight(logsnr) |eps_theta - eps|^2 whatever the target.

    Args:
      network: predicts `target`.
      x: images in [-1, 1], float32 [B, H, W, C].
      c: condition, a pytree of arrays [B, ...].
      keys: one key per example, [B]; an example's draws depend on its own key alone.
      conditioning: the kind of condition.
      p_uncond: probability of unconditional training.
      schedule: p(logsnr), as a function of u ~ U[0, 1].
      target: what the network predicts; the paper's is eps.
      weight: of the squared error of eps as a function of logsnr; None is the paper's, 1.

    Returns:
      loss and logsnr, float32 [B] each.

    Raises:
      ValueError: the prediction is not of the shape of x.
    """
    c = drop(conditioning, stream(keys, _CONDITION), c, p_uncond)  # c <- null with p_uncond
    logsnr = schedule(jax.vmap(jax.random.uniform)(stream(keys, _LOGSNR)))  # logsnr ~ p(logsnr)
    eps = per_image_noise(stream(keys, _EPS), x.shape[1:])  # eps ~ N(0, I)
    z = diffusion.q_sample(x, logsnr, eps)  # z = alpha x + sigma eps
    prediction = network(z, logsnr, c)
    diffusion.check_same_shape(x=x, prediction=prediction)
    error = prediction - target.of(x, eps, logsnr)
    loss = jnp.mean(jnp.square(error), axis=tuple(range(1, x.ndim)))
    if target is not EPS:
        loss = jnp.square(target.eps_per_prediction(logsnr)) * loss
    return (loss if weight is None else weight(logsnr) * loss), logsnr


def noisy_cross_entropy(
    classifier: Classifier,
    x: Images,
    label: Integer[Array | np.ndarray, ' B'],
    keys: Keys,
    schedule: Schedule = CosineSchedule(),
) -> tuple[Float[Array, ' B'], Float[Array, ' B'], Float[Array, ' B']]:
    """-log p(c | z, logsnr) of each example, for a classifier of noisy images.

    Section 4 of Dhariwal & Nichol 2021: the classifier sees what the sampler will show it, images
    of every noise level. No label may be null.

    Args:
      classifier: logits of p(c | z, logsnr).
      x: images in [-1, 1], [B, H, W, C].
      label: class ids, int32 [B].
      keys, schedule: as in `algorithm_1`, with the same draws.

    Returns:
      loss, 1.0 where the label is the likeliest class, and logsnr; float32 [B] each.

    Raises:
      ValueError: not as many labels or rows of logits as images.
    """
    logsnr = schedule(jax.vmap(jax.random.uniform)(stream(keys, _LOGSNR)))
    eps = per_image_noise(stream(keys, _EPS), x.shape[1:])
    logits = classifier(diffusion.q_sample(x, logsnr, eps), logsnr)
    if not len(x) == len(label) == len(logits):
        raise ValueError(
            f'{len(x)} images need as many labels and rows of logits; got {label.shape} and'
            f' {logits.shape}'
        )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return loss, (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32), logsnr


def weight_eps(logsnr: Float[Array, ' B']) -> Float[Array, ' B']:
    """1: the paper's mean squared error of eps."""
    return jnp.ones_like(logsnr)


def weight_x(logsnr: Float[Array, ' B']) -> Float[Array, ' B']:
    """exp(-logsnr) = (sigma / alpha)^2: mean squared error of x, since |x - x'| = sigma / alpha
    |eps - eps'| at the same z."""
    return jnp.exp(-logsnr)


def weight_v(logsnr: Float[Array, ' B']) -> Float[Array, ' B']:
    """1 + exp(-logsnr) = 1 / alpha^2: mean squared error of v."""
    return 1.0 + jnp.exp(-logsnr)


def weight_velocity(logsnr: Float[Array, ' B']) -> Float[Array, ' B']:
    """(1 + exp(-logsnr / 2))^2 = (1 + sigma / alpha)^2: mean squared error of eps - x."""
    return jnp.square(1.0 + jnp.exp(-0.5 * logsnr))
