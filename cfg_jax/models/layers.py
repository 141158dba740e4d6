"""What ADM's U-Net and its noisy classifier share: blocks, and the encoder built from them.

Parameters are float32; `dtype` is the type of convolutions and matrix products. Normalisation,
softmax and the embedding of log-SNR are computed in float32 whatever `dtype` is.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.group_norm import GroupNorm, at_least_float32
from cfg_jax.models.perturbation import Perturbation, attend_perturbed
from cfg_jax.models.remat import remat

Dtype = Any

_zeros = nn.initializers.zeros_init()


def logsnr_embedding(
    logsnr: Float[Array | np.ndarray, ' B'], width: int
) -> Float[Array, 'B {width}']:
    """Sinusoidal features of log-SNR: [B] -> float32 [B, width].

    log-SNR is first mapped to t = arctan(exp(-logsnr / 2)) / (pi / 2) in [0, 1] (the angle of the
    cosine schedule, as in the authors' public Progressive Distillation code) and scaled by 1000,
    the range the sinusoids of Vaswani et al. were made for.
    """
    t = jnp.arctan(jnp.exp(-0.5 * at_least_float32(logsnr))) / (math.pi / 2) * 1000.0
    half = width // 2
    frequencies = jnp.exp(-math.log(10000.0) / (half - 1) * jnp.arange(half))
    angles = t[:, None] * frequencies  # [B, width / 2]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def conv(features: int, kernel: int, dtype: Dtype, zero: bool = False, **kwargs: Any) -> nn.Conv:
    """Convolution with windows of kernel x kernel pixels; `zero`: its kernel starts at zero."""
    if zero:
        kwargs['kernel_init'] = _zeros
    return nn.Conv(features, (kernel, kernel), dtype=dtype, **kwargs)


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

    def folded(taps: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
        first, middle, last = jnp.split(taps, 3, axis)
        even = jnp.concatenate([first, middle + last], axis)
        return even, jnp.concatenate([first + middle, last], axis)

    def phase(i: int, j: int) -> jax.Array:
        taps = folded(folded(kernel, 0)[i], 1)[j]  # [2, 2, C, F]
        padding = (1 - i, i), (1 - j, j)
        numbers = 'NHWC', 'HWIO', 'NHWC'
        return jax.lax.conv_general_dilated(h, taps, (1, 1), padding, dimension_numbers=numbers)

    batch, height, width, _ = h.shape
    rows = [jnp.stack([phase(i, 0), phase(i, 1)], axis=3) for i in (0, 1)]  # [B, H, W, 2, F] each
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


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
        h: Float[Array, 'B H W C'],
        emb: Float[Array, 'B E'],
        train: bool,
    ) -> Float[Array, 'B H2 W2 F']:
        """[B, H, W, C] and the embedding [B, E] -> [B, H, W, features], or H and W resampled."""
        resample = {None: lambda a: a, 'up': upsample, 'down': downsample}[self.resample]
        skip = resample(h)
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
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv(self.features, 3, self.dtype, zero=True, name='conv_out')(h)

        if skip.shape[-1] != self.features:
            skip = conv(self.features, 1, self.dtype, name='conv_skip')(skip)
        return skip + h


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
        tokens = h.reshape(batch, height * width, channels)
        normed = GroupNorm(self.groups, dtype=self.dtype, name='norm')(tokens)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name='qkv')(normed)
        heads = (batch, height * width, 3, self.num_heads, channels // self.num_heads)
        q, k, v = jnp.moveaxis(qkv.reshape(heads), 2, 0)  # each [B, HW, heads, C / heads]
        attended = attend_perturbed(q, k, v, self.attention, perturbation, (height, width))
        attended = attended.reshape(tokens.shape)
        out = nn.Dense(channels, dtype=self.dtype, kernel_init=_zeros, name='proj')(attended)
        return h + out.reshape(h.shape)


class Encoder(nn.Module):
    """The way down of ADM's networks (Dhariwal & Nichol 2021, appendix) and their middle.

    A base class, not a submodule: its blocks are named in the network that inherits it.

    Attributes:
      width: level i has width * channel_mult[i] channels, the first convolution those of level 0;
        the embedding of log-SNR has 4 * width.
      channel_mult: one entry per resolution, each half the one before; may be fractions, such as
        the 0.5 of ADM's 512 x 512 network.
      num_res_blocks: residual blocks per level on the way down.
      attention_resolutions: sides (in pixels) of the feature maps that get attention.
      head_channels: channels per attention head, or 0 to fix `num_heads` instead.
      num_heads: attention heads, or 0 to fix `head_channels` instead.
      dropout: dropout rate inside the residual blocks.
      resblock_updown: resample inside residual blocks (BigGAN); else by a plain convolution.
      scale_shift_norm: the embedding scales and shifts the normalised features; else it is added.
      norm_groups: groups of every group norm.
      remat: what blocks keep for the backward pass, see `remat.remat`: 'none' of it is computed
        again, all but 'convolutions', or whole 'blocks', for a third more operations.
      attention: the kernel of attention, see `attention.attend`.
      patch: the network sees patches of this many pixels a side as channels: at 2 the first level
        has half the sides.
      dtype: type of the computation.
    """

    width: int
    channel_mult: tuple[int | float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    head_channels: int = 64
    num_heads: int = 0
    dropout: float = 0.0
    resblock_updown: bool = True
    scale_shift_norm: bool = True
    norm_groups: int = 32
    remat: str = 'none'
    attention: str = 'auto'
    patch: int = 1
    dtype: Dtype = jnp.float32

    def embed_logsnr(self, logsnr: Float[Array | np.ndarray, ' B']) -> Float[Array, 'B E']:
        """Embedding of logsnr: [B] -> [B, 4 * width]."""
        emb = logsnr_embedding(logsnr, self.width).astype(self.dtype)
        emb = nn.Dense(4 * self.width, dtype=self.dtype, name='logsnr_0')(emb)
        return nn.Dense(4 * self.width, dtype=self.dtype, name='logsnr_1')(nn.silu(emb))

    def encode(
        self,
        z: Float[Array | np.ndarray, 'B H W C'],
        emb: Float[Array, 'B E'],
        train: bool,
        perturbation: Perturbation | None = None,
    ) -> tuple[Float[Array, 'B h w F'], list[jax.Array]]:
        """Features of z: [B, H, W, C] and emb [B, 4 * width].

        `perturbation` weakens the attention of the layers whose names it matches.

        Returns:
          The features behind the middle block, [B, h, w, F] with h = H / 2^(levels - 1), and those
          of every block on the way down, first to last, for skip connections.
        """
        features = self.channels(self.channel_mult[0])
        patches = space_to_depth(jnp.asarray(z, self.dtype), self.patch)
        h = conv(features, 3, self.dtype, name='conv_in')(patches)
        skips = [h]
        last = len(self.channel_mult) - 1
        for level, mult in enumerate(self.channel_mult):
            for block in range(self.num_res_blocks):
                h = self.block(mult, f'down_{level}_{block}', h, emb, train, perturbation)
                skips.append(h)
            if level != last:
                h = self.resample('down', mult, f'down_{level}', h, emb, train)
                skips.append(h)

        h = self._res(self.channel_mult[-1], 'middle_0', h, emb, train)
        h = self._attention('middle_attention', h, perturbation)
        return self._res(self.channel_mult[-1], 'middle_1', h, emb, train), skips

    def block(
        self,
        mult: int | float,
        name: str,
        h: Float[Array, 'B H W C'],
        emb: Float[Array, 'B E'],
        train: bool,
        perturbation: Perturbation | None = None,
    ) -> Float[Array, 'B H W F']:
        """A residual block, with attention where the resolution asks for it."""
        h = self._res(mult, name, h, emb, train)
        if h.shape[1] in self.attention_resolutions:
            h = self._attention(f'{name}_attention', h, perturbation)
        return h

    def resample(
        self,
        direction: str,
        mult: int | float,
        name: str,
        h: Float[Array, 'B H W C'],
        emb: Float[Array, 'B E'],
        train: bool,
    ) -> Float[Array, 'B H2 W2 F']:
        """Halves ('down') or doubles ('up') height and width."""
        if self.resblock_updown:
            return self._res(mult, f'{name}_resample', h, emb, train, resample=direction)
        if direction == 'up':
            up = conv_of_upsampled(self.channels(mult), self.dtype, name=f'{name}_resample')
            return up(h)
        # Windows centred on pixels 0, 2, 4, ... as in ADM; 'SAME' would centre them on 1, 3, 5, ...
        strided = conv(
            self.channels(mult),
            3,
            self.dtype,
            strides=2,
            padding=((1, 1), (1, 1)),
            name=f'{name}_resample',
        )
        return strided(h)

    def channels(self, mult: int | float) -> int:
        """width * mult, a whole number but for the rounding of a fraction like 0.7."""
        return round(self.width * mult)

    def heads(self, channels: int) -> int:
        """The number of attention heads at this many channels."""
        return self.num_heads or channels // self.head_channels

    def _res(
        self,
        mult: int | float,
        name: str,
        h: jax.Array,
        emb: jax.Array,
        train: bool,
        resample: str | None = None,
    ) -> jax.Array:
        block = remat(ResBlock, self.remat, static_argnums=(3,))
        return block(
            self.channels(mult),
            self.dropout,
            self.norm_groups,
            self.scale_shift_norm,
            resample,
            self.dtype,
            name=name,
        )(h, emb, train)

    def _attention(self, name: str, h: jax.Array, perturbation: Perturbation | None) -> jax.Array:
        heads = self.heads(h.shape[-1])
        if perturbation is not None and perturbation.applies(name):
            block = AttentionBlock(heads, self.norm_groups, self.attention, self.dtype, name=name)
            return block(h, perturbation)
        block = remat(AttentionBlock, self.remat)
        return block(heads, self.norm_groups, self.attention, self.dtype, name=name)(h)
