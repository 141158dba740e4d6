"""ADM's noisy classifier p(c | z, logsnr), Dhariwal & Nichol 2021, section 4 and appendix."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.encoder import Encoder
from cfg_jax.models.group_norm import GroupNorm


class AttentionPool(nn.Module):
    """Attention pooling: ADM's AttentionPool2d, which takes it from CLIP (Radford et al. 2021).

    tokens = [mean_i h_i, h_1, ..., h_HW] + position; out = proj(attention(qkv(tokens)))_0. The
    parameter `position` [1 + HW, C] fixes the size of the feature map at initialisation. float32
    throughout, as in ADM's code.
    """

    num_heads: int
    features: int

    @nn.compact
    def __call__(
        self, h: Float[Array | np.ndarray, 'B H W C']
    ) -> Float[Array, 'B {self.features}']:
        """[B, H, W, C] -> float32 [B, features]."""
        batch, height, width, channels = h.shape
        tokens = h.astype(jnp.float32).reshape(batch, height * width, channels)
        tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        position = self.param(
            'position', nn.initializers.normal(channels**-0.5), tokens.shape[1:], jnp.float32
        )
        qkv = nn.Dense(3 * channels, name='qkv')(tokens + position)
        heads = (batch, -1, 3, self.num_heads, channels // self.num_heads)
        q, k, v = jnp.moveaxis(qkv.reshape(heads), 2, 0)  # each [B, 1 + HW, heads, C / heads]
        # Only the first token is read, so only the first one asks.
        pooled = jax.nn.dot_product_attention(q[:, :1], k, v).reshape(batch, channels)
        return nn.Dense(self.features, name='proj')(pooled)


class NoisyClassifier(Encoder, kw_only=True):
    """ADM's classifier of noisy images: the encoder of its U-Net and attention pooling.

    Attributes in addition to those of `Encoder`:
      num_classes: classes; there is no null label, because the label is what it predicts.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self,
        z: Float[Array | np.ndarray, 'B H W C'],
        logsnr: Float[Array | np.ndarray, ' B'],
        train: bool = False,
    ) -> Float[Array, 'B {self.num_classes}']:
        """Predicts the class.

        Args:
          z: noisy images [B, H, W, C], H and W divisible by 2^(levels - 1) and those of
            initialisation.
          logsnr: float32 [B].
          train: turns dropout on (needs a 'dropout' key).

        Returns:
          Logits of p(c | z, logsnr), float32 [B, num_classes].

        Raises:
          flax.errors.ScopeParamShapeError: images of another size than at initialisation.
        """
        h, _ = self.encode(z, self.embed_logsnr(logsnr), train)
        h = GroupNorm(self.norm_groups, silu=True, name='norm_out')(h)
        return AttentionPool(self.heads(h.shape[-1]), self.num_classes, name='pool')(h)
