"""Files under the names that docs/published_models.md gives, each a tiny network of its family."""

import contextlib
import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import published_files as files
import pytest
from numpy_adm import Network, Spec, Tensors
from numpy_dit import DiTNetwork
from numpy_edm import EDM2Network, EDMNetwork
from test_decoder import EIGHT, autoencoder
from test_edm import BASE, drawn, edm2_file, edm_file

from cfg_jax import loading
from cfg_jax.models import PUBLISHED, networks
from cfg_jax.pretrained import presets

LABELS = 1000
LEVELS = 8  # that a sampler takes
SIDE = 16  # of what stands for images of 256 pixels
# Groups of a config that do not shape its network.
_OF_USE = {'sampler', 'sweep', 'guidance', 'train'}
# What a preset asks of a network so that its number means something: here it is smaller.
_SIZES = {'data.image_size', 'model.width', 'model.depth', 'model.patch'}


def small():
    """The presets, for networks of any size and with few levels."""
    return {
        name: preset._replace(
            fits={field: wanted for field, wanted in preset.fits.items() if field not in _SIZES},
            settings={**preset.settings, 'sampler.num_steps': LEVELS},
        )
        for name, preset in presets.PRESETS.items()
    }


class _Function(NamedTuple):
    """In the place of a network that was read: `apply` leaves its parameters alone."""

    config: Any

    def apply(self, params, z, *others):
        """The noise that is in z, an image of latents, or logits of the classes."""
        kind = self.config.model.kind
        if kind == 'decoder':
            factor = 2 ** (len(self.config.model.channel_mult) - 1)
            return jnp.repeat(jnp.repeat(z[..., :3], factor, axis=1), factor, axis=2)
        if kind == 'adm_classifier':
            return jnp.tanh(z).sum((1, 2, 3))[:, None] * jnp.arange(self.config.data.num_classes)
        eps = jnp.tanh(z)
        learned = self.config.model.learned_variance
        return jnp.concatenate([eps, eps], axis=-1) if learned else eps


@contextlib.contextmanager
def run_quickly():
    """Puts functions in the place of published networks, whose compilation takes most of a sweep.

    Their parameters are read and checked against the networks all the same.
    """
    make_denoiser, make_network = networks.make_denoiser, networks.make_network
    shapes, known = loading._shapes, {}

    def make_network_or_function(config):
        return _Function(config) if config.model.kind in PUBLISHED else make_network(config)

    def make(config, network=None):
        return make_denoiser(config, network or make_network_or_function(config))

    def shapes_once(config):
        groups = {name: value for name, value in config.to_dict().items() if name not in _OF_USE}
        key = json.dumps(groups)
        known[key] = known[key] if key in known else shapes(config)
        return known[key]

    def make_noisy_classifier(config):
        network, time = make_network_or_function(config), networks.make_time(config)
        return lambda params, z, logsnr: network.apply(params, z, time(logsnr))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, '_shapes', shapes_once)
        patch.setattr(networks, 'make_denoiser', make)
        patch.setattr(networks, 'make_noisy_classifier', make_noisy_classifier)
        patch.setattr(networks, 'make_latent_decoder', lambda config: _Function(config).apply)
        yield


def _adm(folder):
    """Networks of one level and of two, with a head of 64 channels, as published."""
    heads = {'width': 64, 'heads': 1}
    two = {'mult': (1, 1), 'attention': (False, True)}
    for name, levels in (
        ('64x64_diffusion.pt', {'mult': (1,), 'attention': (True,)}),
        ('256x256_diffusion.pt', two),
    ):
        network = Network(Spec(labels=LABELS, **heads, **levels))
        x, steps, labels = files.inputs(1, side=2)  # parameters are the same for every side
        network.unet(files.first(x), steps, labels)
        files.write(folder / name, network.tensors)
    judge = Network(Spec(labels=0, out=LABELS, **heads, **two))
    x, _, _ = files.inputs(1, side=SIDE)
    judge.classifier(files.first(x), steps)
    files.write(folder / '256x256_classifier.pt', judge.tensors)


def _edm(folder):
    """EDM, and EDM2 with a network that guides it."""
    network = drawn(EDMNetwork(Spec(**BASE)))
    edm_file(folder, network).rename(folder / 'edm-imagenet-64x64-cond-adm.pkl')
    for name, seed in (
        ('edm2-img64-s-1073741-0.045.pkl', 0),
        ('edm2-img64-xs-0134217-0.110.pkl', 1),
    ):
        network = EDM2Network()
        network.tensors = Tensors(seed)
        edm2_file(folder, drawn(network)).rename(folder / name)


def _latents(folder):
    """A transformer of one token, which is 2 x 2 latents, and the decoder that enlarges 8 times."""
    network = DiTNetwork(width=384, depth=1, heads=6, side=SIDE // 16, rows=LABELS + 1)
    network.forward(np.zeros((1, 4, SIDE // 8, SIDE // 8)), [0.0], [0])
    files.write(folder / 'DiT-XL-2-256x256.pt', network.tensors)
    autoencoder(folder / 'diffusion_pytorch_model.safetensors', channels=EIGHT, blocks=1)


def write(folder):
    """Writes them all."""
    _adm(folder)
    _edm(folder)
    _latents(folder)
