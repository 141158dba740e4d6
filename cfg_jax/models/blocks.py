"""The blocks of ADM's networks (Dhariwal & Nichol 2021, appendix): residual and attention.

Parameters are float32; `dtype` is the type of convolutions and matrix products. Normalisation and
softmax are computed in float32 whatever `dtype` is.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.barriers import together
from cfg_jax.models.dropout import Dropout
from cfg_jax.models.group_norm import GroupNorm, Parts, at_least_float32
from cfg_jax.models.layers import Dtype, conv, conv_of_upsampled, convolve, downsample, upsample
from cfg_jax.models.perturbation import Perturbation, attend_perturbed
from cfg_jax.models.residual import add_residual

_zeros = nn.initializers.zeros_init()


class _PointwiseConv(nn.Module):
    """A convolution with windows of one pixel, of features in parts, added to other features."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, parts: Parts, total: Float[Array, 'B H W F']) -> Float[Array, 'B H W F']:
        """total [B, H, W, features] and the convolution of parts [B, H, W, C_i], summed."""
        channels = [part.shape[-1] for part in parts]
        shape = 1, 1, sum(channels), self.features
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        bias = self.param('bias', _zeros, (self.features,))
        kernel, bias = (jnp.asarray(a, self.dtype) for a in (kernel, bias))
        kernels = jnp.split(kernel, np.cumsum(channels)[:-1], axis=2)
        numbers = 'NHWC', 'HWIO', 'NHWC'
        for i, (part, columns) in enumerate(zip(parts, kernels, strict=True)):
            part = jnp.asarray(part, self.dtype)
            product = convolve(part, columns, (1, 1), 'VALID', dimension_numbers=numbers)
            # In this order each sum is part of a convolution of cuDNN's.
            total = (product + bias if i == 0 else product) + total
        return total


class ResBlock(nn.Module):
    """BigGAN residual block with the embedding as scale and shift of the second normalisation.

    h = conv(resample(silu(norm(h)))); h = norm(h) (1 + scale) + shift; out = skip + conv(silu(h)),
    the last convolution starting at zero. `resample` (None, 'up' or 'down') acts on both paths.
    """

    features: int
    dropout: float
    groups: int
    scale_shift_norm: bool = True
    resample: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, 'B H W C'] | Parts,
        emb: Float[Array, 'B E'],
        train: bool,
    ) -> Float[Array, 'B H2 W2 F']:
        """[B, H, W, C] and the embedding [B, E] -> [B, H, W, features], or H and W resampled.

        h may be parts that together are the channels.
        """
        resample = {None: lambda a: a, 'up': upsample, 'down': downsample}[self.resample]
        skip = tuple(map(resample, h if isinstance(h, tuple) else (h,)))
        h = GroupNorm(self.groups, silu=True, dtype=self.dtype, name='norm_in')(h)
        if self.resample == 'up':
            h = conv_of_upsampled(self.features, self.dtype, name='conv_in')(h)
        else:
            h = conv(self.features, 3, self.dtype, name='conv_in')(resample(h))

        emb_features = 2 * self.features if self.scale_shift_norm else self.features
        emb = nn.Dense(emb_features, dtype=self.dtype, name='emb')(nn.silu(emb))
        emb = at_least_float32(emb)  # [B, 2F] or [B, F]
        norm_out = GroupNorm(self.groups, silu=True, dtype=self.dtype, name='norm_out')
        if self.scale_shift_norm:
            h = norm_out(h, *jnp.split(emb, 2, axis=-1))
        else:
            h = norm_out(h + emb[:, None, None, :])
        h = Dropout(self.dropout)(h, train)
        h = conv(self.features, 3, self.dtype, zero=True, name='conv_out')(h)

        if sum(part.shape[-1] for part in skip) != self.features:
            return _PointwiseConv(self.features, self.dtype, name='conv_skip')(skip, h)
        same = jnp.concatenate(skip, axis=-1)
        # Doubled features are not put into memory to be added.
        return same + h if self.resample == 'up' else add_residual(same, h)


class _Projections(nn.Module):
    """`count` dense layers in the parameters of one of their joint width.

    Each is a product of its own: parts of a joint result would be copied for attention.
    """

    count: int
    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'B T C']) -> list[Float[Array, 'B T F']]:
        """[B, T, C] -> `count` arrays [B, T, features]."""
        width = self.count * self.features
        kernel = self.param('kernel', nn.initializers.lecun_normal(), (x.shape[-1], width))
        bias = self.param('bias', _zeros, (width,))
        x, kernel, bias = (jnp.asarray(a, self.dtype) for a in (x, kernel, bias))
        x, kernel = together((x, kernel))
        kernels, biases = (jnp.split(a, self.count, axis=-1) for a in (kernel, bias))
        return [x @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True)]


class AttentionBlock(nn.Module):
    """Self-attention over positions: h + proj(attention(qkv(norm(h)))), proj starting at 0."""

    num_heads: int
    groups: int
    attention: str = 'auto'
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, 'B H W C'], perturbation: Perturbation | None = None
    ) -> Float[Array, 'B H W C']:
        """[B, H, W, C] -> [B, H, W, C]; `perturbation` weakens the attention."""
        batch, height, width, channels = h.shape
        if perturbation is not None and perturbation.kind == 'skip':
            return h
        normed = GroupNorm(self.groups, dtype=self.dtype, name='norm')(h)
        tokens = normed.reshape(batch, height * width, channels)
        heads = (batch, height * width, self.num_heads, channels // self.num_heads)
        qkv = _Projections(3, channels, self.dtype, name='qkv')(tokens)
        q, k, v = (a.reshape(heads) for a in qkv)
        attended = attend_perturbed(q, k, v, self.attention, perturbation, (height, width))
        attended = attended.reshape(tokens.shape)
        proj = nn.Dense(
            channels, dtype=self.dtype, kernel_init=_zeros, dot_general=_product, name='proj'
        )
        out = proj(attended)
        return h + out.reshape(h.shape)


def _product(x: jax.Array, kernel: jax.Array, *others: Any, **more: Any) -> jax.Array:
    """`jax.lax.dot_general`, whose two gradients come at one time."""
    return jax.lax.dot_general(*together((x, kernel)), *others, **more)
