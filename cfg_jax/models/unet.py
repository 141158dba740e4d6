"""The U-Net of ADM (Dhariwal & Nichol 2021, appendix), conditioned on log-SNR and a condition."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfg_jax.conditioning import Condition, Conditioning, noisy
from cfg_jax.models.encoder import Encoder
from cfg_jax.models.group_norm import GroupNorm
from cfg_jax.models.layers import conv, depth_to_space
from cfg_jax.models.perturbation import Perturbation


class UNet(Encoder, kw_only=True):
    """ADM's U-Net: network(z, logsnr, condition).

    Attributes, besides those of `Encoder`:
      conditioning: the kind of condition, whose embedding is added to that of log-SNR.
      out_channels: image channels.
    The way up has one residual block per level more than the way down.
    """

    conditioning: Conditioning
    out_channels: int

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        logsnr: jax.Array,
        condition: Condition,
        train: bool = False,
        perturbation: Perturbation | None = None,
    ) -> jax.Array:
        """Predicts eps, or another target it was trained for.

        Args:
          z: noisy images [B, H, W, C], H and W divisible by 2^(levels - 1).
          logsnr: float32 [B].
          condition: a pytree of arrays [B, ...].
          train: turns dropout on (needs a 'dropout' key).
          perturbation: weakens self-attention, for guidance rules that need it.

        Returns:
          float32 [B, H, W, out_channels].
        """
        emb = self.embed_logsnr(logsnr)
        emb = emb + noisy.encode(self.conditioning, condition, emb.shape[-1], self.dtype)
        h, skips = self.encode(z, emb, train, perturbation)
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for block in range(self.num_res_blocks + 1):
                both = h, skips.pop()
                h = self.block(mult, f'up_{level}_{block}', both, emb, train, perturbation)
            if level != 0:
                h = self.resample('up', mult, f'up_{level}', h, emb, train)

        h = GroupNorm(self.norm_groups, silu=True, dtype=self.dtype, name='norm_out')(h)
        out = conv(self.out_channels * self.patch**2, 3, jnp.float32, zero=True, name='conv_out')(h)
        return depth_to_space(out, self.patch)
