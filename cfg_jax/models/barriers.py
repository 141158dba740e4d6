"""Identities that say to XLA what is computed when.

They are primitives, which choose by platform when they are lowered: `jax.lax.platform_dependent` is
differentiated branch by branch, and JAX 0.11 cannot transpose a barrier in a branch.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def _identity(*arrays: jax.Array) -> Sequence[jax.Array]:
    return arrays


def _barrier(*arrays: jax.Array) -> Sequence[jax.Array]:
    return jax.lax.optimization_barrier(arrays)


def _primitive(name: str) -> Primitive:
    """An identity of several arrays, linear; tangents and cotangents pass it together too."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def passed(tangents: Sequence[Any]) -> Sequence[Any]:
        there = [tangent for tangent in tangents if not isinstance(tangent, ad.Zero)]
        out = iter(primitive.bind(*there) if there else ())
        return [t if isinstance(t, ad.Zero) else next(out) for t in tangents]

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        return primitive.bind(*primals), passed(tangents)

    def transpose(cotangents: Sequence[Any], *arrays: Any) -> Sequence[Any]:
        return passed(cotangents)

    def batch(arrays: Sequence[Any], axes: Sequence[Any]) -> tuple[Any, Any]:
        return primitive.bind(*arrays), axes

    primitive.def_impl(_identity)
    primitive.def_abstract_eval(_identity)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    return primitive


_IDENTITY, _BARRIER = (mlir.lower_fun(f, multiple_results=True) for f in (_identity, _barrier))

_computed_again = _primitive('computed_again')
mlir.register_lowering(_computed_again, _BARRIER)
mlir.register_lowering(_computed_again, _IDENTITY, platform='cpu')

_together = _primitive('together')
mlir.register_lowering(_together, _IDENTITY)
mlir.register_lowering(_together, _BARRIER, platform='cuda')
mlir.register_lowering(_together, _BARRIER, platform='rocm')


def computed_again(arrays: Any) -> Any:
    """The same arrays, from which accelerators compute anew what was computed of them before.

    XLA computes once what is used twice, and keeps it in memory in between where that is more
    than one kernel; elementwise operations are cheaper there than their results. On CPUs they are
    not, and nothing is computed again.
    """
    leaves, structure = jax.tree.flatten(arrays)
    return jax.tree.unflatten(structure, _computed_again.bind(*leaves))


def computed_once(arrays: Any) -> Any:
    """The same arrays, which accelerators write to memory once for all that use them.

    XLA for TPUs would compute elementwise operations again for each of their users, long ones too.
    """
    return computed_again(arrays)


@jax.custom_jvp
def together(arrays: Any) -> Any:
    """The same arrays, whose gradients GPUs compute at one time.

    TPUs need not be told, and would no longer make the sums that group norm takes of a gradient
    while a convolution computes it.
    """
    return arrays


@together.defjvp
def _gradients_together(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten(tangents[0])
    return together(*primals), jax.tree.unflatten(structure, _together.bind(*leaves))
