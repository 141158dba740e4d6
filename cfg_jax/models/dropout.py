"""Dropout whose reverse pass needs its result alone, not what was drawn."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


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
        return _drop(keep, jax.random.bernoulli(self.make_rng('dropout'), keep, h.shape), h)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _drop(
    keep: float, kept: Bool[Array, '*shape'], h: Float[Array, '*shape']
) -> Float[Array, '*shape']:
    """h / keep where kept, else 0. A kept 0 is the smallest number: only what is dropped is 0."""
    scaled = h / keep
    scaled = jnp.where(scaled == 0.0, jnp.finfo(h.dtype).tiny, scaled)
    return jnp.where(kept, scaled, jnp.zeros_like(h))


@_drop.defjvp
def _derivative(keep: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    dropped = _drop(keep, *primals)
    dh = tangents[1] / keep
    return dropped, jnp.where(dropped != 0.0, dh, jnp.zeros_like(dh))
