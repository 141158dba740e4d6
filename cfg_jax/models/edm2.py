"""EDM2's U-Net (Karras et al. 2024, "Analyzing and Improving the Training Dynamics", figure 21).

Every layer preserves the magnitude of its input: no normalisation with parameters, no biases. Its
weights are normalised whenever they are used; here that is done once, when they are imported
(`pretrained.edm2`), and a kernel is the one that multiplies.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from cfg_jax.conditioning import Condition, Conditioning, noisy
from cfg_jax.models import networks
from cfg_jax.models.layers import downsample, upsample
from cfg_jax.models.perturbation import Perturbation, attend_perturbed

_RES_BALANCE = _ATTENTION_BALANCE = 0.3  # share of the branch in a sum
_LABEL_BALANCE = _SKIP_BALANCE = 0.5
_CLIP = 256.0


def normalise(h: Float[Array, '... C'], axis: int = -1) -> Float[Array, '... C']:
    """h / (1e-4 + |h| / sqrt(n)), over the n entries of an axis."""
    norm = jnp.linalg.norm(h.astype(jnp.float32), axis=axis, keepdims=True)
    return h / (1e-4 + norm / math.sqrt(h.shape[axis])).astype(h.dtype)


def mp_silu(h: Array) -> Array:
    """silu(h) / 0.596, whose magnitude is that of a standard normal h."""
    return nn.silu(h) / 0.596


def mp_sum(a: Array, b: Array, share: float) -> Array:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) with t = share."""
    return (a + share * (b - a)) / math.hypot(1.0 - share, share)


def mp_concatenate(a: Array, b: Array, share: float) -> Array:
    """[a, b] along channels, weighted so that they add 1 - t and t = share of the magnitude."""
    width_a, width_b = a.shape[-1], b.shape[-1]
    scale = math.sqrt(width_a + width_b) / math.hypot(1.0 - share, share)
    weight_a = scale * (1.0 - share) / math.sqrt(width_a)
    weight_b = scale * share / math.sqrt(width_b)
    return jnp.concatenate([weight_a * a, weight_b * b], axis=-1)


class Block(nn.Module):
    """A residual block of the encoder or the decoder, then self-attention where `num_heads` > 0."""

    features: int
    decoder: bool
    resample: str | None
    num_heads: int
    attention: str
    dtype: Any

    @nn.compact
    def __call__(
        self,
        h: Float[Array, 'B H W C'],
        emb: Float[Array, 'B D'],
        perturbation: Perturbation | None = None,
    ) -> Float[Array, 'B H2 W2 F']:
        """[B, H, W, C] and the embedding [B, D] -> [B, H, W, features], or H and W resampled.

        `perturbation` weakens the attention.
        """
        h = {None: lambda a: a, 'up': upsample, 'down': downsample}[self.resample](h)
        if not self.decoder:
            h = normalise(self._skip(h))
        branch = self._conv(self.features, 3, 'conv_res0')(mp_silu(h))
        gain = nn.Dense(self.features, use_bias=False, dtype=self.dtype, name='emb')(emb) + 1.0
        branch = mp_silu(branch * gain[:, None, None, :])
        branch = self._conv(self.features, 3, 'conv_res1')(branch)
        h = mp_sum(self._skip(h) if self.decoder else h, branch, _RES_BALANCE)
        if self.num_heads and not (perturbation and perturbation.kind == 'skip'):
            h = mp_sum(h, self._attend(h, perturbation), _ATTENTION_BALANCE)
        return jnp.clip(h, -_CLIP, _CLIP)

    def _skip(self, h: Array) -> Array:
        if h.shape[-1] == self.features:
            return h
        return self._conv(self.features, 1, 'conv_skip')(h)

    def _attend(self, h: Array, perturbation: Perturbation | None) -> Array:
        batch, height, width, channels = h.shape
        qkv = self._conv(3 * channels, 1, 'qkv')(h)
        heads = batch, height * width, 3, self.num_heads, channels // self.num_heads
        q, k, v = jnp.moveaxis(normalise(qkv.reshape(heads)), 2, 0)
        attended = attend_perturbed(q, k, v, self.attention, perturbation, (height, width))
        return self._conv(channels, 1, 'proj')(attended.reshape(h.shape))

    def _conv(self, features: int, side: int, name: str) -> nn.Conv:
        return nn.Conv(features, (side, side), use_bias=False, dtype=self.dtype, name=name)


