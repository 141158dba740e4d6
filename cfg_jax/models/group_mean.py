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


def group_mean(sums: Float[Array | np.ndarray, '*B C'], groups: int) -> Float[Array, '*B C']:
    """Of C numbers in `groups` groups of neighbours: each group's mean, in every one's place.

    Raises:
      ValueError: `groups` does not divide C.
    """
    if sums.shape[-1] % groups:
        raise ValueError(f'{sums.shape[-1]} channels do not split into {groups} groups')
    return _mean.bind(jnp.asarray(sums), groups=groups)


_mean = Primitive('group_mean')


def _reshaped(sums: jax.Array, *, groups: int) -> jax.Array:
    width = sums.shape[-1] // groups
    means = sums.reshape(*sums.shape[:-1], groups, width).sum(-1) / width
    return jnp.repeat(means, width, axis=-1)


def _products(sums: jax.Array, *, groups: int) -> jax.Array:
    """The same with matrices: XLA for CPUs would look up the group of every feature."""
    width = sums.shape[-1] // groups
    member = jnp.repeat(jnp.eye(groups, dtype=sums.dtype), width, axis=1)  # [groups, C]
    exactly = functools.partial(jnp.matmul, precision='highest')
    return exactly(exactly(sums, member.T) / width, member)


_mean.def_abstract_eval(lambda sums, *, groups: sums)
_mean.def_impl(jax.jit(_reshaped, static_argnames='groups'))
# The matrix that takes sums to means is symmetric.
ad.deflinear2(_mean, lambda cotangent, sums, *, groups: [_mean.bind(cotangent, groups=groups)])


def _mapped(arguments: tuple[jax.Array], axes: tuple[int], *, groups: int) -> tuple[jax.Array, int]:
    """Over an axis of the sums, which becomes the first."""
    (sums,), (axis,) = arguments, axes
    return _mean.bind(jnp.moveaxis(sums, axis, 0), groups=groups), 0


batching.primitive_batchers[_mean] = _mapped
mlir.register_lowering(_mean, mlir.lower_fun(_reshaped, multiple_results=False))
mlir.register_lowering(_mean, mlir.lower_fun(_products, multiple_results=False), platform='cpu')
