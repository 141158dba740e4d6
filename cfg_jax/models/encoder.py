"""What ADM's U-Net and its noisy classifier share: the way down, and the embedding of log-SNR.

Parameters are float32; the embedding of log-SNR is computed in float32 whatever `dtype` is.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.blocks import AttentionBlock, ResBlock
from cfg_jax.models.group_norm import Parts, at_least_float32
from cfg_jax.models.layers import Dtype, conv, conv_of_upsampled, space_to_depth
from cfg_jax.models.perturbation import Perturbation
from cfg_jax.models.remat import remat


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
        h: Float[Array, 'B H W C'] | Parts,
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
        h: jax.Array | Parts,
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
