"""Stable Diffusion's autoencoder (Rombach et al. 2022), its decoder, in diffusers' naming.

DiT and SiT are models of its latents. The encoder's tensors are not read.
"""

import dataclasses
import re
from collections import Counter

from ml_collections import ConfigDict

from cfg_jax import config as config_lib
from cfg_jax.errors import UserError
from cfg_jax.models.decoder import CHANNELS
from cfg_jax.pretrained import Plan
from cfg_jax.pretrained.adm_layout import Shapes, shape_of
from cfg_jax.pretrained.sources import Sources
from cfg_jax.pretrained.torch_archive import StateDict
from cfg_jax.registry import parse_options

_NORM_GROUPS = 32  # in all of diffusers' autoencoders
# Names of an attention's layers since diffusers 0.13, and before.
_NAMES = {'q': 'to_q', 'k': 'to_k', 'v': 'to_v', 'proj': 'to_out.0', 'norm': 'group_norm'}
_FORMER_NAMES = _NAMES | {'q': 'query', 'k': 'key', 'v': 'value', 'proj': 'proj_attn'}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes do not show.

    Attributes:
      scale: of a diffusion model's latents, times the autoencoder's own.
    """

    scale: float = 0.18215


@dataclasses.dataclass(frozen=True)
class Structure:
    """What the shapes of a state dict show.

    Attributes:
      channels: of each level, that of the images first.
      num_res_blocks: of each level.
      latent_channels: of the latents.
    """

    channels: tuple[int, ...]
    num_res_blocks: int
    latent_channels: int


def structure(state: Shapes) -> Structure:
    """The structure of a state dict.

    Raises:
      UserError: a tensor is missing, or levels that do not fit.
    """
    pattern = re.compile(r'decoder\.up_blocks\.(\d+)\.resnets\.\d+\.conv1\.weight')
    matches = [match for name in state if (match := pattern.fullmatch(name))]
    blocks = Counter(match[1] for match in matches)
    if not blocks and any(name.startswith('decoder.up.') for name in state):
        raise UserError(
            "its decoder has CompVis's names (decoder.up.0...), not diffusers'; give"
            ' diffusion_pytorch_model.safetensors of the same autoencoder'
        )
    levels, counts = len(blocks), set(blocks.values())
    if len(counts) != 1:
        raise UserError("the levels of 'decoder.up_blocks' differ in their numbers of blocks")
    first = 'decoder.up_blocks.{}.resnets.0.conv1.weight'
    channels = [shape_of(state, first.format(level), 4)[0] for level in range(levels)][::-1]
    if any(each % channels[0] or each % _NORM_GROUPS for each in channels):
        raise UserError(
            f"the levels of 'decoder.up_blocks' have {channels} channels, not multiples of the"
            f' least and of {_NORM_GROUPS}'
        )
    latents = shape_of(state, 'post_quant_conv.weight', 4)[1]
    return Structure(tuple(channels), counts.pop(), latents)


def sources(found: Structure, former_names: bool) -> Sources:
    """Where the decoder's parameters come from."""
    layout, deepest = Sources(), found.channels[-1]
    layout.conv('latents', 'post_quant_conv', found.latent_channels, found.latent_channels, 1)
    layout.conv('conv_in', 'decoder.conv_in', deepest, found.latent_channels, 3)
    middle = 'decoder.mid_block'
    for block in (0, 1):
        _block(layout, f'middle_{block}', f'{middle}.resnets.{block}', deepest, deepest)
    names = _FORMER_NAMES if former_names else _NAMES
    for part in ('q', 'k', 'v', 'proj'):
        theirs = f'{middle}.attentions.0.{names[part]}'
        layout.dense(f'middle_attention_{part}', theirs, deepest, deepest)
    layout.vectors('middle_attention_norm', f'{middle}.attentions.0.{names["norm"]}', deepest)
    channels, last = deepest, len(found.channels) - 1
    for level in reversed(range(last + 1)):
        up = f'decoder.up_blocks.{last - level}'
        for block in range(found.num_res_blocks):
            out = found.channels[level]
            _block(layout, f'up_{level}_{block}', f'{up}.resnets.{block}', out, channels)
            channels = out
        if level:
            layout.conv(f'up_{level}_resample', f'{up}.upsamplers.0.conv', channels, channels, 3)
    layout.vectors('norm_out', 'decoder.conv_norm_out', channels)
    layout.conv('conv_out', 'decoder.conv_out', CHANNELS, channels, 3)
    return layout


def _block(layout: Sources, ours: str, theirs: str, out: int, channels: int) -> None:
    layout.vectors(f'{ours}_norm_in', f'{theirs}.norm1', channels)
    layout.conv(f'{ours}_conv_in', f'{theirs}.conv1', out, channels, 3)
    layout.vectors(f'{ours}_norm_out', f'{theirs}.norm2', out)
    layout.conv(f'{ours}_conv_out', f'{theirs}.conv2', out, out, 3)
    if out != channels:
        layout.conv(f'{ours}_conv_skip', f'{theirs}.conv_shortcut', out, channels, 1)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """The family."""

    title = "Stable Diffusion's autoencoder, its decoder"
    origin = 'https://github.com/huggingface/diffusers'
    licence = 'sd-vae-ft-mse and sd-vae-ft-ema: MIT; others: see where the file is from'

    def recognises(self, state: StateDict) -> bool:
        """By names."""
        return {'post_quant_conv.weight', 'decoder.conv_in.weight'} <= state.keys()

    def plan(self, state: StateDict, settings: str) -> Plan:
        """The decoder, its scale, and where each parameter comes from; see `Family.plan`."""
        used = Settings(**parse_options(Settings, settings, '--set of an autoencoder'))
        found = structure(state)
        former_names = 'decoder.mid_block.attentions.0.query.weight' in state
        ignored = {name for name in state if name.startswith(('encoder.', 'quant_conv.'))}
        return Plan(
            config=_config(found, used),
            sources=sources(found, former_names).sources,
            ignored=frozenset(ignored),
            findings={
                'latents': f'{found.latent_channels} channels; a side of one is'
                f' {2 ** (len(found.channels) - 1)} pixels',
                'network': f'{found.channels} channels, {found.num_res_blocks} residual blocks a'
                ' level',
                'left out': f'the encoder, {len(ignored)} tensors',
                'not in the shapes': f'assumed scale={used.scale:g}; the autoencoder of SDXL has'
                ' the same tensors and 0.13025',
            },
        )


FAMILY = Autoencoder()


def _config(found: Structure, used: Settings) -> ConfigDict:
    config = config_lib.base_config('decoder')
    config.model.width = found.channels[0]
    config.model.channel_mult = tuple(each // found.channels[0] for each in found.channels)
    config.model.num_res_blocks = found.num_res_blocks
    config.model.norm_groups = _NORM_GROUPS
    config.latent.channels = found.latent_channels
    config.latent.scale = used.scale
    return config