class EDM2UNet(nn.Module):
    """EDM2's U-Net: network(z, time, condition), time = ln(s) / 4 of the noise level s.

    Attributes:
      conditioning: the kind of condition; one whose embedding is nothing leaves it out.
      conditional: whether there is a condition.
      out_channels: image channels.
      width: level i has width * channel_mult[i] channels.
      channel_mult: one entry per resolution.
      num_res_blocks: blocks per level of the encoder; the decoder has one more.
      attention_resolutions: sides of the feature maps that get attention.
      head_channels: channels of an attention head.
      attention: the kernel of attention, see `attention.attend`.
      dtype: type of the computation.
    """

    conditioning: Conditioning
    conditional: bool
    out_channels: int
    width: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    head_channels: int = 64
    attention: str = 'auto'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        z: Array,
        time: Float[Array, ' B'],
        condition: Condition,
        train: bool = False,
        perturbation: Perturbation | None = None,
    ) -> Array:
        """Predicts F of EDM's preconditioning.

        Args:
          z: noisy images [B, H, W, C], H and W divisible by 2^(levels - 1).
          time: float32 [B].
          condition: a pytree of arrays [B, ...].
          train: has no effect; these networks are not trained here.
          perturbation: weakens self-attention, for guidance rules that need it.

        Returns:
          float32 [B, H, W, out_channels].
        """
        block_of = functools.partial(self._block, self._embed(time, condition), perturbation)
        h = jnp.concatenate([z, jnp.ones_like(z[..., :1])], axis=-1).astype(self.dtype)
        h = self._conv(self.width * self.channel_mult[0], 'conv_in', self.dtype)(h)
        skips = [h]
        for level, mult in enumerate(self.channel_mult):
            if level:
                h = block_of(h.shape[-1], f'down_{level - 1}_resample', h, resample='down')
                skips.append(h)
            for block in range(self.num_res_blocks):
                h = block_of(self.width * mult, f'down_{level}_{block}', h)
                skips.append(h)
        h = block_of(h.shape[-1], 'middle_0', h, decoder=True, attend=True)
        h = block_of(h.shape[-1], 'middle_1', h, decoder=True, attend=False)
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            if level != len(self.channel_mult) - 1:
                name = f'up_{level + 1}_resample'
                h = block_of(h.shape[-1], name, h, decoder=True, resample='up')
            for block in range(self.num_res_blocks + 1):
                h = mp_concatenate(h, skips.pop(), _SKIP_BALANCE)
                h = block_of(self.width * mult, f'up_{level}_{block}', h, decoder=True)
        return self._conv(self.out_channels, 'conv_out', jnp.float32)(h)

    def _embed(self, time: Array, condition: Condition) -> Array:
        width = self.width * self.channel_mult[0]
        features = self.width * max(self.channel_mult)
        frequencies = self.param('frequencies', nn.initializers.normal(2 * math.pi), (width,))
        phases = self.param('phases', nn.initializers.uniform(2 * math.pi), (width,))
        angles = jnp.asarray(time, jnp.float32)[:, None] * frequencies + phases
        emb = (math.sqrt(2.0) * jnp.cos(angles)).astype(self.dtype)
        emb = nn.Dense(features, use_bias=False, dtype=self.dtype, name='noise')(emb)
        if self.conditional:
            label = noisy.encode(self.conditioning, condition, features, self.dtype)
            emb = mp_sum(emb, label, _LABEL_BALANCE)
        return mp_silu(emb)

    def _block(
        self,
        emb: Array,
        perturbation: Perturbation | None,
        features: int,
        name: str,
        h: Array,
        decoder: bool = False,
        resample: str | None = None,
        attend: bool | None = None,
    ) -> Array:
        if attend is None:
            attend = resample is None and h.shape[1] in self.attention_resolutions
        heads = features // self.head_channels if attend else 0
        block = Block(features, decoder, resample, heads, self.attention, self.dtype, name=name)
        applies = heads and perturbation is not None and perturbation.applies(f'{name}_attention')
        return block(h, emb, perturbation if applies else None)

    def _conv(self, features: int, name: str, dtype: Any) -> nn.Conv:
        return nn.Conv(features, (3, 3), use_bias=False, dtype=dtype, name=name)


def make_unet(config: ConfigDict) -> EDM2UNet:
    """The network of a config of the kind 'edm2'."""
    model = config.model
    return EDM2UNet(
        conditioning=networks.make_conditioning(config),
        conditional=config.condition != 'unconditional',
        out_channels=config.data.channels,
        width=model.width,
        channel_mult=tuple(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_resolutions=tuple(model.attention_resolutions),
        head_channels=model.head_channels,
        attention=model.attention,
        dtype=jnp.dtype(model.dtype),
    )
