"""Images by number: image i under seed s is the same picture whatever surrounds it.

Binds guidance and sampler into compiled functions. Every random number of image i comes
from its own key fold_in(key(s), i), so neither the batch size, nor the number of devices, nor the
guidance weight changes its noise or its label.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cfg_jax import (
    models,
    rules,
    sampling,
)
from cfg_jax.distributed import devices
from cfg_jax.perf import cost
from cfg_jax.rules import (
    Guided,
    Rule,
)

_LABEL, _START, _STEPS, _GUIDANCE = range(4)  # the random streams of one image


def image_keys(seed: ArrayLike, indices: ArrayLike) -> jax.Array:
    """The key of each image: fold_in(key(seed), i), keys [B]."""
    root = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.asarray(indices))


def _stream(keys: jax.Array, stream: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, stream))(keys)


def image_labels(seed: int, indices: ArrayLike, num_classes: int, rule: str) -> jax.Array:
    """Labels int32 [B] of images by number.

    `rule` 'uniform' draws each label independently, as ADM's and the paper's protocol does;
    'balanced' gives image i the class i mod num_classes.
    """
    indices = jnp.asarray(indices, jnp.int32)
    if rule == 'balanced':
        return indices % num_classes
    keys = _stream(image_keys(seed, indices), _LABEL)
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))(keys)


class Generator:
    """Generates images from parameters, numbers, labels and guidance weights.

    Args:
      rule: what guides, such as `rules.ClassifierFree`.
      sampler: see `sampling.make_sampler`.
      image_shape: (H, W, C).
    """

    def __init__(self, rule: Rule, sampler: sampling.Sampler, image_shape: Sequence[int]):
        self._rule = rule
        self._sampler = sampler
        self._image_shape = tuple(image_shape)
        self._unguided = devices.map_rows(self._sample_unguided, whole=2, split=2)
        self._guided = devices.map_rows(self._sample_guided, whole=2, split=3)

    def __call__(
        self,
        params: Any,
        seed: int,
        indices: Sequence[int] | np.ndarray,
        labels: Sequence[int] | np.ndarray | jax.Array,
        w: ArrayLike,
    ) -> jax.Array:
        """Images in [-1, 1] (with clipping), float32 [B, H, W, C], still on the devices.

        Args:
          params: parameters that the rule works with (use the EMA).
          seed: of the whole set of images.
          indices: numbers of the images, [B].
          labels: class ids [B].
          w: guidance weight, a number or one per image [B]. The number 0 costs one network pass a
            step; everything else costs what the rule takes and shares one compilation.
        """
        count = len(indices)
        num_devices = jax.local_device_count()
        padded = -(-count // num_devices) * num_devices
        indices = _on_devices(_pad(np.asarray(indices, np.uint32), padded))
        labels = _on_devices(_pad(np.asarray(labels, np.int32), padded))
        seed = jax.device_put(np.uint32(seed), devices.replicated())
        if np.ndim(w) == 0 and float(w) == 0.0:
            x = self._unguided(params, seed, indices, labels)
        else:
            weights = np.broadcast_to(np.asarray(w, np.float32), (count,))
            weights = _on_devices(_pad(weights, padded))
            x = self._guided(params, seed, indices, labels, weights)
        return x[:count]

    def flops_per_image(self, params: Any, w: float) -> float:
        """Floating-point operations that one image takes at guidance weight `w`; see `cost`."""
        count = jax.local_device_count()
        numbers = np.zeros(count, int)
        return cost.count_flops(lambda p: self(p, 0, numbers, numbers, w), params) / count

    def _sample_unguided(self, params, seed, indices, labels) -> jax.Array:
        return self._sample(self._rule.unguided(params, labels), image_keys(seed, indices))

    def _sample_guided(self, params, seed, indices, labels, w) -> jax.Array:
        keys = image_keys(seed, indices)
        guided = self._rule.guided(params, labels, w, _stream(keys, _GUIDANCE))
        return self._sample(guided, keys)

    def _sample(self, guided: Guided, keys: jax.Array) -> jax.Array:
        z = sampling.per_image_noise(_stream(keys, _START), self._image_shape)  # [B, H, W, C]
        shift = {} if guided.mean_shift_fn is None else {'mean_shift_fn': guided.mean_shift_fn}
        return self._sampler(guided.eps_fn, z, _stream(keys, _STEPS), **shift)


def make_generator(config: ConfigDict, rule: Rule | None = None) -> Generator:
    """The generator of a config's network with its sampler and schedule.

    `rule` takes the place of classifier-free guidance.
    """
    if rule is None:
        rule = rules.ClassifierFree(models.make_unet(config).apply, config.data.num_classes)
    sampler = sampling.make_sampler(
        config.sampling.sampler,
        num_steps=config.sampling.num_steps,
        v=config.sampling.v,
        clip=config.sampling.clip,
        logsnr_min=config.diffusion.logsnr_min,
        logsnr_max=config.diffusion.logsnr_max,
    )
    size, channels = config.data.image_size, config.data.channels
    return Generator(rule, sampler, (size, size, channels))


def _on_devices(values: np.ndarray) -> jax.Array:
    """One part a device: with many processes JAX asks for that, rather than doing it."""
    return jax.device_put(values, devices.batch_sharding())


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    """Repeats the last entry until there are `length`."""
    return np.concatenate([values, np.repeat(values[-1:], length - len(values), axis=0)])
