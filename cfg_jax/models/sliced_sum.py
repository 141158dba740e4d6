"""A sum over axes as a primitive, for which CPUs have operations of their own.

XLA for CPUs adds one number after the other, but whole slices with the vector units.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

_SLICES = 8


def sliced_sum(
    values: Float[Array | np.ndarray, '*shape'], axes: tuple[int, ...]
) -> Float[Array, '*rest']:
    """jnp.sum(values, axes) of floats over neighbouring axes, the first one first, from 0."""
    return _sum.bind(jnp.asarray(values), axes=axes) if axes else jnp.asarray(values)


def positions(values: Float[Array | np.ndarray, 'B *positions C']) -> tuple[int, ...]:
    """The axes between the first and the last."""
    return tuple(range(1, values.ndim - 1))


def folded(
    values: Float[Array, '*shape'], axis: int, combine: Callable[[Array, Array], Array]
) -> Float[Array, '*folded']:
    """The eight slices of an axis that is a multiple of eight, combined; else the values."""
    if values.shape[axis] % _SLICES:
        return values
    return functools.reduce(combine, jnp.split(values, _SLICES, axis))


_sum = Primitive('sliced_sum')


def _whole(values: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(values, axes)


def _sliced(values: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    """The same of slices, which are added to each other first."""
    before, after = values.shape[: axes[0]], values.shape[axes[-1] + 1 :]
    count = math.prod(values.shape[i] for i in axes)
    flat = values.reshape(*before, count, *after)
    return jnp.sum(folded(flat, len(before), jnp.add), len(before))


def _left(values: jax.core.ShapedArray, *, axes: tuple[int, ...]) -> jax.core.ShapedArray:
    return values.update(shape=tuple(n for i, n in enumerate(values.shape) if i not in axes))


def _transposed(
    cotangent: jax.Array, values: ad.UndefinedPrimal, *, axes: tuple[int, ...]
) -> list[jax.Array]:
    return [jnp.broadcast_to(jnp.expand_dims(cotangent, axes), values.aval.shape)]


def _mapped(
    arguments: tuple[jax.Array], mapped: tuple[int], *, axes: tuple[int, ...]
) -> tuple[jax.Array, int]:
    """Over an axis of the values, which becomes the first."""
    (values,), (axis,) = arguments, mapped
    return _sum.bind(jnp.moveaxis(values, axis, 0), axes=tuple(i + 1 for i in axes)), 0


_sum.def_abstract_eval(_left)
_sum.def_impl(jax.jit(_whole, static_argnames='axes'))
ad.deflinear2(_sum, _transposed)
batching.primitive_batchers[_sum] = _mapped
mlir.register_lowering(_sum, mlir.lower_fun(_whole, multiple_results=False))
mlir.register_lowering(_sum, mlir.lower_fun(_sliced, multiple_results=False), platform='cpu')
