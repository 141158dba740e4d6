"""Parameters in the type that a network computes with, before a loop rather than in it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal


def cast_as_used(function: Callable[..., Any], params: Any, *arguments: Any) -> Any:
    """`params` with those cast that `function(params, *arguments)` only casts to one other dtype.

    What the function then returns is the same. XLA for GPUs casts in a loop what its body casts: at
    every level of a trajectory all parameters would be read in float32, and written in 16 bits.
    """
    leaves, tree = jax.tree.flatten(params)
    jaxpr = jax.make_jaxpr(function)(params, *arguments).jaxpr
    seen: list[set[Any]] = [set() for _ in leaves]
    others = [None] * (len(jaxpr.invars) - len(leaves))
    for uses in _follow(jaxpr, [*seen, *others]):
        if uses is not None:
            uses.add(None)
    cast = [
        leaf if len(uses) != 1 or None in uses else leaf.astype(*uses)
        for leaf, uses in zip(leaves, seen, strict=True)
    ]
    return jax.tree.unflatten(tree, cast)


def _follow(jaxpr: Any, inputs: Sequence[set[Any] | None]) -> list[set[Any] | None]:
    """Adds to each input what it is cast to, or None for another use; what is an output, returned.

    Inputs that are None are not followed.
    """
    of = dict(zip(jaxpr.invars, inputs, strict=True))

    def uses(variable: Any) -> set[Any] | None:
        return None if isinstance(variable, Literal) else of.get(variable)

    for equation in jaxpr.eqns:
        operands = [uses(variable) for variable in equation.invars]
        name = equation.primitive.name
        called = equation.params.get('call_jaxpr' if name == 'custom_jvp_call' else 'jaxpr')
        if name in ('custom_jvp_call', 'jit'):
            of |= zip(equation.outvars, _follow(called.jaxpr, operands), strict=True)
            continue
        for found in operands:
            if found is not None:
                found.add(equation.params['new_dtype'] if name == 'convert_element_type' else None)
    return [uses(variable) for variable in jaxpr.outvars]
