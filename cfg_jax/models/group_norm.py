"""Group normalisation, its affine map and SiLU as one operation with a derivative of its own.

Between two convolutions everything is limited by memory: what counts is how often features are read
and written. Forward, one pass makes the statistics and one the result. In reverse, autodiff of the
plain formula takes four sums over positions; the derivative below takes two, in one pass, and
another makes the cotangent of the features.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.barriers import computed_again
from cfg_jax.models.group_mean import group_mean
from cfg_jax.models.modulation import modulate, spread
from cfg_jax.models.sliced_sum import positions, sliced_sum

_EPSILON = 1e-5

# Features [B, ..., C] whose channels together are those of one array.
Parts = tuple[jax.Array, ...]


def at_least_float32(a: Float[Array | np.ndarray, '*shape']) -> Float[Array, '*shape']:
    """`a` in float32, or in float64 if that is what it is."""
    return jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32))


class GroupNorm(nn.Module):
    """act(xhat * scale + bias), xhat = (h - mean) / sqrt(var + 1e-5) (Wu & He 2018).

    mean and var are those of an image's positions and a group's channels, computed in float32 (in
    float64 for features in float64) and from differences to one of a channel's features:
    E[h^2] - E[h]^2 loses its digits far from 0.

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
        h: Float[Array | np.ndarray, 'B *positions C'] | Parts,
        scale: Float[Array | np.ndarray, 'B C'] | None = None,
        shift: Float[Array | np.ndarray, 'B C'] | None = None,
    ) -> Float[Array, 'B *positions C']:
        """[B, ..., C] -> [B, ..., C].

        Args:
          h: features, channels last; or parts of them that together are the channels, which are
            not put together in memory before they are normalised.
          scale, shift: [B, C], a further affine map xhat' (1 + scale) + shift before act, of
            xhat' = xhat * scale + bias.

        Raises:
          ValueError: `num_groups` does not divide the channels.
        """
        parts = tuple(map(jnp.asarray, h if isinstance(h, tuple) else (h,)))
        batch, channels = parts[0].shape[0], sum(part.shape[-1] for part in parts)
        gain = self.param('scale', nn.initializers.ones_init(), (channels,))
        offset = self.param('bias', nn.initializers.zeros_init(), (channels,))
        if scale is not None:
            gain, offset = gain * (1.0 + scale), offset * (1.0 + scale)
        if shift is not None:
            offset = offset + shift
        gain, offset = (jnp.broadcast_to(a, (batch, channels)) for a in (gain, offset))
        return _normalise(self.num_groups, self.silu, self.dtype, parts, gain, offset)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _normalise(
    groups: int, silu: bool, dtype: Any, h: Parts, gain: jax.Array, offset: jax.Array
) -> jax.Array:
    """act(xhat gain + offset) with gain and offset [B, C]."""
    return _activate(silu, dtype, h, *_statistics(groups, h), gain, offset)


