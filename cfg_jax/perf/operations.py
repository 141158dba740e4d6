"""Operations of a computation, counted from its jaxpr: nothing is run or allocated."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_flops(fn: Callable, *args: Any) -> int:
    """Floating-point operations of `fn(*args)`, 2 per multiply-add.

    Counts convolutions and matrix products (dense layers and attention), the operations that
    decide the time of a network; element-wise work is left out. Of the branches of a condition the
    most expensive counts, of those that platforms choose the default. `args` may be
    `jax.ShapeDtypeStruct`s.
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    platforms: list[Any] = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'platform_index':
            platforms += equation.outvars
        if equation.primitive.name == 'conv_general_dilated':
            total += _conv_flops(equation)
        elif equation.primitive.name == 'dot_general':
            total += _dot_flops(equation)
        elif equation.primitive.name.startswith('dot_product_attention_'):  # cuDNN's
            total += _attention_flops(equation)
        counts = [_count(sub) for sub in _inner_jaxprs(tuple(equation.params.values()))]
        inner = sum(counts)
        if equation.primitive.name == 'cond':
            by_platform = any(equation.invars[0] is index for index in platforms)
            inner = counts[-1] if by_platform else max(counts)
        # A scan runs its body `length` times, a map over devices on each of them.
        times = equation.params.get('length', 1)
        if equation.primitive.name == 'shard_map':
            times = equation.params['mesh'].size
        total += inner * times
    return total


def _inner_jaxprs(value: Any) -> Iterator[Any]:
    if hasattr(value, 'jaxpr'):
        yield value.jaxpr
    elif hasattr(value, 'eqns'):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _inner_jaxprs(item)


def _conv_flops(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_features_axis = equation.params['dimension_numbers'].rhs_spec[0]
    per_output = math.prod(kernel) // kernel[out_features_axis]
    # Zeros between pixels, of transposed convolutions and gradients, are not multiplied.
    among = math.prod(equation.params['lhs_dilation'])
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output // among


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params['dimension_numbers']
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * depth


def _attention_flops(equation: Any) -> int:
    """q k^T and its product with v; twice that backward: q k^T computed again is not counted."""
    batch, length, heads, channels = equation.invars[0].aval.shape
    forward = 4 * batch * length * equation.invars[1].aval.shape[1] * heads * channels
    return forward if '_fwd' in equation.primitive.name else 2 * forward
