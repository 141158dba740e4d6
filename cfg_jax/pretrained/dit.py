"""DiT (Peebles & Xie 2023) and SiT (Ma et al. 2024): transformers of Stable Diffusion's latents.

Both publish the same network for ImageNet, with the same names and shapes: DiT's sees one of 1,000
steps and predicts eps and the variance; SiT's sees t of a rectified flow and predicts its velocity.
"""

import dataclasses
import math

import numpy as np
from ml_collections import ConfigDict

from cfg_jax import config as config_lib
from cfg_jax.errors import UserError
from cfg_jax.pretrained import Plan, Source
from cfg_jax.pretrained.adm_layout import Shapes, shape_of
from cfg_jax.pretrained.sources import Sources
from cfg_jax.pretrained.torch_archive import StateDict
from cfg_jax.registry import SCHEDULES, parse_options

DIFFUSION, FLOW = 'diffusion', 'flow'
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the sizes S, B, L and XL, by width
_FACTOR = 8  # pixels a side of a latent
_TIME_FEATURES = 256
_LAST = 'final_layer.linear.weight'


@dataclasses.dataclass(frozen=True)
class Settings:
    """What names and shapes do not show.

    Attributes:
      process: 'diffusion' for DiT, 'flow' for SiT. By default SiT where the part of the last layer
        that would predict the variance is not there, or all zero: SiT's loss does not reach it, and
        it starts at zero.
      num_heads: of attention; 0 for that of the published size.
    """

    process: str = ''
    num_heads: int = 0


@dataclasses.dataclass(frozen=True)
class Structure:
    """What the shapes of a state dict show.

    Attributes:
      width: features of a token.
      depth: blocks.
      patch: side of a token's patch.
      side: tokens a side.
      channels: of the latents.
      out_channels: of the network, the variance included.
      rows: of the label embedding, the null's included.
    """

    width: int
    depth: int
    patch: int
    side: int
    channels: int
    out_channels: int
    rows: int


def structure(state: Shapes) -> Structure:
    """The structure of a state dict.

    Raises:
      UserError: one that does not fit any structure, naming a tensor.
    """
    width, channels, patch, _ = shape_of(state, 'x_embedder.proj.weight', 4)
    _, tokens, _ = shape_of(state, 'pos_embed', 3)
    blocks = {name.split('.')[1] for name in state if name.startswith('blocks.')}
    out = shape_of(state, _LAST, 2)[0] / patch**2
    if math.isqrt(tokens) ** 2 != tokens:
        raise UserError(f"'pos_embed' is for {tokens} tokens, not a square")
    if out not in (channels, 2 * channels):
        raise UserError(
            f'{_LAST!r} puts out {out:g} channels; {channels} or {2 * channels} are known'
        )
    return Structure(
        width=width,
        depth=len(blocks),
        patch=patch,
        side=math.isqrt(tokens),
        channels=channels,
        out_channels=int(out),
        rows=shape_of(state, 'y_embedder.embedding_table.weight', 2)[0],
    )


def sources(found: Structure, process: str) -> dict[str, Source]:
    """Where the parameters come from."""
    layout, width = Sources(), found.width
    patch = width, found.channels, found.patch, found.patch
    layout.add(
        'patches/kernel',
        'x_embedder.proj.weight',
        patch,
        lambda kernel: kernel.transpose(2, 3, 1, 0).reshape(-1, width),
    )
    layout.add('patches/bias', 'x_embedder.proj.bias', (width,))
    tokens = found.side, found.side, width
    layout.add(
        'position', 'pos_embed', (1, found.side**2, width), lambda array: array.reshape(tokens)
    )
    layout.add('label/embedding', 'y_embedder.embedding_table.weight', (found.rows, width))
    layout.dense('time_0', 't_embedder.mlp.0', width, _TIME_FEATURES)
    layout.dense('time_1', 't_embedder.mlp.2', width, width)
    for block in range(found.depth):
        ours, theirs = f'block_{block}', f'blocks.{block}'
        layout.dense(f'{ours}/modulation', f'{theirs}.adaLN_modulation.1', 6 * width, width)
        layout.dense(f'{ours}/qkv', f'{theirs}.attn.qkv', 3 * width, width)
        layout.dense(f'{ours}/proj', f'{theirs}.attn.proj', width, width)
        layout.dense(f'{ours}/mlp_0', f'{theirs}.mlp.fc1', 4 * width, width)
        layout.dense(f'{ours}/mlp_1', f'{theirs}.mlp.fc2', width, 4 * width)
    layout.dense('modulation', 'final_layer.adaLN_modulation.1', 2 * width, width)
    _last_layer(layout, found, process)
    return layout.sources


