"""Networks. They know images, log-SNRs and labels, and nothing of diffusion or guidance."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax.models.unet import UNet


def make_unet(config: ConfigDict) -> UNet:
    """The U-Net that a config describes: groups `model` and `data`."""
    settings = config.model.to_dict()
    settings |= {
        'channel_mult': tuple(config.model.channel_mult),
        'attention_resolutions': tuple(config.model.attention_resolutions),
        'dtype': jnp.dtype(config.model.dtype),
    }
    return UNet(num_classes=config.data.num_classes, out_channels=config.data.channels, **settings)
