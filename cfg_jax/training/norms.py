"""The norm of all parameters together, in few kernels on a GPU."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

_PARTS = 256
_SMALL = 2**13


def global_norm(tree: Any, platform: str) -> Float[Array, '']:
    """sqrt(sum of the squares of all numbers in `tree`), float32.

    XLA for GPUs sums each array in kernels of its own, two where it is large, and a kernel costs a
    GPU more than most of these sums. There every array gives an array of squares or of their sums,
    one kernel at most, and all of these are summed at once. Elsewhere XLA does as well without.

    Args:
      tree: of arrays.
      platform: 'gpu', or another one.
    """
    if platform != 'gpu':
        return optax.tree.norm(tree)
    sums = jnp.concatenate([_sums_of_squares(leaf) for leaf in jax.tree.leaves(tree)])
    # Or XLA would sum the arrays one by one again.
    return jnp.sqrt(jnp.sum(jax.lax.optimization_barrier(sums)))


def clip(tree: Any, norm: Float[Array, ''], largest: float) -> Any:
    """`tree` times min(1, largest / norm), where `norm` is its norm."""
    fits = norm < largest
    return jax.tree.map(lambda leaf: jnp.where(fits, leaf, leaf / norm * largest), tree)


def _sums_of_squares(leaf: jax.Array) -> Float[Array, ' n']:
    squares = jnp.square(leaf)
    if leaf.size <= _SMALL or leaf.size % _PARTS:
        return squares.ravel()
    return squares.reshape(_PARTS, -1).sum(axis=1)
