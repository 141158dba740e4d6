"""Attention for TPUs whose weights never leave the chip, forward and in reverse.

XLA writes the T x T weights and their derivatives to memory. Here a core holds keys and values of
128 channels and takes a head's queries some rows at a time: rows of weights are whole, so that
softmax is its plain formula, and the reverse pass computes them again. Products take weights and
their derivatives rounded to the features' type, and sum in float32.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

_AT_ONCE = 512 * 1024  # weights, 2 MiB in float32
_ON_CHIP = 14 * 2**20  # bytes of a core's memory, of 16 MiB that a kernel has
_LANES = 128  # channels of a register's row, and of a product at once


def knows(dtype: jnp.dtype, queries: int, keys: int, heads: int, channels: int) -> bool:
    """Whether it is for such heads: bfloat16, positions in 128s, a power of 2 of channels.

    And not so many positions that the reverse pass would not fit on the chip.
    """
    even = queries % _LANES == 0 and keys % _LANES == 0 and _LANES % channels == 0
    rows = _rows(queries, keys)
    # Three arrays as long as the queries and four as the keys, twice, for copies under way; two
    # sums, and weights, their derivatives and those of the logits in float32.
    blocks = 2 * (3 * queries + 4 * keys) * _lanes(heads * channels) * dtype.itemsize
    kept = blocks + 4 * (2 * keys * _LANES + 3 * rows * keys)
    return dtype == jnp.bfloat16 and even and rows > 0 and kept <= _ON_CHIP


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    q: Float[Array, 'B T heads C'],
    k: Float[Array, 'B S heads C'],
    v: Float[Array, 'B S heads C'],
    interpret: bool = False,
) -> Float[Array, 'B T heads C']:
    """softmax(q k^T / sqrt(C)) v over positions; [B, positions, heads, C].

    It has a reverse pass and no forward derivative. `interpret` runs it on any device, slowly.
    """
    return _of_every_head(_forward, (q, k, v), (q,), interpret)[0]


def _with_inputs(*inputs: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return attend(*inputs), inputs[:3]


def _reverse(
    interpret: bool, inputs: tuple[jax.Array, ...], d_out: jax.Array
) -> tuple[jax.Array, ...]:
    return _of_every_head(_gradients, (*inputs, d_out), inputs, interpret)


attend.defvjp(_with_inputs, _reverse)


def _forward(channels: int, rows: int, q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any) -> None:
    for lanes, own in _heads(channels, q_ref.shape[1]):
        k, v = _only(own, k_ref[:, lanes]), v_ref[:, lanes]
        for some in _parts(q_ref.shape[0], rows):
            weights, totals = _weights(channels, q_ref[some, lanes], k)
            out = _product(weights.astype(v.dtype), v, 1, 0) / totals
            _put(own, out_ref, some, lanes, out)


def _gradients(
    channels: int,
    rows: int,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    d_out_ref: Any,
    dq_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
) -> None:
    """With P the weights and dP = d_out v^T: dS = P (dP - sum_s P dP) / sqrt(C) makes dq and dk."""
    dtype = q_ref.dtype
    for lanes, own in _heads(channels, q_ref.shape[1]):
        k, v = (_only(own, ref[:, lanes]) for ref in (k_ref, v_ref))
        dk = jnp.zeros(k.shape, jnp.float32)
        dv = jnp.zeros(v.shape, jnp.float32)
        for some in _parts(q_ref.shape[0], rows):
            q, d_out = q_ref[some, lanes], d_out_ref[some, lanes]
            weights, totals = _weights(channels, q, k)
            weights = weights / totals
            d_weights = _product(d_out, v, 1, 1)
            mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
            d_logits = (weights * (d_weights - mean) * channels**-0.5).astype(dtype)
            dv += _product(weights.astype(dtype), d_out, 0, 0)
            dk += _product(d_logits, q, 0, 0)
            _put(own, dq_ref, some, lanes, _product(d_logits, k, 1, 0))
        everywhere = pl.ds(0, k.shape[0])
        _put(own, dk_ref, everywhere, lanes, dk)
        _put(own, dv_ref, everywhere, lanes, dv)


def _heads(channels: int, width: int) -> Iterator[tuple[Any, jax.Array | None]]:
    """Of each head the lanes it lies in, and which of these are its own; None: all."""
    for start in range(0, width, _LANES):
        size = min(_LANES, width - start)
        lanes = pl.ds(start, size)
        if size == channels:
            yield lanes, None
            continue
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
        for first in range(0, size, channels):
            yield lanes, (lane >= first) & (lane < first + channels)


def _rows(queries: int, keys: int) -> int:
    """Of queries at once: the largest part whose weights are not too many; 0 for none."""
    parts = (queries // n for n in range(1, queries // _LANES + 1) if queries % (_LANES * n) == 0)
    return next((rows for rows in parts if rows * keys <= _AT_ONCE), 0)


def _lanes(width: int) -> int:
    """Channels of a block: a register's row of them, or all."""
    return width if width % _LANES else _LANES


def _parts(queries: int, rows: int) -> list[Any]:
    return [pl.ds(start, rows) for start in range(0, queries, rows)]


def _only(own: jax.Array | None, a: jax.Array) -> jax.Array:
    """A head's own lanes, 0 in others: products over all of them are the head's, at no cost."""
    return a if own is None else jnp.where(own, a, jnp.zeros_like(a))


def _put(own: jax.Array | None, ref: Any, some: Any, lanes: Any, a: jax.Array) -> None:
    """Writes a head's own lanes and leaves the others."""
    a = a.astype(ref.dtype)
    ref[some, lanes] = a if own is None else jnp.where(own, a, ref[some, lanes])


def _weights(channels: int, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(logits - their maximum) and its sums over keys, [rows, S] and [rows, 1]."""
    logits = _product(q, k, 1, 1) * channels**-0.5
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _product(a: jax.Array, b: jax.Array, axis_of_a: int, axis_of_b: int) -> jax.Array:
    """Two matrices summed over an axis of each, in float32."""
    axes = (((axis_of_a,), (axis_of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _of_every_head(
    kernel: Any, inputs: tuple[jax.Array, ...], like: tuple[jax.Array, ...], interpret: bool
) -> tuple[jax.Array, ...]:
    """The kernel's results, with shapes and dtypes as `like`.

    Heads lie beside each other, as projections write them: [B, positions, heads C].
    """
    (batch, queries, heads, channels), keys = inputs[0].shape, inputs[1].shape[1]
    logits, width = batch * heads * queries * keys, heads * channels
    lanes = _lanes(width)
    moved = sum(a.size * a.dtype.itemsize for a in (*inputs, *like))
    products = 2 if len(like) == 1 else 5

    def block(a: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, a.shape[1], lanes), lambda i, j: (i, 0, j))

    results = pl.pallas_call(
        functools.partial(kernel, channels, _rows(queries, keys)),
        out_shape=tuple(jax.ShapeDtypeStruct((*a.shape[:2], width), a.dtype) for a in like),
        grid=(batch, width // lanes),
        in_specs=[block(a) for a in inputs],
        out_specs=tuple(block(a) for a in like),
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'parallel')),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * logits * channels, transcendentals=logits, bytes_accessed=moved
        ),
        interpret=interpret,
    )(*(a.reshape(*a.shape[:2], width) for a in inputs))
    return tuple(result.reshape(a.shape) for result, a in zip(results, like, strict=True))
