"""Networks. They know images, log-SNRs and labels, and nothing of diffusion or guidance."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax.models.noisy_classifier import NoisyClassifier
from cfg_jax.models.unet import UNet


def make_network(config: ConfigDict) -> nn.Module:
    """What a config trains: its U-Net or its noisy classifier, by `model.kind`."""
    return {'unet': make_unet, 'classifier': make_classifier}[config.model.kind](config)


def make_unet(config: ConfigDict) -> UNet:
    """The U-Net that a config describes: groups `model` and `data`."""
    return UNet(
        num_classes=config.data.num_classes,
        out_channels=config.data.channels,
        **_encoder_settings(config),
    )


def make_classifier(config: ConfigDict) -> NoisyClassifier:
    """The noisy classifier that a config describes: groups `model` and `data`."""
    return NoisyClassifier(num_classes=config.data.num_classes, **_encoder_settings(config))


def inputs(config: ConfigDict) -> tuple[jax.ShapeDtypeStruct, ...]:
    """What `make_network(config)` takes for one image: z, logsnr and, for a U-Net, the label."""
    size, channels = config.data.image_size, config.data.channels
    z = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    logsnr, label = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.float32, jnp.int32))
    return (z, logsnr, label) if config.model.kind == 'unet' else (z, logsnr)


def _encoder_settings(config: ConfigDict) -> dict[str, Any]:
    settings = config.model.to_dict()
    del settings['kind']
    return settings | {
        'channel_mult': tuple(config.model.channel_mult),
        'attention_resolutions': tuple(config.model.attention_resolutions),
        'dtype': jnp.dtype(config.model.dtype),
    }
