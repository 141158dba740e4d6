"""The decoder of Stable Diffusion's autoencoder (Rombach et al. 2022): latents to images."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from cfg_jax.models.attention import attend
from cfg_jax.models.layers import conv, conv_of_upsampled

_EPSILON = 1e-6
CHANNELS = 3  # of the images


class Decoder(nn.Module):
    """decoder(latents), the latents as a diffusion model makes them.

    Attributes:
      scale: of those latents; the decoder's own are latents / scale.
      width: level i has width * channel_mult[i] channels, the first level that of the images.
      channel_mult: one entry per resolution.
      num_res_blocks: of each level.
      norm_groups: of group norm.
      attention: the kernel of attention, see `attention.attend`.
      dtype: type of the computation; group norm is in float32.
    """

    scale: float
    width: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    norm_groups: int
    attention: str = 'auto'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, 'B H W C']) -> Float[Array, 'B H2 W2 3']:
        """Images of latents.

        Args:
          latents: float32 [B, H, W, C].

        Returns:
          float32 [B, f H, f W, 3] with f = 2^(levels - 1), in about [-1, 1].
        """
        h = (latents / self.scale).astype(self.dtype)
        h = conv(latents.shape[-1], 1, self.dtype, name='latents')(h)
        deepest = self.width * self.channel_mult[-1]
        h = conv(deepest, 3, self.dtype, name='conv_in')(h)
        h = self._block(h, deepest, 'middle_0')
        h = self._attend(h, 'middle_attention')
        h = self._block(h, deepest, 'middle_1')
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for block in range(self.num_res_blocks):
                h = self._block(h, self.width * mult, f'up_{level}_{block}')
            if level:
                h = conv_of_upsampled(h.shape[-1], self.dtype, f'up_{level}_resample')(h)
        h = nn.silu(self._norm(h, 'norm_out'))
        return conv(CHANNELS, 3, jnp.float32, name='conv_out')(h)

    def _block(self, h: Array, features: int, name: str) -> Array:
        """h + conv(silu(norm(conv(silu(norm(h))))))."""
        inner = nn.silu(self._norm(h, f'{name}_norm_in'))
        inner = conv(features, 3, self.dtype, name=f'{name}_conv_in')(inner)
        inner = nn.silu(self._norm(inner, f'{name}_norm_out'))
        inner = conv(features, 3, self.dtype, name=f'{name}_conv_out')(inner)
        if h.shape[-1] != features:
            h = conv(features, 1, self.dtype, name=f'{name}_conv_skip')(h)
        return h + inner

    def _attend(self, h: Array, name: str) -> Array:
        """h + proj(attention(q, k, v of norm(h))), one head."""
        batch, height, width, channels = h.shape
        tokens = self._norm(h, f'{name}_norm').reshape(batch, height * width, 1, channels)
        q, k, v = (
            nn.Dense(channels, dtype=self.dtype, name=f'{name}_{part}')(tokens) for part in 'qkv'
        )
        attended = attend(q, k, v, self.attention).reshape(h.shape)
        return h + nn.Dense(channels, dtype=self.dtype, name=f'{name}_proj')(attended)

    def _norm(self, h: Array, name: str) -> Array:
        norm = nn.GroupNorm(self.norm_groups, epsilon=_EPSILON, use_fast_variance=False, name=name)
        return norm(h.astype(jnp.float32)).astype(self.dtype)


def make_decoder(config: ConfigDict) -> Decoder:
    """The network of a config of the kind 'decoder'."""
    model = config.model
    return Decoder(
        scale=config.latent.scale,
        width=model.width,
        channel_mult=tuple(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        norm_groups=model.norm_groups,
        attention=model.attention,
        dtype=jnp.dtype(model.dtype),
    )
