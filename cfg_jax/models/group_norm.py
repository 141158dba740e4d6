"""Group normalisation, its affine map and SiLU as one operation with a derivative of its own.

Between two convolutions everything is limited by memory. Autodiff of the plain formula takes four
sums over positions in reverse; the derivative below takes two, forward and in reverse.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_EPSILON = 1e-5


def at_least_float32(a: Float[Array | np.ndarray, '*shape']) -> Float[Array, '*shape']:
    """`a` in float32, or in float64 if that is what it is."""
    return jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32))


class GroupNorm(nn.Module):
    """act(xhat * scale + bias), xhat = (h - mean) / sqrt(var + 1e-5) (Wu & He 2018).

    mean and var are those of an image's positions and a group's channels, computed in float32 (in
    float64 for features in float64) and the variance from differences to the mean: E[h^2] - E[h]^2
    loses its digits far from 0.

    Attributes:
      num_groups: divides the channels.
      silu: act is SiLU; else the identity.
      dtype: of the result.
    """

    num_groups: int
    silu: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array | np.ndarray, 'B *positions C'],
        scale: Float[Array | np.ndarray, 'B C'] | None = None,
        shift: Float[Array | np.ndarray, 'B C'] | None = None,
    ) -> Float[Array, 'B *positions C']:
        """[B, ..., C] -> [B, ..., C].

        Args:
          h: features, channels last.
          scale, shift: [B, C], a further affine map xhat' (1 + scale) + shift before act, of
            xhat' = xhat * scale + bias.

        Raises:
          ValueError: `num_groups` does not divide the channels.
        """
        batch, channels = h.shape[0], h.shape[-1]
        if channels % self.num_groups:
            raise ValueError(f'{channels} channels do not split into {self.num_groups} groups')
        gain = self.param('scale', nn.initializers.ones_init(), (channels,))
        offset = self.param('bias', nn.initializers.zeros_init(), (channels,))
        if scale is not None:
            gain, offset = gain * (1.0 + scale), offset * (1.0 + scale)
        if shift is not None:
            offset = offset + shift
        gain, offset = (jnp.broadcast_to(a, (batch, channels)) for a in (gain, offset))
        return _normalise(self.num_groups, self.silu, self.dtype, jnp.asarray(h), gain, offset)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _normalise(
    groups: int, silu: bool, dtype: Any, h: jax.Array, gain: jax.Array, offset: jax.Array
) -> jax.Array:
    """act(xhat gain + offset) with gain and offset [B, C]."""
    return _activate(silu, dtype, h, *_statistics(groups, h), gain, offset)


@_normalise.defjvp
def _derivative(
    groups: int,
    silu: bool,
    dtype: Any,
    primals: tuple[jax.Array, jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """With v = rstd dh: du = gain v + a + xhat b, where a group's mean m makes

    a = d offset - gain m(v) and b = d gain - gain m(v xhat), [B, C] both. In reverse, the two sums
    over positions that are the cotangents of a and b serve offset, gain and h.
    """
    h, gain, offset = primals
    dh, d_gain, d_offset = tangents
    mean, rstd = _statistics(groups, h)
    xhat = (h - _spread(mean, h)) * _spread(rstd, h)
    v = dh.astype(xhat.dtype) * _spread(rstd, h)
    # b before a, and each minus where its transpose is a subtraction: the order of operations, and
    # so the rounding, with which earlier checkpoints were trained.
    positions = _positions(h)
    b = d_gain + gain * _group_mean(groups, jnp.sum(-(v * xhat), positions), h)
    a = d_offset + gain * _group_mean(groups, jnp.sum(-v, positions), h)
    du = v * _spread(gain, h) + _spread(a, h) + xhat * _spread(b, h)
    if silu:
        u = xhat * _spread(gain, h) + _spread(offset, h)
        sigmoid = nn.sigmoid(u)
        du = du * (1.0 + u * (1.0 - sigmoid)) * sigmoid
    return _activate(silu, dtype, h, mean, rstd, gain, offset), du.astype(dtype)


def _activate(
    silu: bool,
    dtype: Any,
    h: jax.Array,
    mean: jax.Array,
    rstd: jax.Array,
    gain: jax.Array,
    offset: jax.Array,
) -> jax.Array:
    """act((h - mean) rstd gain + offset), everything but h [B, C]."""
    u = (h - _spread(mean, h)) * _spread(rstd * gain, h) + _spread(offset, h)
    return (nn.silu(u) if silu else u).astype(dtype)


def _statistics(groups: int, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / sqrt(var + epsilon) of every channel's group, [B, C] in float32 or float64."""
    positions, dtype = _positions(h), at_least_float32(h).dtype
    # Channels by themselves first: sums along the rows of memory, whatever a group's width.
    mean = _group_mean(groups, jnp.sum(h, positions, dtype), h)
    squares = jnp.sum(jnp.square(h - _spread(mean, h)), positions)
    return mean, jax.lax.rsqrt(_group_mean(groups, squares, h) + _EPSILON)


def _group_mean(groups: int, sums: jax.Array, h: jax.Array) -> jax.Array:
    """Sums over positions [B, C] -> the group's mean, repeated for every channel, [B, C]."""
    batch, channels = sums.shape
    width = channels // groups
    means = sums.reshape(batch, groups, width).sum(-1) / (math.prod(h.shape[1:-1]) * width)
    return jnp.repeat(means, width, axis=1)


def _positions(h: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, h.ndim - 1))


def _spread(per_channel: jax.Array, h: jax.Array) -> jax.Array:
    """[B, C] -> [B, 1, ..., C]."""
    batch, channels = per_channel.shape
    return per_channel.reshape(batch, *(1,) * (h.ndim - 2), channels)