@_normalise.defjvp
def _derivative(
    groups: int,
    silu: bool,
    dtype: Any,
    primals: tuple[Parts, jax.Array, jax.Array],
    tangents: tuple[Parts, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """With v = rstd dh: du = gain v + a + xhat b, where a group's mean m makes

    a = d offset - gain m(v) and b = d gain - gain m(v xhat), [B, C] both. In reverse, the two sums
    over positions that are the cotangents of a and b serve offset, gain and h.
    """
    h, gain, offset = primals
    dh, d_gain, d_offset = tangents
    mean, rstd = _statistics(groups, h)

    def xhat_and_slope(part: jax.Array, columns: slice) -> tuple[jax.Array, jax.Array]:
        at = functools.partial(_at, part, columns)
        xhat = (part - at(mean)) * at(rstd)
        if not silu:
            return xhat, jnp.ones_like(xhat)
        u = xhat * at(gain) + at(offset)
        sigmoid = nn.sigmoid(u)
        return xhat, (1.0 + u * (1.0 - sigmoid)) * sigmoid

    pieces, sums = [], []
    for part, columns, tangent in zip(h, _columns(h), dh, strict=True):
        xhat, slope = xhat_and_slope(part, columns)
        v = tangent.astype(xhat.dtype) * _at(part, columns, rstd)
        sums.append(tuple(sliced_sum(a, positions(a)) for a in (v, v * xhat)))
        pieces.append(v * _at(part, columns, gain) * slope)
    count = math.prod(h[0].shape[1:-1])
    of_v, of_v_xhat = (group_mean(_joined(of) / count, groups) for of in zip(*sums, strict=True))
    a, b = d_offset - gain * of_v, d_gain - gain * of_v_xhat
    for i, (part, columns) in enumerate(zip(h, _columns(h), strict=True)):
        # The sums in reverse are a pass of their own: xhat and slope would be float32 in memory.
        xhat, slope = xhat_and_slope(computed_again(part), columns)
        pieces[i] = pieces[i] + modulate(a[:, columns], b[:, columns], slope, xhat)
    du = _joined([piece.astype(dtype) for piece in pieces])
    return _activate(silu, dtype, h, mean, rstd, gain, offset), du


def _activate(
    silu: bool,
    dtype: Any,
    h: Parts,
    mean: jax.Array,
    rstd: jax.Array,
    gain: jax.Array,
    offset: jax.Array,
) -> jax.Array:
    """act((h - mean) rstd gain + offset), everything but h [B, C]."""
    pieces = []
    for part, columns in zip(h, _columns(h), strict=True):
        at = functools.partial(_at, part, columns)
        u = (part - at(mean)) * at(rstd * gain) + at(offset)
        pieces.append((nn.silu(u) if silu else u).astype(dtype))
    return _joined(pieces)


def _statistics(groups: int, h: Parts) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / sqrt(var + epsilon) of every channel's group, [B, C] in float32 or float64."""
    # Channels by themselves first: sums along the rows of memory, whatever a group's width, and the
    # same that other layers need of the same features.
    found = zip(*map(_channel_statistics, h), strict=True)
    means, squares = (_joined(of_parts) for of_parts in found)
    count = math.prod(h[0].shape[1:-1])
    mean = group_mean(means, groups)
    # From the channel's mean to the group's (Chan, Golub & LeVeque 1983).
    variances = squares / count + jnp.square(means - mean)
    variance = group_mean(variances, groups)
    if any(part.dtype.itemsize == 2 for part in h):
        # Of features that are all the same E[h^2] - E[h]^2 may round to less than -epsilon.
        variance = jnp.maximum(variance, 0.0)
    return mean, jax.lax.rsqrt(variance + _EPSILON)


def _channel_statistics(part: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means and sums of squared differences to them over positions, [B, C], in one pass."""
    dtype = at_least_float32(part).dtype
    if part.dtype.itemsize == 2:
        # Of features with a mean of r deviations, rounding to 16 bits has lost more than E[h^2] -
        # E[h]^2 loses in float32; and a pass that need not know one of them can make them too.
        shift = jnp.zeros((part.shape[0], part.shape[-1]), dtype)
    else:
        shift = part[(slice(None), *(0 for _ in part.shape[1:-1]))].astype(dtype)
    apart = part - spread(shift, part.ndim)
    count = math.prod(part.shape[1:-1])
    sums, squares = (sliced_sum(a, positions(a)) for a in (apart, jnp.square(apart)))
    return shift + sums / count, squares - jnp.square(sums) / count


def _columns(h: Parts) -> list[slice]:
    """The channels of each part."""
    ends = list(itertools.accumulate(part.shape[-1] for part in h))
    return [slice(end - part.shape[-1], end) for part, end in zip(h, ends, strict=True)]


def _at(part: jax.Array, columns: slice, per_channel: jax.Array) -> jax.Array:
    """The part's columns of [B, C], as [B, 1, ..., C]."""
    return spread(per_channel[:, columns], part.ndim)


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
