"""Group normalisation, its affine map and SiLU as one operation with a gradient of its own.

Between two convolutions everything is bound by memory. The gradient needs the input and two sums
per channel; nothing else is kept for it, and in the input's own type.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_EPSILON = 1e-5


class GroupNorm(nn.Module):
    """act(xhat * scale + bias), xhat = (h - mean) / sqrt(var + 1e-5) (Wu & He 2018).

    mean and var are those of an image's positions and a group's channels, computed in float32 and
    the variance from differences to the mean: E[h^2] - E[h]^2 loses its digits far from 0.

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
        self, h: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None
    ) -> jax.Array:
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
            raise ValueError(f'{channels} channels do not part into {self.num_groups} groups')
        gain = self.param('scale', nn.initializers.ones_init(), (channels,))
        offset = self.param('bias', nn.initializers.zeros_init(), (channels,))
        if scale is not None:
            gain, offset = gain * (1.0 + scale), offset * (1.0 + scale) + shift
        gain, offset = (jnp.broadcast_to(a, (batch, channels)) for a in (gain, offset))
        return _normalise(self.num_groups, self.silu, self.dtype, h, gain, offset)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _normalise(groups, silu, dtype, h, gain, offset) -> jax.Array:
    """act(xhat gain + offset) with gain and offset [B, C]."""
    return _forward(groups, silu, dtype, h, gain, offset)[0]


def _forward(groups, silu, dtype, h, gain, offset):
    mean, rstd = _statistics(groups, h)
    u = (h - _spread(mean, h)) * _spread(rstd * gain, h) + _spread(offset, h)
    return (nn.silu(u) if silu else u).astype(dtype), (h, mean, rstd, gain, offset)


def _backward(groups, silu, dtype, residuals, dy):
    """With g = dy act'(u): d offset = sum g, d gain = sum g xhat over positions, and

    dh = rstd (g gain - m(g gain) - xhat m(g gain xhat)), m a group's mean, which is one of sums
    that are there already.
    """
    del dtype
    h, mean, rstd, gain, offset = residuals
    xhat = (h - _spread(mean, h)) * _spread(rstd, h)
    g = dy.astype(jnp.float32)
    if silu:
        u = xhat * _spread(gain, h) + _spread(offset, h)
        sigmoid = nn.sigmoid(u)
        g = g * sigmoid * (1.0 + u * (1.0 - sigmoid))
    positions = _positions(h)
    d_offset, d_gain = jnp.sum(g, positions), jnp.sum(g * xhat, positions)  # [B, C]
    mean_g, mean_g_xhat = (
        _spread(_group_mean(groups, gain * total, h), h) for total in (d_offset, d_gain)
    )
    dh = _spread(rstd, h) * (g * _spread(gain, h) - mean_g - xhat * mean_g_xhat)
    return dh.astype(h.dtype), d_gain, d_offset


_normalise.defvjp(_forward, _backward)


def _statistics(groups: int, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / sqrt(var + epsilon) of every channel's group, float32 [B, C]."""
    positions = _positions(h)
    # Channels by themselves first: sums along the rows of memory, whatever a group's width.
    mean = _group_mean(groups, jnp.sum(h, positions, jnp.float32), h)
    squares = jnp.sum(jnp.square(h - _spread(mean, h)), positions)
    return mean, jax.lax.rsqrt(_group_mean(groups, squares, h) + _EPSILON)


def _group_mean(groups: int, sums: jax.Array, h: jax.Array) -> jax.Array:
    """Sums over positions [B, C] -> the group's mean, again for every channel, [B, C]."""
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
