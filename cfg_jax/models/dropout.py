"""Dropout whose reverse pass needs its result alone, not what was drawn."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cfg_jax.models.barriers import computed_once


class Dropout(nn.Module):
    """h / (1 - rate) where it is kept, with probability 1 - rate, else 0 (Srivastava et al. 2014).

    A GPU would keep what was drawn for the backward pass, as a byte for each feature.
    """

    rate: float

    @nn.compact
    def __call__(
        self, h: Float[Array | np.ndarray, '*shape'], train: bool
    ) -> Float[Array, '*shape']:
        """The same shape; without `train`, or at a rate of 0, h itself."""
        if not train or self.rate == 0.0:
            return jnp.asarray(h)
        keep = 1.0 - self.rate
        return _drop(keep, _draw(self.make_rng('dropout'), keep, h.shape), h)


def _draw(key: jax.Array, keep: float, shape: tuple[int, ...]) -> Bool[Array, '*shape']:
    """True with probability `keep`."""
    by_threefry = functools.partial(jax.random.bernoulli, p=keep, shape=shape)
    on_tpus = functools.partial(_draw_by_the_chip, keep=keep, shape=shape)
    return jax.lax.platform_dependent(key, tpu=on_tpus, default=by_threefry)


def _draw_by_the_chip(key: jax.Array, keep: float, shape: tuple[int, ...]) -> Bool[Array, '*shape']:
    """The same to 16 bits by a TPU's own generator, which takes a third of the cycles there."""
    words = jnp.resize(jax.random.key_data(key), (4,))  # of two that threefry has, or of four
    drawn = jax.random.bits(jax.random.wrap_key_data(words, impl='rbg'), shape, jnp.uint16)
    return drawn < jnp.uint16(min(round(keep * 2**16), 2**16 - 1))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _drop(
    keep: float, kept: Bool[Array, '*shape'], h: Float[Array, '*shape']
) -> Float[Array, '*shape']:
    """h / keep where kept, else 0. A kept 0 is the smallest number: only what is dropped is 0."""
    scaled = h / keep
    scaled = jnp.where(scaled == 0.0, jnp.finfo(h.dtype).tiny, scaled)
    return computed_once(jnp.where(kept, scaled, jnp.zeros_like(h)))


@_drop.defjvp
def _derivative(keep: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    dropped = _drop(keep, *primals)
    dh = tangents[1] / keep
    return dropped, jnp.where(dropped != 0.0, dh, jnp.zeros_like(dh))
