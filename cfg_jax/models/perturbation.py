"""Weakened self-attention: the hook in the attention blocks that some guidance rules use."""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.errors import UserError
from cfg_jax.models.attention import attend

# Inside of `required`: the attention layers of the network and whether each is perturbed.
_asked: contextvars.ContextVar[dict[str, bool] | None] = contextvars.ContextVar(
    'asked', default=None
)


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """What an attention block does instead, in the layers whose names match.

    Attributes:
      kind: 'identity' (each position attends to itself), 'blur' (queries are averaged over
        positions) or 'skip' (the block is left out).
      layers: parts of layer names between underscores, joined by '/', such as 'middle' or
        'up_1/down_1'; '' is every layer.
      blur: deviation of the Gaussian of 'blur', in positions; may be infinite.
    """

    kind: str
    layers: str = ''
    blur: float = math.inf

    def applies(self, layer: str) -> bool:
        """Whether the attention layer of this name, such as 'up_1_0_attention', is perturbed."""
        parts = self.layers.split('/')
        found = any(not part or f'_{part}_' in f'_{layer}_' for part in parts)
        if (asked := _asked.get()) is not None:
            asked[layer] = found
        return found


@contextlib.contextmanager
def required(perturbation: Perturbation | None) -> Iterator[None]:
    """Holds while a network is traced: a perturbation that meets no layer would not guide.

    Raises:
      UserError: none of the attention layers that the network asked for matches.
    """
    token = _asked.set({})
    try:
        yield
        asked = _asked.get() or {}
    finally:
        _asked.reset(token)
    if perturbation is not None and asked and not any(asked.values()):
        raise UserError(
            f'layers={perturbation.layers} names no attention layer of this network; it has'
            f' {", ".join(asked)}'
        )


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
