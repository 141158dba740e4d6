"""Weakened self-attention: the hook in the attention blocks that some guidance rules use."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.models.attention import attend


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """What an attention block does instead, in the layers whose names match.

    Attributes:
      kind: 'identity' (each position attends to itself), 'blur' (queries are averaged over
        positions) or 'skip' (the block is left out).
      layers: parts of layer names, joined by '/'; '' is every layer.
      blur: deviation of the Gaussian of 'blur', in positions; may be infinite.
    """

    kind: str
    layers: str = ''
    blur: float = math.inf

    def applies(self, layer: str) -> bool:
        """Whether the attention layer of this name, such as 'up_1_0_attention', is perturbed."""
        return any(part in layer for part in self.layers.split('/'))


def attend_perturbed(
    q: Float[Array, 'B T heads C'],
    k: Float[Array, 'B T heads C'],
    v: Float[Array, 'B T heads C'],
    kernel: str,
    perturbation: Perturbation | None,
    shape: tuple[int, int],
) -> Float[Array, 'B T heads C']:
    """`attend` over T positions of `shape` [height, width], weakened where there is a perturbation.

    A block that is to be skipped is skipped by whoever calls this.
    """
    if perturbation is not None and perturbation.kind == 'blur':
        q = blur_positions(q, *shape, perturbation.blur)
    if perturbation is not None and perturbation.kind == 'identity':
        return v
    return attend(q, k, v, kernel)


def blur_positions(q: jax.Array, height: int, width: int, deviation: float) -> jax.Array:
    """q [B, H W, heads, C] averaged over positions by a Gaussian of `deviation` positions.

    Edges reflect the average: weights of positions outside are left out and the rest sums to 1. An
    infinite deviation is the mean over all positions; 0 changes nothing.
    """
    if deviation == 0:
        return q
    image = q.reshape(q.shape[0], height, width, *q.shape[2:])
    rows, columns = _weights(height, deviation), _weights(width, deviation)
    return jnp.einsum('ih,jw,bhwnc->bijnc', rows, columns, image).reshape(q.shape).astype(q.dtype)


def _weights(size: int, deviation: float) -> jax.Array:
    """Weights [size, size] of each position's neighbours, each row summing to 1."""
    distance = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
    if math.isinf(deviation):
        weights = jnp.ones((size, size))
    else:
        weights = jnp.exp(-0.5 * jnp.square(distance / deviation))
    return weights / weights.sum(axis=1, keepdims=True)
