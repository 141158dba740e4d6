"""slope (a + xhat b) with a and b the same at all positions, as an operation linear in a and b.

Group norm's derivative takes two sums of the same product over positions in reverse. XLA for GPUs
computes a product of two sums once and writes it to memory in float32; a reduction of two arrays at
once it fuses with what makes them. Hence a primitive: only one has a transpose of its own and can
be differentiated again, forward and in reverse.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from cfg_jax.models.sliced_sum import positions, sliced_sum

_PARTS = 8  # sums are made of so many: work for all of a GPU's processors

_modulate = Primitive('modulate')


def modulate(
    a: Float[Array, 'B C'],
    b: Float[Array, 'B C'],
    slope: Float[Array, 'B *positions C'],
    xhat: Float[Array, 'B *positions C'],
) -> Float[Array, 'B *positions C']:
    """slope (a + xhat b), a and b repeated at all positions; one dtype for all.

    In reverse, a cotangent c gives a the sum over positions of c slope and b that of c slope xhat.
    """
    return _modulate.bind(a, b, slope, xhat)


def spread(per_channel: Float[Array, 'B C'], ndim: int) -> Float[Array, 'B *ones C']:
    """[B, C] -> [B, 1, ..., C] of `ndim` dimensions."""
    batch, channels = per_channel.shape
    return per_channel.reshape(batch, *(1,) * (ndim - 2), channels)


def _plain(a: jax.Array, b: jax.Array, slope: jax.Array, xhat: jax.Array) -> jax.Array:
    return slope * (spread(a, xhat.ndim) + xhat * spread(b, xhat.ndim))


def _transpose(
    cotangent: jax.Array, a: Any, b: Any, slope: jax.Array, xhat: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    product = cotangent * slope
    return *_two_sums(product, product * xhat), None, None


def _jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    tangents = map(ad.instantiate_zeros, tangents)
    return modulate(*primals), jax.jvp(_plain, primals, tuple(tangents))[1]


def _batch(arguments: Any, axes: Any) -> tuple[jax.Array, int]:
    return jax.vmap(_plain, axes)(*arguments), 0


_modulate.def_impl(_plain)
_modulate.def_abstract_eval(lambda a, b, slope, xhat: slope)
ad.primitive_transposes[_modulate] = _transpose
ad.primitive_jvps[_modulate] = _jvp
batching.primitive_batchers[_modulate] = _batch
mlir.register_lowering(_modulate, mlir.lower_fun(_plain, multiple_results=False))


@jax.custom_jvp
def _two_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of both over positions, [B, ..., C] -> [B, C]."""
    return jax.lax.platform_dependent(x, y, cuda=in_one_pass, default=one_by_one)


@_two_sums.defjvp
def _two_sums_jvp(primals: Any, tangents: Any) -> Any:
    return _two_sums(*primals), one_by_one(*tangents)


def one_by_one(
    x: Float[Array, 'B *positions C'], y: Float[Array, 'B *positions C']
) -> tuple[Float[Array, 'B C'], Float[Array, 'B C']]:
    """Sums of both over positions, [B, C] each."""
    return sliced_sum(x, positions(x)), sliced_sum(y, positions(y))


def in_one_pass(
    x: Float[Array, 'B *positions C'], y: Float[Array, 'B *positions C']
) -> tuple[Float[Array, 'B C'], Float[Array, 'B C']]:
    """The same, as reductions of two arrays at once."""

    def summed(pair: Any, axis: int) -> Any:
        zero = jnp.zeros((), x.dtype)
        return jax.lax.reduce(pair, (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), (axis,))

    batch, channels = x.shape[0], x.shape[-1]
    parts = math.gcd(_PARTS, math.prod(x.shape[1:-1]))
    pair = tuple(a.reshape(batch, parts, -1, channels) for a in (x, y))
    return summed(summed(pair, 2), 1)
