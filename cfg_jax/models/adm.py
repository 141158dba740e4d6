"""ADM's published networks (Dhariwal & Nichol 2021): ours, with the time input they trained with.

Their U-Net and classifier are `UNet` and `NoisyClassifier` with another embedding of time: a number
of one of 1,000 steps, or for EDM's re-trained ones a function of the noise level.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from cfg_jax.models import networks
from cfg_jax.models.encoder import Encoder
from cfg_jax.models.noisy_classifier import NoisyClassifier
from cfg_jax.models.unet import UNet


def step_embedding(time: Float[Array | np.ndarray, ' B'], width: int) -> Float[Array, 'B {width}']:
    """cos and sin of time f_k, f_k = 10000^(-k / half), half = width / 2: [B] -> [B, width].

    The exponent divides by half, `encoder.logsnr_embedding` by half - 1. `time` may be fractional.
    """
    half = width // 2
    # float32 in this order, as they were trained: at time 999 the rounding of f_k is seen.
    exponents = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32)
    # Rounded once, as PyTorch's exp nearly always is: at step 999 a unit of it is an angle of 6e-5.
    frequencies = np.exp(np.float64(exponents / np.float32(half))).astype(np.float32)
    angles = jnp.asarray(time, jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ADMUNet(UNet):
    """`UNet` with `step_embedding`: network(z, time, condition)."""

    def embed_logsnr(self, logsnr: Float[Array | np.ndarray, ' B']) -> Float[Array, 'B D']:
        """Embedding of the time, which stands in log-SNR's place."""
        return _embed(self, logsnr)


class ADMClassifier(NoisyClassifier):
    """`NoisyClassifier` with `step_embedding`: network(z, time)."""

    def embed_logsnr(self, logsnr: Float[Array | np.ndarray, ' B']) -> Float[Array, 'B D']:
        """Embedding of the time, which stands in log-SNR's place."""
        return _embed(self, logsnr)


def _embed(network: Encoder, time: Float[Array | np.ndarray, ' B']) -> Float[Array, 'B D']:
    emb = step_embedding(time, network.width).astype(network.dtype)
    emb = nn.Dense(4 * network.width, dtype=network.dtype, name='time_0')(emb)
    return nn.Dense(4 * network.width, dtype=network.dtype, name='time_1')(nn.silu(emb))


def make_unet(config: ConfigDict) -> ADMUNet:
    """The U-Net of a config of the kind 'adm'."""
    channels = config.data.channels
    return ADMUNet(
        conditioning=networks.make_conditioning(config),
        out_channels=2 * channels if config.model.learned_variance else channels,
        **networks.encoder_settings(config),
    )


def make_classifier(config: ConfigDict) -> ADMClassifier:
    """The classifier of a config of the kind 'adm_classifier'."""
    return ADMClassifier(num_classes=config.data.num_classes, **networks.encoder_settings(config))
