"""How openai/guided-diffusion's code lays out its networks: their structure and tensor names."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.pretrained import Source
from cfg_jax.pretrained.levels import Levels
from cfg_jax.pretrained.sources import Sources

_EMB = 'input_blocks.1.0.emb_layers.1.weight'


class Shapes(Protocol):
    """A state dict, of which the layout needs names and shapes."""

    def __contains__(self, name: object, /) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        ...


@dataclasses.dataclass(frozen=True)
class Structure(Levels):
    """What the shapes of a state dict show of its network.

    Attributes, besides those of `Levels`:
      resblock_updown: whether residual blocks resample, or convolutions.
      scale_shift_norm: whether the embedding scales and shifts, or is added.
      in_channels, out_channels: of the images; of the output, or classes of a classifier.
      pool_positions: positions of the classifier's pool; 0 for a U-Net.
      pointwise_axes: axes of the attention's 1 x 1 kernels, 1 or 2.
    """

    resblock_updown: bool
    scale_shift_norm: bool
    in_channels: int
    out_channels: int
    pool_positions: int
    pointwise_axes: int

    def config(self, kind: str, size: int, head_channels: int, num_heads: int = 0) -> ConfigDict:
        """The config of `Levels`, with how blocks resample and what the embedding does."""
        config = super().config(kind, size, head_channels, num_heads)
        config.model.resblock_updown = self.resblock_updown
        config.model.scale_shift_norm = self.scale_shift_norm
        return config


def structure(state: Shapes) -> Structure:
    """The structure of a state dict.

    Raises:
      UserError: one that does not fit any structure, naming a tensor.
    """
    width = shape_of(state, 'time_embed.0.weight', 2)[1]
    first = shape_of(state, 'input_blocks.0.0.weight', 4)
    blocks = len({name.split('.')[1] for name in state if name.startswith('input_blocks.')})
    outs = [first[0], *(_block_channels(state, i) for i in range(1, blocks))]
    attention = [f'input_blocks.{i}.1.qkv.weight' in state for i in range(blocks)]
    res_blocks, levels = _levels(state, outs, attention)
    starts = [1 + level * (res_blocks + 1) for level in range(levels)]
    pool = 'out.2.positional_embedding'
    is_classifier = pool in state
    last = shape_of(state, 'out.2.c_proj.weight' if is_classifier else 'out.2.weight')
    labels = shape_of(state, 'label_emb.weight', 2)[0] if 'label_emb.weight' in state else 0
    return Structure(
        width=width,
        channel_mult=tuple(whole(outs[start] / width) for start in starts),
        num_res_blocks=res_blocks,
        attention=tuple(attention[start] for start in starts),
        resblock_updown=not any(re.fullmatch(r'input_.*\.op\.weight', n) for n in state),
        scale_shift_norm=shape_of(state, _EMB, 2)[0] == 2 * outs[1],
        in_channels=first[1],
        out_channels=last[0],
        labels=labels,
        pool_positions=shape_of(state, pool, 2)[1] if is_classifier else 0,
        pointwise_axes=len(shape_of(state, 'middle_block.1.qkv.weight')) - 2,
    )


def sources(structure: Structure, heads: Mapping[int, int] | None) -> dict[str, Source]:
    """Where each parameter of our network comes from.

    Args:
      structure: of the state dict.
      heads: attention heads by channels where a head's q, k and v lie together in the file (the
        'legacy' order); None where all q come first, then all k and v (the 'new' order), as ours.
    """
    layout = _Layout(structure, heads)
    layout.embeddings()
    layout.ways()
    if structure.pool_positions:
        layout.pool()
    else:
        channels = structure.channels(0)
        layout.vectors('norm_out', 'out.0', channels)
        layout.conv('conv_out', 'out.2', structure.out_channels, channels, 3)
    return layout.sources


class _Layout(Sources):
    """Collects sources block by block, in the order in which the network is built."""

    def __init__(self, structure: Structure, heads: Mapping[int, int] | None):
        super().__init__()
        self._structure, self._heads = structure, heads
        self._emb = 4 * structure.width

    def embeddings(self) -> None:
        """Of time and label."""
        self.dense('time_0', 'time_embed.0', self._emb, self._structure.width)
        self.dense('time_1', 'time_embed.2', self._emb, self._emb)
        if self._structure.labels:
            shape = (self._structure.labels, self._emb)
            self.add('label/embedding', 'label_emb.weight', shape)

    def ways(self) -> None:
        """The way down, the middle and, of a U-Net, the way up."""
        found = self._structure
        channels = found.channels(0)
        self.conv('conv_in', 'input_blocks.0.0', channels, found.in_channels, 3)
        skips, number = [channels], 1
        last = len(found.channel_mult) - 1
        for level in range(last + 1):
            for block in range(found.num_res_blocks):
                ours, theirs = f'down_{level}_{block}', f'input_blocks.{number}'
                channels = self._block(ours, theirs, channels, level)
                skips.append(channels)
                number += 1
            if level != last:
                ours = f'down_{level}_resample'
                self._resample(ours, f'input_blocks.{number}.0', 'op', channels)
                skips.append(channels)
                number += 1
        self.res_block('middle_0', 'middle_block.0', channels, channels)
        self.attention('middle_attention', 'middle_block.1', channels)
        self.res_block('middle_1', 'middle_block.2', channels, channels)
        if not found.pool_positions:
            self._way_up(channels, skips)

    def _way_up(self, channels: int, skips: list[int]) -> None:
        found = self._structure
        number = 0
        for level in reversed(range(len(found.channel_mult))):
            for block in range(found.num_res_blocks + 1):
                ours, theirs = f'up_{level}_{block}', f'output_blocks.{number}'
                channels = self._block(ours, theirs, channels + skips.pop(), level)
                if level and block == found.num_res_blocks:
                    place = 2 if found.attention[level] else 1
                    self._resample(f'up_{level}_resample', f'{theirs}.{place}', 'conv', channels)
                number += 1

    def pool(self) -> None:
        """The classifier's head."""
        found = self._structure
        channels = found.channels(-1)
        self.vectors('norm_out', 'out.0', channels)
        shape = (channels, found.pool_positions)
        self.add('pool/position', 'out.2.positional_embedding', shape, np.transpose)
        self.pointwise('pool/qkv', 'out.2.qkv_proj', 3 * channels, channels, axes=1)
        self.pointwise('pool/proj', 'out.2.c_proj', found.out_channels, channels, axes=1)

    def _block(self, ours: str, theirs: str, channels: int, level: int) -> int:
        out = self._structure.channels(level)
        self.res_block(ours, f'{theirs}.0', channels, out)
        if self._structure.attention[level]:
            self.attention(f'{ours}_attention', f'{theirs}.1', out)
        return out

    def _resample(self, ours: str, theirs: str, name: str, channels: int) -> None:
        if self._structure.resblock_updown:
            self.res_block(ours, theirs, channels, channels)
        else:
            self.conv(ours, f'{theirs}.{name}', channels, channels, 3)

    def res_block(self, ours: str, theirs: str, channels: int, out: int) -> None:
        """A residual block."""
        self.vectors(f'{ours}/norm_in', f'{theirs}.in_layers.0', channels)
        self.conv(f'{ours}/conv_in', f'{theirs}.in_layers.2', out, channels, 3)
        emb = 2 * out if self._structure.scale_shift_norm else out
        self.dense(f'{ours}/emb', f'{theirs}.emb_layers.1', emb, self._emb)
        self.vectors(f'{ours}/norm_out', f'{theirs}.out_layers.0', out)
        self.conv(f'{ours}/conv_out', f'{theirs}.out_layers.3', out, out, 3)
        if channels != out:
            self.conv(f'{ours}/conv_skip', f'{theirs}.skip_connection', out, channels, 1)

    def attention(self, ours: str, theirs: str, channels: int) -> None:
        """An attention block."""
        self.vectors(f'{ours}/norm', f'{theirs}.norm', channels)
        heads = 0 if self._heads is None else self._heads[channels]
        axes = self._structure.pointwise_axes
        self.pointwise(f'{ours}/qkv', f'{theirs}.qkv', 3 * channels, channels, axes, heads, 1)
        self.pointwise(f'{ours}/proj', f'{theirs}.proj_out', channels, channels, axes)


