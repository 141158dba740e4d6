"""The mean over groups of neighbours as a primitive, for which CPUs have operations of their own.

`jax.lax.platform_dependent` is differentiated branch by branch: with it in every group norm,
tracing the gradient of ADM-64 took half as long again.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def group_mean(values: Float[Array | np.ndarray, '*B C'], groups: int) -> Float[Array, '*B C']:
    """Of C numbers in `groups` groups of neighbours: each group's mean, in every one's place.

    Raises:
      ValueError: `groups` does not divide C.
    """
    if values.shape[-1] % groups:
        raise ValueError(f'{values.shape[-1]} channels do not split into {groups} groups')
    return _mean.bind(jnp.asarray(values), groups=groups)


_mean = Primitive('group_mean')


def _reshaped(values: jax.Array, *, groups: int) -> jax.Array:
    width = values.shape[-1] // groups
    means = values.reshape(*values.shape[:-1], groups, width).sum(-1) / width
    return jnp.repeat(means, width, axis=-1)


def _products(values: jax.Array, *, groups: int) -> jax.Array:
    """The same with matrices: XLA for CPUs would look up the group of every feature."""
    width = values.shape[-1] // groups
    member = jnp.repeat(jnp.eye(groups, dtype=values.dtype), width, axis=1)  # [groups, C]
    exactly = functools.partial(jnp.matmul, precision='highest')
    return exactly(exactly(values, member.T) / width, member)


_mean.def_abstract_eval(lambda values, *, groups: values)
_mean.def_impl(jax.jit(_reshaped, static_argnames='groups'))
# The matrix that takes values to means is symmetric.
ad.deflinear2(_mean, lambda cotangent, values, *, groups: [_mean.bind(cotangent, groups=groups)])


def _mapped(arguments: tuple[jax.Array], axes: tuple[int], *, groups: int) -> tuple[jax.Array, int]:
    """Over an axis of the values, which becomes the first."""
    (values,), (axis,) = arguments, axes
    return _mean.bind(jnp.moveaxis(values, axis, 0), groups=groups), 0


batching.primitive_batchers[_mean] = _mapped
mlir.register_lowering(_mean, mlir.lower_fun(_reshaped, multiple_results=False))
mlir.register_lowering(_mean, mlir.lower_fun(_products, multiple_results=False), platform='cpu')
