"""The U-Net of ADM (Dhariwal & Nichol 2021, appendix), conditioned on log-SNR and class."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfg_jax.models.group_norm import GroupNorm
from cfg_jax.models.layers import (
    Encoder,
    conv,
)


class UNet(Encoder, kw_only=True):
    """ADM's U-Net: eps_theta(z, logsnr, label).

    Attributes, besides those of `Encoder`:
      num_classes: real classes; the label `num_classes` is the null token, an embedding row of its
        own.
      out_channels: image channels.
    The way up has one residual block per level more than the way down.
    """

    num_classes: int
    out_channels: int

    @nn.compact
    def __call__(
        self, z: jax.Array, logsnr: jax.Array, label: jax.Array, train: bool = False
    ) -> jax.Array:
        """Predicts eps.

        Args:
          z: noisy images [B, H, W, C], H and W divisible by 2^(levels - 1).
          logsnr: float32 [B].
          label: int32 [B] in [0, num_classes]; `num_classes` is the null token.
          train: turns dropout on (needs a 'dropout' key).

        Returns:
          float32 [B, H, W, out_channels].
        """
        emb = self.embed_logsnr(logsnr) + self._embed_label(label)
        h, skips = self.encode(z, emb, train)
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for block in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.block(mult, f'up_{level}_{block}', h, emb, train)
            if level != 0:
                h = self.resample('up', mult, f'up_{level}', h, emb, train)

        h = GroupNorm(self.norm_groups, silu=True, dtype=self.dtype, name='norm_out')(h)
        return conv(self.out_channels, 3, jnp.float32, zero=True, name='conv_out')(h)

    def _embed_label(self, label: jax.Array) -> jax.Array:
        """Embedding of the label: [B] -> [B, 4 * width]."""
        table = nn.Embed(
            self.num_classes + 1,
            4 * self.width,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
            name='label',
        )
        return table(label)
