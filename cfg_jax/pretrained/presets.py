"""Settings with which published numbers were made: `--preset=NAME` of sample.py and sweep.py.

A number of a publication stands in `published`, with where it is from. None of them is ours.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cfg_jax import config as config_lib
from cfg_jax.errors import UserError
from cfg_jax.registry import suggestion


class Preset(NamedTuple):
    """One published setting.

    Attributes:
      summary: one line for --help.
      published: the numbers and their source; '' where none is published.
      fits: fields of the config that the model must have.
      settings: fields that are set.
      network: what --guidance_network must be; '' without one.
    """

    summary: str
    published: str
    fits: Mapping[str, Any]
    settings: Mapping[str, Any]
    network: str = ''


# ADM's protocol: 250 respaced steps, the learned variance, 50,000 images of uniform labels, its
# evaluator's metrics against its reference batch, uint8 by truncation.
_ADM = {
    'sampler.name': 'ancestral',
    'sampler.options': '',
    'sampler.num_steps': 250,
    'sampler.grid': 'respaced',
    'sampler.clip': True,
    'sweep.num_samples': 50_000,
    'sweep.shard_size': 500,
    'sweep.labels': 'uniform',
    'sweep.rounding': 'truncate',
    'sweep.features': 'inception',
    'sweep.metrics': ('fid', 'sfid', 'is', 'precision', 'recall'),
}
_README, _PAPER = "guided-diffusion's README", "ADM's paper, table 5"


def _of_adm(size: int) -> dict[str, Any]:
    """A conditional ADM network of this image size."""
    return {
        'model.kind': 'adm',
        'data.image_size': size,
        'diffusion.time': 'steps',
        'condition': 'label_only',
    }


def _adm(size: int, scale: float, published: str) -> Preset:
    """ADM-G: a conditional network guided by the classifier of its size."""
    rule = {'guidance.rule': 'classifier_mean', 'guidance.options': '', 'sweep.w': (scale,)}
    return Preset(
        f'ADM-G {size}x{size}, 250 steps, classifier scale {scale:g}',
        published,
        _of_adm(size),
        _ADM | rule,
        f'{size}x{size}_classifier.pt',
    )


# EDM's protocol: 50,000 images of uniform labels, the least FID of three seeds, against statistics
# of the training images, uint8 by rounding.
_EDM = {
    'sampler.grid': 'edm',
    'sampler.clip': False,
    'sweep.num_samples': 50_000,
    'sweep.shard_size': 500,
    'sweep.repeats': 3,
    'sweep.labels': 'uniform',
    'sweep.rounding': 'round',
    'sweep.features': 'inception',
    'sweep.metrics': ('fid',),
}
_HEUN = {'sampler.name': 'heun', 'sampler.options': ''}
_UNGUIDED = {'guidance.rule': 'independent', 'guidance.options': '', 'sweep.w': (0.0,)}
_OF_EDM = {
    'model.kind': 'adm',
    'data.image_size': 64,
    'diffusion.time': 'edm',
    'condition': 'label_only',
}


def _of_edm2(width: int) -> dict[str, Any]:
    """A conditional EDM2 network for 64 x 64 of this width."""
    return {
        'model.kind': 'edm2',
        'data.image_size': 64,
        'model.width': width,
        'condition': 'label_only',
    }


def _edm2(size: str, width: int, ema: str, fid: float) -> Preset:
    """EDM2 without guidance: 32 Heun steps, 63 evaluations."""
    return Preset(
        f'EDM2-{size} 64x64 without guidance, 32 Heun steps',
        f'FID {fid} (generate_images.py of NVlabs/edm2; the file of EMA {ema})',
        _of_edm2(width),
        _EDM | _HEUN | _UNGUIDED | {'sampler.num_steps': 32},
    )


# DiT's protocol, and SiT's after it: 50,000 images of uniform labels, ADM's evaluator and reference
# batch, uint8 by rounding, the autoencoder sd-vae-ft-ema, scale 1.5 on 3 of 4 channels.
_DIT = {
    'sampler.options': '',
    'sampler.clip': False,
    'guidance.rule': 'classifier_free+channels',
    'guidance.options': '',
    'sweep.w': (0.5,),
    'sweep.num_samples': 50_000,
    'sweep.shard_size': 500,
    'sweep.labels': 'uniform',
    'sweep.rounding': 'round',
    'sweep.features': 'inception',
    'sweep.metrics': ('fid', 'sfid', 'is', 'precision', 'recall'),
}


def _of_dit(size: int, target: str) -> dict[str, Any]:
    """A network of the size XL/2 for images of this size."""
    return {
        'model.kind': 'dit',
        'data.image_size': size,
        'target': target,
        'model.width': 1152,
        'model.depth': 28,
        'model.patch': 2,
    }


def _dit(size: int, published: str) -> Preset:
    """DiT-XL/2 with guidance scale 1.5: 250 ancestral steps, the learned variance."""
    return Preset(
        f'DiT-XL/2 {size}x{size}, 250 steps, guidance scale 1.5',
        f"{published} (DiT's README; its 1.5 is w = 0.5)",
        _of_dit(size, 'eps'),
        _DIT | {'sampler.name': 'ancestral', 'sampler.num_steps': 250, 'sampler.grid': 'respaced'},
    )


PRESETS: dict[str, Preset] = {
    'adm64': Preset(
        'ADM 64x64 without guidance, 250 steps',
        f'FID 2.07, sFID 4.29, precision 0.74, recall 0.63 ({_PAPER})',
        _of_adm(64),
        _ADM | {'guidance.rule': 'independent', 'guidance.options': '', 'sweep.w': (0.0,)},
    ),
    'adm128': _adm(128, 0.5, f'FID 2.97, sFID 5.09, precision 0.78, recall 0.59 ({_PAPER})'),
    'adm128-ddim25': Preset(
        'ADM-G 128x128, 25 DDIM steps, classifier scale 1.25',
        f'FID 5.98, sFID 7.04, precision 0.78, recall 0.51 ({_PAPER})',
        _of_adm(128),
        _ADM
        | {
            'sampler.name': 'ddim',
            'sampler.num_steps': 25,
            'sampler.grid': 'strided',
            'sampler.clip': False,
            'guidance.rule': 'classifier_eps',
            'guidance.options': 'clip_first=true',
            'sweep.w': (1.25,),
        },
        '128x128_classifier.pt',
    ),
    'adm256': _adm(256, 1.0, f'FID 4.59, precision 0.82, recall 0.52 ({_README})'),
    'adm512': _adm(512, 4.0, f'FID 7.72, precision 0.87, recall 0.42 ({_README})'),
    'adm256-pair': Preset(
        'ADM 256x256: classifier-free guidance by the conditional and the unconditional network',
        '',
        _of_adm(256),
        _ADM
        | {
            'guidance.rule': 'autoguidance',
            'guidance.options': '',
            'sweep.w': (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
        },
        '256x256_diffusion_uncond.pt',
    ),
    'edm64': Preset(
        'EDM 64x64 without guidance, 40 Heun steps, deterministic',
        "FID 2.22 (EDM's paper)",
        _OF_EDM,
        _EDM | _HEUN | _UNGUIDED | {'sampler.num_steps': 40},
    ),
    'edm64-stochastic': Preset(
        'EDM 64x64 without guidance, 256 Heun steps with churn',
        "FID 1.36 (EDM's README)",
        _OF_EDM,
        _EDM
        | _UNGUIDED
        | {
            'sampler.name': 'heun',
            'sampler.options': 'churn=40,churn_min=0.05,churn_max=50,churn_noise=1.003',
            'sampler.num_steps': 256,
        },
    ),
    'edm2-s': _edm2('S', 192, '0.075', 1.58),
    'edm2-m': _edm2('M', 256, '0.060', 1.43),
    'edm2-l': _edm2('L', 320, '0.040', 1.33),
    'edm2-xl': _edm2('XL', 384, '0.040', 1.33),
    'edm2-s-autoguidance': Preset(
        'EDM2-S 64x64 guided by a short training of EDM2-XS, 32 Heun steps',
        'FID 1.01 (generate_images.py of NVlabs/edm2; its guidance 1.70 is w = 0.7; the file of EMA'
        ' 0.045)',
        _of_edm2(192),
        _EDM
        | _HEUN
        | {
            'sampler.num_steps': 32,
            'guidance.rule': 'autoguidance',
            'guidance.options': '',
            'sweep.w': (0.7,),
        },
        'edm2-img64-xs-0134217-0.110.pkl',
    ),
    'dit-xl-256': _dit(256, 'FID 2.27, IS 278.24'),
    'dit-xl-512': _dit(512, 'FID 3.04, IS 240.82'),
    'sit-xl-256': Preset(
        'SiT-XL/2 256x256, 250 steps of the SDE, guidance scale 1.5',
        "FID 2.06, IS 270.27 (SiT's README; the steps are its code's defaults of the SDE)",
        _of_dit(256, 'velocity'),
        _DIT | {'sampler.name': 'flow_sde', 'sampler.num_steps': 250, 'sampler.grid': 'flow'},
    ),
    'sit-xl-256-ode': Preset(
        'SiT-XL/2 256x256, 126 Heun steps of the ODE, guidance scale 1.5',
        'FID 2.15, sFID 4.60, IS 258.09, precision 0.81, recall 0.60'
        " (SiT's paper, table 7; by 250 evaluations of Heun's method)",
        _of_dit(256, 'velocity'),
        _DIT | {'sampler.name': 'flow_heun', 'sampler.num_steps': 126, 'sampler.grid': 'schedule'},
    ),
}


def apply(config: ConfigDict, name: str) -> Preset:
    """Sets the fields of a preset in the config of an imported model.

    Raises:
      UserError: no such preset, or one of another model.
    """
    if name not in PRESETS:
        raise UserError(
            f'there is no preset {name!r}{suggestion(name, PRESETS)}; choose one of'
            f' {", ".join(PRESETS)}'
        )
    preset = PRESETS[name]
    for field, wanted in preset.fits.items():
        found = _get(config, field)
        if found != wanted:
            raise UserError(
                f'the preset {name} is for models with {field}={wanted}; this one has {found}'
            )
    for field, value in preset.settings.items():
        group, _, last = field.partition('.')
        config[group][last] = value
    return preset


def help_text() -> str:
    """The presets with their published numbers, two lines each."""
    width = max(map(len, PRESETS))
    return '\n'.join(
        f'  {name:{width}}  {preset.summary}\n  {"":{width}}  '
        + (f'published: {preset.published}' if preset.published else 'nothing is published')
        for name, preset in PRESETS.items()
    )


def _get(config: ConfigDict, field: str) -> Any:
    return dict(config_lib.flatten(config)).get(field)
