"""The sum at the end of a residual block."""

from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float


@jax.custom_jvp
def add_residual(
    skip: Float[Array, 'B H W C'], h: Float[Array, 'B H W C']
) -> Float[Array, 'B H W C']:
    """skip + h, where h comes from a convolution or a matrix product.

    cuDNN adds as it convolves. XLA sees that it could only where both have the shape of the
    product, in which batches that are mapped over are one: so the sum is made in it.
    """
    return _add(skip, h)


@add_residual.defjvp
def _jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    d_skip, d_h = tangents
    return add_residual(*primals), d_skip + d_h


@custom_vmap
def _add(skip: jax.Array, h: jax.Array) -> jax.Array:
    return skip + h


@_add.def_vmap
def _mapped(
    size: int, is_mapped: list[bool], skip: jax.Array, h: jax.Array
) -> tuple[jax.Array, bool]:
    if not all(is_mapped):
        return skip + h, True
    one_batch = size * h.shape[1], *h.shape[2:]
    # The barrier keeps XLA from moving both changes of shape behind the sum.
    skip = jax.lax.optimization_barrier(skip.reshape(one_batch))
    return _add(skip, h.reshape(one_batch)).reshape(h.shape), True
