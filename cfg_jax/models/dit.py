"""DiT (Peebles & Xie 2023): a transformer over patches, conditioned by adaptive layer norm.

SiT (Ma et al. 2024) is the same network with another time input and target.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from cfg_jax.conditioning import Condition, Conditioning, noisy
from cfg_jax.models import networks
from cfg_jax.models.adm import step_embedding
from cfg_jax.models.layers import depth_to_space, space_to_depth
from cfg_jax.models.perturbation import Perturbation, attend_perturbed

_TIME_FEATURES = 256
_MLP_RATIO = 4


class DiTBlock(nn.Module):
    """h + gate attention(norm(h) (1 + scale) + shift), then the same with an MLP.

    Shifts, scales and gates are linear in silu(emb): "adaLN-Zero".
    """

    num_heads: int
    attention: str
    dtype: Any

    @nn.compact
    def __call__(
        self,
        h: Float[Array, 'B H W D'],
        emb: Float[Array, 'B D'],
        perturbation: Perturbation | None = None,
    ) -> Float[Array, 'B H W D']:
        """[B, H, W, D] -> [B, H, W, D]; `perturbation` weakens the attention."""
        width = h.shape[-1]
        modulation = nn.Dense(6 * width, dtype=self.dtype, name='modulation')(nn.silu(emb))
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = jnp.split(
            modulation[:, None, None, :], 6, axis=-1
        )
        if perturbation is None or perturbation.kind != 'skip':
            inner = _norm(h, self.dtype) * (1.0 + scale) + shift
            h = h + gate * self._attend(inner, perturbation)
        inner = _norm(h, self.dtype) * (1.0 + scale_mlp) + shift_mlp
        inner = nn.Dense(_MLP_RATIO * width, dtype=self.dtype, name='mlp_0')(inner)
        inner = nn.gelu(inner, approximate=True)
        return h + gate_mlp * nn.Dense(width, dtype=self.dtype, name='mlp_1')(inner)

    def _attend(self, h: Array, perturbation: Perturbation | None) -> Array:
        batch, height, side, width = h.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, name='qkv')(h)
        heads = batch, height * side, 3, self.num_heads, width // self.num_heads
        q, k, v = jnp.moveaxis(qkv.reshape(heads), 2, 0)
        attended = attend_perturbed(q, k, v, self.attention, perturbation, (height, side))
        return nn.Dense(width, dtype=self.dtype, name='proj')(attended.reshape(h.shape))


class DiT(nn.Module):
    """network(z, time, condition).

    Attributes:
      conditioning: the kind of condition.
      out_channels: of the prediction.
      width: features of a token.
      depth: blocks.
      num_heads: of attention.
      patch: side of a token's patch.
      attention: the kernel of attention, see `attention.attend`.
      dtype: type of the computation; normalisation and the last layer are in float32.
    """

    conditioning: Conditioning
    out_channels: int
    width: int
    depth: int
    num_heads: int
    patch: int
    attention: str = 'auto'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        z: Float[Array, 'B H W C'],
        time: Float[Array, ' B'],
        condition: Condition,
        train: bool = False,
        perturbation: Perturbation | None = None,
    ) -> Float[Array, 'B H W {self.out_channels}']:
        """Predicts what the network was trained for.

        Args:
          z: noisy images or latents [B, H, W, C], H and W divisible by the patch's side and those
            of initialisation.
          time: float32 [B].
          condition: a pytree of arrays [B, ...].
          train: has no effect; these networks are not trained here.
          perturbation: weakens self-attention in the blocks whose names it matches, 'block_0' on;
            that in the middle of the depth is 'middle' too.

        Returns:
          float32 [B, H, W, out_channels].
        """
        emb = step_embedding(time, _TIME_FEATURES).astype(self.dtype)
        emb = nn.Dense(self.width, dtype=self.dtype, name='time_0')(emb)
        emb = nn.Dense(self.width, dtype=self.dtype, name='time_1')(nn.silu(emb))
        emb = emb + noisy.encode(self.conditioning, condition, self.width, self.dtype)
        h = nn.Dense(self.width, dtype=self.dtype, name='patches')(space_to_depth(z, self.patch))
        position = self.param('position', nn.initializers.normal(0.02), h.shape[1:])
        h = h + position.astype(self.dtype)
        for number in range(self.depth):
            name = f'block_{number}'
            block = DiTBlock(self.num_heads, self.attention, self.dtype, name=name)
            layer = f'{name}_middle' if number == self.depth // 2 else name
            applies = perturbation is not None and perturbation.applies(layer)
            h = block(h, emb, perturbation if applies else None)
        modulation = nn.Dense(2 * self.width, dtype=self.dtype, name='modulation')(nn.silu(emb))
        shift, scale = jnp.split(modulation[:, None, None, :].astype(jnp.float32), 2, axis=-1)
        h = _norm(h, jnp.float32) * (1.0 + scale) + shift
        return depth_to_space(
            nn.Dense(self.patch**2 * self.out_channels, name='out')(h), self.patch
        )


def _norm(h: Array, dtype: Any) -> Array:
    """Layer norm without parameters, epsilon 1e-6, computed in float32."""
    norm = nn.LayerNorm(1e-6, use_bias=False, use_scale=False, use_fast_variance=False)
    return norm(h.astype(jnp.float32)).astype(dtype)


def make_dit(config: ConfigDict) -> DiT:
    """The network of a config of the kind 'dit'."""
    model = config.model
    channels = networks.noise_shape(config)[-1]
    return DiT(
        conditioning=networks.make_conditioning(config),
        out_channels=2 * channels if model.learned_variance else channels,
        width=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        patch=model.patch,
        attention=model.attention,
        dtype=jnp.dtype(model.dtype),
    )