def _last_layer(layout: Sources, found: Structure, process: str) -> None:
    """The layer that puts out patches; a flow's loses the variance and changes its sign."""
    outputs = found.patch**2 * found.out_channels

    def convert(array: np.ndarray) -> np.ndarray:
        if process == FLOW:
            # SiT's velocity is x - eps, of a time that runs to the image; ours is eps - x.
            patches = array.reshape(found.patch**2, found.out_channels, -1)
            array = -patches[:, : found.channels].reshape(-1, *array.shape[1:])
        return array.T

    layout.add('out/kernel', _LAST, (outputs, found.width), convert)
    layout.add('out/bias', 'final_layer.linear.bias', (outputs,), convert)


@dataclasses.dataclass(frozen=True)
class DiT:
    """The family."""

    title = "DiT's or SiT's transformer"
    origin = 'https://github.com/facebookresearch/DiT, https://github.com/willisma/SiT'
    licence = 'DiT: CC BY-NC 4.0, not for commercial use; SiT: MIT'

    def recognises(self, state: StateDict) -> bool:
        """By names."""
        return {'x_embedder.proj.weight', 'pos_embed', _LAST} <= state.keys()

    def plan(self, state: StateDict, settings: str) -> Plan:
        """Network, process, and where each parameter comes from; see `Family.plan`."""
        given = Settings(**parse_options(Settings, settings, '--set of DiT or SiT'))
        found = structure(state)
        used = Settings(
            given.process or _process(found, state),
            given.num_heads or _HEADS.get(found.width, 0),
        )
        _check(found, used)
        assumed = [
            f'{name}={value}'
            for name, value in dataclasses.asdict(used).items()
            if not getattr(given, name)
        ]
        said = ', '.join([*assumed, 'the last label is the null'])
        return Plan(
            config=_config(found, used),
            sources=sources(found, used.process),
            ignored=frozenset(),
            findings=_findings(found, used) | {'not in the shapes': f'assumed {said}'},
        )


FAMILY = DiT()


def _process(found: Structure, state: StateDict) -> str:
    if found.out_channels == found.channels:
        return FLOW
    last = state[_LAST].reshape(found.patch**2, found.out_channels, -1)
    return DIFFUSION if last[:, found.channels :].any() else FLOW


def _check(found: Structure, used: Settings) -> None:
    if used.process not in (DIFFUSION, FLOW):
        raise UserError(f'--set: process is {DIFFUSION} (DiT) or {FLOW} (SiT)')
    if used.process == DIFFUSION and found.out_channels != 2 * found.channels:
        raise UserError(f'{_LAST!r} does not predict the variance, as DiT does: --set=process=flow')
    if not used.num_heads:
        raise UserError(
            f'no published network has a width of {found.width}; give its attention heads:'
            ' --set=num_heads=...'
        )
    if found.width % used.num_heads:
        raise UserError(f'num_heads={used.num_heads} does not divide its width {found.width}')
    if found.rows < 2:
        raise UserError(f"'y_embedder.embedding_table.weight' has {found.rows} rows, and no class")


def _config(found: Structure, used: Settings) -> ConfigDict:
    config = config_lib.base_config('dit')
    config.data.name = 'imagenet2012'
    config.data.image_size = found.side * found.patch * _FACTOR
    config.data.num_classes = found.rows - 1
    config.model.width, config.model.depth = found.width, found.depth
    config.model.num_heads, config.model.patch = used.num_heads, found.patch
    config.latent.channels, config.latent.factor = found.channels, _FACTOR
    config.sampler.clip = False
    if used.process == FLOW:
        config.target = 'velocity'
        config.diffusion.schedule = config.diffusion.scaling = config.diffusion.time = 'flow'
        # Sampling begins at t = 1 there; here at 1 - 6e-6.
        config.diffusion.logsnr_min, config.diffusion.logsnr_max = -24.0, 24.0
        config.sampler.name, config.sampler.num_steps = 'flow_heun', 126
    else:
        config.model.learned_variance = True
        config.diffusion.schedule, config.diffusion.time = 'linear_beta', 'steps'
        table = SCHEDULES.load('linear_beta')().table()
        config.diffusion.logsnr_min, config.diffusion.logsnr_max = map(float, (table[-1], table[0]))
        config.sampler.num_steps, config.sampler.grid = 250, 'respaced'
    config.sweep.w = (0.0, 0.5)
    config.sweep.metrics = ('fid', 'sfid', 'is', 'precision', 'recall')
    return config


def _findings(found: Structure, used: Settings) -> dict[str, str]:
    latents, size = found.side * found.patch, found.side * found.patch * _FACTOR
    findings = {
        'images': f'{size} x {size}, as latents {latents} x {latents} x {found.channels}',
        'network': f'width {found.width}, {found.depth} blocks, patches of {found.patch}',
        'condition': f'{found.rows - 1} labels and the null',
    }
    if used.process == DIFFUSION:
        return findings | {'time': '1,000 steps, linear_beta', 'predicts': 'eps and the variance'}
    unused = found.out_channels - found.channels
    return findings | {
        'time': 't of a rectified flow',
        'predicts': 'the velocity' + (f'; {unused} unused channels are left out' if unused else ''),
    }
