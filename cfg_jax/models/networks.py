"""The networks that a config describes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax import diffusion
from cfg_jax.conditioning import CONDITIONS, Conditioning
from cfg_jax.models import BACKBONES, PUBLISHED, role
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.models.noisy_classifier import NoisyClassifier
from cfg_jax.models.unet import UNet
from cfg_jax.registry import PRECONDITIONINGS, SCALINGS, SCHEDULES, TARGETS, TIMES


def make_network(config: ConfigDict) -> nn.Module:
    """What `model.kind` names: a denoising network or a noisy classifier."""
    kind = config.model.kind
    return (PUBLISHED if kind in PUBLISHED else BACKBONES).load(kind)(config)


def make_unet(config: ConfigDict) -> nn.Module:
    """The U-Net that a config describes: groups `model`, `data` and the condition."""
    return UNet(
        conditioning=make_conditioning(config),
        out_channels=config.data.channels,
        **encoder_settings(config),
    )


def make_classifier(config: ConfigDict) -> nn.Module:
    """The noisy classifier that a config describes: groups `model` and `data`."""
    return NoisyClassifier(num_classes=config.data.num_classes, **encoder_settings(config))


def make_denoiser(config: ConfigDict, network: nn.Module | None = None) -> Denoiser:
    """The network that a config describes with what it was trained to see and to predict."""
    network = network or make_network(config)
    return Denoiser(
        network.apply,
        TARGETS.load(config.target),
        SCALINGS.load(config.diffusion.scaling),
        time=make_time(config),
        preconditioning=PRECONDITIONINGS.load(config.diffusion.get('preconditioning', 'none')),
        learned_variance=config.model.get('learned_variance', False),
        dtype=jnp.dtype(config.model.dtype),
    )


def make_noisy_classifier(config: ConfigDict) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """classifier(params, z, logsnr) -> logits of the network that a config describes."""
    network, time = make_network(config), make_time(config)

    def classifier(params: Any, z: jax.Array, logsnr: jax.Array) -> Any:
        return network.apply(params, z, time(logsnr))

    return classifier


def make_latent_decoder(config: ConfigDict) -> Callable[[Any, jax.Array], jax.Array]:
    """decoder(params, latents [B, H, W, C]) -> images of the network that a config describes."""
    network = make_network(config)

    def decoder(params: Any, latents: jax.Array) -> Any:
        return network.apply(params, latents)

    return decoder


def make_time(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """The time input of a config's network as a function of log-SNR."""
    name = config.diffusion.get('time', 'logsnr')  # only published networks have another
    return TIMES.load(name)(make_schedule(config))


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


def noise_shape(config: ConfigDict) -> tuple[int, int, int]:
    """[H, W, C] of what the network denoises: the images, or latents where the config has them."""
    size = config.data.image_size
    if 'latent' not in config:
        return size, size, config.data.channels
    side = size // config.latent.factor
    return side, side, config.latent.channels


def inputs(config: ConfigDict) -> tuple[Any, ...]:
    """What `make_network(config)` takes for one image: z, logsnr and, to denoise, the condition.

    A decoder takes latents alone, of any size; here of a side of 32.
    """
    does = role(config.model.kind)
    shape = (32, 32, config.latent.channels) if does == 'decoder' else noise_shape(config)
    z = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)
    if does == 'decoder':
        return (z,)
    if does == 'classifier':
        return z, logsnr
    return z, logsnr, make_conditioning(config).example()


def encoder_settings(config: ConfigDict) -> dict[str, Any]:
    """The attributes of `encoder.Encoder` that the group `model` sets."""
    of_others = ('kind', 'learned_variance')
    settings = {name: value for name, value in config.model.items() if name not in of_others}
    return settings | {
        'channel_mult': tuple(config.model.channel_mult),
        'attention_resolutions': tuple(config.model.attention_resolutions),
        'dtype': jnp.dtype(config.model.dtype),
    }
