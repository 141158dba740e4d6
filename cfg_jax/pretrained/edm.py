"""EDM (Karras et al. 2022) on ADM's network: NVlabs/edm's pickle, openai/consistency_models' file.

Both were trained on ImageNet-64 labels without a null, and see noise levels in EDM's scaling with
its preconditioning; they differ in layout and in the scale of the time input.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.pretrained import Plan, adm_layout, edm_layout
from cfg_jax.pretrained.adm_layout import Structure
from cfg_jax.pretrained.levels import Levels
from cfg_jax.pretrained.torch_archive import StateDict
from cfg_jax.registry import parse_options

NOISE_LEVELS = 0.002, 80.0  # that the samplers of both use
_DOUBT = 'a denoiser (edm_*.pt): consistency models (cd_*.pt, ct_*.pt) have the same tensors'


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes do not show.

    Attributes:
      head_channels: of attention.
    """

    head_channels: int = 64


@dataclasses.dataclass(frozen=True)
class NVlabs:
    """The family of NVlabs/edm's ADM network."""

    title = "EDM's U-Net (NVlabs)"
    origin = 'https://github.com/NVlabs/edm'
    licence = 'CC BY-NC-SA 4.0: not for commercial use'

    def recognises(self, state: StateDict) -> bool:
        """By the class that was pickled, and the mapping of ADM's network."""
        names = {'model.map_layer0.weight', 'model.out_norm.weight'}
        return state.attributes.get('class_name') == 'EDMPrecond' and names <= state.keys()

    def plan(self, state: StateDict, settings: str) -> Plan:
        """Structure and sources from the shapes, the heads from the attributes."""
        nothing_to_set(settings)
        found, size = edm_layout.structure(state)
        known = {'sigma_data': 0.5, 'skip_scale': 1, 'eps': 1e-5, 'num_groups': 32}
        check_attributes(state.attributes, known)
        channels = head_size(state.attributes)
        return Plan(
            config=make_config(found, size, channels, 'edm'),
            sources=edm_layout.sources(found, size, channels),
            ignored=edm_layout.buffers(state),
            findings=findings(found, size),
        )


@dataclasses.dataclass(frozen=True)
class OpenAI:
    """The family of consistency_models' EDM networks, in guided-diffusion's layout."""

    title = "EDM's U-Net (consistency_models)"
    origin = 'https://github.com/openai/consistency_models'
    licence = 'code MIT; its model card: for research, not for commercial use'

    def recognises(self, state: StateDict) -> bool:
        """By names as guided-diffusion's; the kernels of attention have two axes."""
        parts = {name.partition('.')[0] for name in state}
        qkv = next((name for name in state if name.endswith('.qkv.weight')), None)
        if not {'input_blocks', 'middle_block', 'output_blocks'} <= parts or qkv is None:
            return False
        return len(state.shape(qkv)) == 4

    def plan(self, state: StateDict, settings: str) -> Plan:
        """Structure and sources from the shapes, the heads as published or as `settings` say."""
        used = Settings(**parse_options(Settings, settings, '--set of an EDM network'))
        found = adm_layout.structure(state)
        size = 8 * 2 ** (len(found.channel_mult) - 1)
        found.check_heads(used.head_channels)
        config = make_config(found, size, used.head_channels, 'edm_steps')
        # As its image_sample.py, and the evaluator of ADM.
        config.sampler.clip, config.sweep.rounding = True, 'truncate'
        config.sweep.metrics = ('fid', 'sfid', 'is', 'precision', 'recall')
        return Plan(
            config=config,
            sources=adm_layout.sources(found, None),
            ignored=frozenset(),
            findings=findings(found, size)
            | {'not in the shapes': f'assumed head_channels={used.head_channels}; {_DOUBT}'},
        )


NVLABS = NVlabs()
OPENAI = OpenAI()


def nothing_to_set(settings: str) -> None:
    """Raises UserError if --set is given for a family whose files say everything."""
    if settings:
        raise UserError(f'its file says everything: --set={settings} has nothing to change')


def check_attributes(attributes: Mapping[str, Any], expected: Mapping[str, float]) -> None:
    """Raises UserError if an attribute of these names, of any module, has another value."""
    for name, value in attributes.items():
        known = expected.get(name.rpartition('.')[2], value)
        if value != known:
            raise UserError(f'{name}={value}, where only {known} is known')


def head_size(attributes: Mapping[str, Any]) -> int:
    """Channels of an attention head, which every block with attention must have.

    Raises:
      UserError: blocks that differ in it.
    """
    found = {
        attributes.get(f'{name.removesuffix("num_heads")}out_channels', 0) / heads
        for name, heads in attributes.items()
        if name.endswith('.num_heads') and heads
    }
    if len(found) != 1 or min(found) not in range(1, 1 << 16):
        raise UserError('its blocks do not say one number of channels for all attention heads')
    return int(found.pop())


def make_config(found: Structure, size: int, channels: int, time: str) -> ConfigDict:
    """The config of ADM's network with EDM's preconditioning and samplers.

    Raises:
      UserError: a network that does not turn images into images.
    """
    if (found.in_channels, found.out_channels) != (3, 3):
        raise UserError(
            f'it takes {found.in_channels} channels and puts out {found.out_channels}; 3 are known'
        )
    config = found.config('adm', size, channels)
    config.diffusion.time = time
    set_edm(config)
    return config


def set_edm(config: ConfigDict) -> None:
    """EDM's scaling and preconditioning, its grid of noise levels and its deterministic sampler."""
    lowest, highest = NOISE_LEVELS
    config.diffusion.scaling = config.diffusion.preconditioning = 'edm'
    config.diffusion.logsnr_min = -2.0 * math.log(highest)
    config.diffusion.logsnr_max = -2.0 * math.log(lowest)
    config.sampler.name = 'heun'
    config.sampler.grid = 'edm'
    config.sampler.num_steps = 40
    config.sampler.clip = False
    config.sweep.metrics = ('fid', 'is')


def findings(found: Levels, size: int) -> dict[str, str]:
    """What the report says of a network."""
    return found.findings(size) | {
        'time': 'noise level, EDM',
        'predicts': "the image, behind EDM's preconditioning",
    }
