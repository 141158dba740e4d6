"""The networks that a config describes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax import diffusion
from cfg_jax.conditioning import CONDITIONS, Conditioning
from cfg_jax.models import BACKBONES
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.models.noisy_classifier import NoisyClassifier
from cfg_jax.models.unet import UNet
from cfg_jax.registry import SCALINGS, SCHEDULES, TARGETS


def make_network(config: ConfigDict) -> nn.Module:
    """What a config trains, by `model.kind`: a denoising network or a noisy classifier."""
    return BACKBONES.load(config.model.kind)(config)


def make_unet(config: ConfigDict) -> nn.Module:
    """The U-Net that a config describes: groups `model`, `data` and the condition."""
    return UNet(
        conditioning=make_conditioning(config),
        out_channels=config.data.channels,
        **_encoder_settings(config),
    )


def make_classifier(config: ConfigDict) -> nn.Module:
    """The noisy classifier that a config describes: groups `model` and `data`."""
    return NoisyClassifier(num_classes=config.data.num_classes, **_encoder_settings(config))


def make_denoiser(config: ConfigDict, network: nn.Module | None = None) -> Denoiser:
    """The network that a config describes with its target and scaling."""
    network = network or make_network(config)
    return Denoiser(
        network.apply, TARGETS.load(config.target), SCALINGS.load(config.diffusion.scaling)
    )


def make_conditioning(config: ConfigDict) -> Conditioning:
    """The kind of condition of a config."""
    return CONDITIONS.load(config.condition)(config.data.num_classes)


def make_schedule(config: ConfigDict) -> diffusion.Schedule:
    """The schedule of a config: p(logsnr) in training, and the sampler's levels."""
    settings = config.diffusion
    limits = {'logsnr_min': settings.logsnr_min, 'logsnr_max': settings.logsnr_max}
    if settings.schedule == 'shifted_cosine':
        limits['shift'] = settings.shift
    return SCHEDULES.load(settings.schedule)(**limits)


def inputs(config: ConfigDict) -> tuple[Any, ...]:
    """What `make_network(config)` takes for one image: z, logsnr and, to denoise, the condition."""
    size, channels = config.data.image_size, config.data.channels
    z = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)
    if config.model.kind == 'classifier':
        return z, logsnr
    return z, logsnr, make_conditioning(config).example()


def _encoder_settings(config: ConfigDict) -> dict[str, Any]:
    settings = config.model.to_dict()
    del settings['kind']
    return settings | {
        'channel_mult': tuple(config.model.channel_mult),
        'attention_resolutions': tuple(config.model.attention_resolutions),
        'dtype': jnp.dtype(config.model.dtype),
    }