def _levels(state: Shapes, outs: list[int], attention: list[bool]) -> tuple[int, int]:
    """(residual blocks a level, levels) of the blocks on the way down."""
    ups = sum(
        bool(re.fullmatch(r'output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.weight', name))
        for name in state
    )
    is_unet = any(name.startswith('output_blocks.') for name in state)

    def fits(res_blocks: int, levels: int) -> bool:
        for level in range(levels):
            start = 1 + level * (res_blocks + 1)
            stop = start + res_blocks + (level != levels - 1)
            blocks = attention[start : start + res_blocks]
            same = len(set(outs[start:stop])) == 1 and len(set(blocks)) == 1
            if not same or any(attention[start + res_blocks : stop]):
                return False
        return not is_unet or ups == levels - 1

    count = len(outs)
    found = [
        (count // levels - 1, levels)
        for levels in range(1, count // 2 + 1)
        if count % levels == 0 and fits(count // levels - 1, levels)
    ]
    if len(found) != 1:
        raise UserError(
            f'input_blocks.1 to input_blocks.{count - 1} do not form the levels of a network of'
            ' guided-diffusion: channels or attention change within a level'
        )
    return found[0]


def _block_channels(state: Shapes, number: int) -> int:
    """Channels that an input block puts out."""
    res_block, down = (f'input_blocks.{number}.0.{n}.weight' for n in ('out_layers.3', 'op'))
    return shape_of(state, down if down in state else res_block)[0]


def shape_of(state: Shapes, name: str, axes: int = 0) -> tuple[int, ...]:
    """Shape of a tensor; UserError if it is missing, empty or has not so many axes (0: any)."""
    if name not in state:
        raise UserError(f'the tensor {name!r} is missing')
    shape = state.shape(name)
    if not all(shape) or not shape or (axes and len(shape) != axes):
        raise UserError(f'the tensor {name!r} has the shape {shape}')
    return shape


def whole(number: float) -> float:
    """A whole number as an int."""
    return int(number) if number == int(number) else number
