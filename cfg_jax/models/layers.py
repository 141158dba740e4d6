"""Convolutions and changes of resolution of ADM's networks and of the autoencoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.barriers import together

Dtype = Any


def conv(features: int, kernel: int, dtype: Dtype, zero: bool = False, **kwargs: Any) -> nn.Conv:
    """Convolution with windows of kernel x kernel pixels; `zero`: its kernel starts at zero."""
    if zero:
        kwargs['kernel_init'] = nn.initializers.zeros_init()
    kwargs.setdefault('conv_general_dilated', convolve)
    return nn.Conv(features, (kernel, kernel), dtype=dtype, **kwargs)


def convolve(
    h: Float[Array, 'B H W C'], kernel: Float[Array, 'k l C F'], *others: Any, **more: Any
) -> Float[Array, 'B H2 W2 F']:
    """`jax.lax.conv_general_dilated`, whose two gradients come at one time."""
    return jax.lax.conv_general_dilated(*together((h, kernel)), *others, **more)


def upsample(h: Float[Array | np.ndarray, 'B H W C']) -> Float[Array, 'B 2*H 2*W C']:
    """Nearest neighbour: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)


def conv_of_upsampled(features: int, dtype: Dtype, name: str) -> nn.Conv:
    """conv(features, 3)(upsample(h)), computed on h [B, H, W, C] with 4 / 9 of the operations.

    Each output pixel sees 2 x 2 pixels of h: along an axis, even ones see the taps (w0, w1 + w2) at
    i - 1 and i, odd ones (w0 + w1, w2) at i and i + 1.
    """
    return conv(features, 3, dtype, name=name, conv_general_dilated=_convolve_upsampled)


def _convolve_upsampled(h: jax.Array, kernel: jax.Array, *others: Any, **more: Any) -> jax.Array:
    """[B, H, W, C] and [3, 3, C, F] -> [B, 2H, 2W, F], in the place of Flax's convolution."""
    h, kernel = together((h, kernel))
    return jax.lax.platform_dependent(h, kernel, cuda=transposed, default=by_phases)


def by_phases(
    h: Float[Array | np.ndarray, 'B H W C'], kernel: Float[Array | np.ndarray, '3 3 C F']
) -> Float[Array, 'B 2*H 2*W F']:
    """The convolution of upsampled features as four small ones, which are put together."""

    def folded(taps: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
        first, middle, last = jnp.split(taps, 3, axis)
        even = jnp.concatenate([first, middle + last], axis)
        return even, jnp.concatenate([first + middle, last], axis)

    def phase(i: int, j: int) -> jax.Array:
        taps = folded(folded(kernel, 0)[i], 1)[j]  # [2, 2, C, F]
        padding = (1 - i, i), (1 - j, j)
        numbers = 'NHWC', 'HWIO', 'NHWC'
        return jax.lax.conv_general_dilated(h, taps, (1, 1), padding, dimension_numbers=numbers)

    h, kernel = jnp.asarray(h), jnp.asarray(kernel)
    batch, height, width, _ = h.shape
    rows = [jnp.stack([phase(i, 0), phase(i, 1)], axis=3) for i in (0, 1)]  # [B, H, W, 2, F] each
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def transposed(
    h: Float[Array | np.ndarray, 'B H W C'], kernel: Float[Array | np.ndarray, '3 3 C F']
) -> Float[Array, 'B 2*H 2*W F']:
    """The same as one transposed convolution, whose kernel cuDNN has: nothing is put together.

    Between the pixels of h are zeros, and the taps along an axis are w0, w0 + w1, w1 + w2 and w2.
    """

    def folded(taps: jax.Array, axis: int) -> jax.Array:
        first, middle, last = jnp.split(taps, 3, axis)
        return jnp.concatenate([last, middle + last, first + middle, first], axis)

    numbers = 'NHWC', 'HWIO', 'NHWC'
    # Turned round, as in the gradient of a convolution: only so does XLA know a transposed one.
    taps = jax.lax.rev(folded(folded(jnp.asarray(kernel), 0), 1), (0, 1))  # [4, 4, C, F]
    around = ((2, 2), (2, 2))
    return jax.lax.conv_general_dilated(
        jnp.asarray(h), taps, (1, 1), around, lhs_dilation=(2, 2), dimension_numbers=numbers
    )


def downsample(h: Float[Array | np.ndarray, 'B H W C']) -> Float[Array, 'B H//2 W//2 C']:
    """Mean over 2x2 blocks: [B, H, W, C] -> [B, H/2, W/2, C]."""
    # Not a pooling window, whose gradient is another window over padding.
    batch, height, width, channels = h.shape
    return jnp.mean(h.reshape(batch, height // 2, 2, width // 2, 2, channels), (2, 4))


def space_to_depth(
    image: Float[Array, 'B H W C'], patch: int
) -> Float[Array, 'B H//{patch} W//{patch} {patch}**2*C']:
    """Patches as channels: [B, H, W, C] -> [B, H / patch, W / patch, patch^2 C]."""
    if patch == 1:
        return image
    batch, height, width, channels = image.shape
    blocks = image.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // patch, width // patch, patch * patch * channels
    )


def depth_to_space(
    h: Float[Array, 'B H W D'], patch: int
) -> Float[Array, 'B H*{patch} W*{patch} D//{patch}**2']:
    """The inverse: [B, H, W, patch^2 C] -> [B, H patch, W patch, C]."""
    if patch == 1:
        return h
    batch, height, width, channels = h.shape
    blocks = h.reshape(batch, height, width, patch, patch, channels // patch**2)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * patch, width * patch, -1)
