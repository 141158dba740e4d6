"""EDM2 (Karras et al. 2024): NVlabs/edm2's ImageNet-64 networks, in pickles of their classes."""

import dataclasses
import math
import re

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.pretrained import Plan, Source
from cfg_jax.pretrained.adm_layout import Shapes, shape_of
from cfg_jax.pretrained.edm import (
    check_attributes,
    findings,
    head_size,
    nothing_to_set,
    set_edm,
)
from cfg_jax.pretrained.levels import Levels
from cfg_jax.pretrained.sources import Sources, hwio
from cfg_jax.pretrained.torch_archive import StateDict

# What the network of `models.edm2` has built in.
_KNOWN = {
    'sigma_data': 0.5,
    'res_balance': 0.3,
    'attn_balance': 0.3,
    'label_balance': 0.5,
    'concat_balance': 0.5,
    'clip_act': 256,
}
_ONE = np.ones((), np.float32)
_SIZES = {128: 'XS', 192: 'S', 256: 'M', 320: 'L', 384: 'XL', 448: 'XXL'}


@dataclasses.dataclass(frozen=True)
class Structure(Levels):
    """What the shapes of a module's tensors show; `size` is the side of the images."""

    size: int
    out_channels: int


def structure(state: Shapes) -> Structure:
    """The structure of a module's tensors.

    Raises:
      UserError: a tensor is missing, or levels that do not fit.
    """
    blocks: dict[int, list[str]] = {}
    for name in state:
        match = re.fullmatch(r'(unet\.enc\.(\d+)x\2_block\d+)\.conv_res0\.weight', name)
        if match:
            blocks.setdefault(int(match[2]), []).append(match[1])
    sizes = sorted(blocks, reverse=True)
    counts = {len(names) for names in blocks.values()}
    if len(counts) != 1 or sizes != [sizes[0] >> level for level in range(len(sizes))]:
        raise UserError('its levels differ in their numbers of blocks, or do not halve')
    outs = [shape_of(state, f'{blocks[size][0]}.conv_res0.weight', 4)[0] for size in sizes]
    if any(out % outs[0] for out in outs):
        raise UserError(f'its levels have {outs} channels, not multiples of the first')
    label = 'unet.emb_label.weight'
    return Structure(
        size=sizes[0],
        out_channels=shape_of(state, 'unet.out_conv.weight', 4)[0],
        width=outs[0],
        channel_mult=tuple(out // outs[0] for out in outs),
        num_res_blocks=counts.pop(),
        attention=tuple(f'{blocks[size][0]}.attn_qkv.weight' in state for size in sizes),
        labels=shape_of(state, label, 2)[1] if label in state else 0,
    )


def normalised(kernel: np.ndarray, gain: np.ndarray = _ONE) -> np.ndarray:
    """w / (1e-4 + |w| / sqrt(n)) gain / sqrt(n), over the n weights of an output (eqs. 47, 66).

    gain / sqrt(n) is rounded to the type of the gain, float16 in the published files: so it acts in
    the network that they are of, where all else is float32.
    """
    flat = kernel.astype(np.float32).reshape(len(kernel), -1)
    root = np.float32(math.sqrt(flat.shape[1]))
    norm = np.float32(1e-4) + np.linalg.norm(flat, axis=1, keepdims=True) / root
    factor = np.float32((np.float32(gain) / root).astype(gain.dtype))
    return (flat / norm * factor).reshape(kernel.shape)


def sources(found: Structure, head_channels: int) -> dict[str, Source]:
    """Where each parameter of our network comes from; a head's channels hold q, k and v in turn."""
    return _Layout(found, head_channels).collect()


class _Layout(Sources):
    """Collects sources block by block; kernels are normalised once and for all."""

    def __init__(self, found: Structure, head_channels: int):
        super().__init__()
        self._found, self._head_channels = found, head_channels
        self._emb = max(map(found.channels, range(len(found.channel_mult))))
        self._channels = 0

    def collect(self) -> dict[str, Source]:
        """The sources of the whole network."""
        found = self._found
        self._embeddings()
        self._channels = found.channels(0)
        seen = found.out_channels + 1  # the image and a channel of ones
        self._conv('conv_in', self._name('enc', 0, 'conv'), self._channels, seen, 3)
        skips = [self._channels]
        last = len(found.channel_mult) - 1
        for level in range(last + 1):
            if level:
                self._block(f'down_{level - 1}_resample', self._name('enc', level, 'down'))
                skips.append(self._channels)
            for block in range(found.num_res_blocks):
                name = self._name('enc', level, f'block{block}')
                self._block(f'down_{level}_{block}', name, level)
                skips.append(self._channels)
        self._block('middle_0', self._name('dec', last, 'in0'), attention=True, decoder=True)
        self._block('middle_1', self._name('dec', last, 'in1'), decoder=True)
        for level in reversed(range(last + 1)):
            if level != last:
                name = self._name('dec', level, 'up')
                self._block(f'up_{level + 1}_resample', name, decoder=True)
            for block in range(found.num_res_blocks + 1):
                name = self._name('dec', level, f'block{block}')
                self._channels += skips.pop()
                self._block(f'up_{level}_{block}', name, level, decoder=True)
        gain = 'unet.out_gain'
        self._conv('conv_out', 'unet.out_conv', found.out_channels, self._channels, 3, gain)
        return self.sources

    def _embeddings(self) -> None:
        width = self._found.channels(0)
        self.add('frequencies', 'unet.emb_fourier.freqs', (width,))
        self.add('phases', 'unet.emb_fourier.phases', (width,))
        self._dense('noise', 'unet.emb_noise', width)
        labels = self._found.labels
        if labels:
            # A label is sqrt(labels) times a unit vector: the row that it picks.
            self.add(
                'label/embedding',
                'unet.emb_label.weight',
                (self._emb, labels),
                lambda kernel: (normalised(kernel) * np.float32(math.sqrt(labels))).T,
            )

    def _block(
        self,
        ours: str,
        theirs: str,
        level: int | None = None,
        attention: bool = False,
        decoder: bool = False,
    ) -> None:
        """A block to the channels of a level, or one that keeps its channels."""
        found, channels = self._found, self._channels
        out = channels if level is None else found.channels(level)
        inner = channels if decoder else out
        self._conv(f'{ours}/conv_res0', f'{theirs}.conv_res0', out, inner, 3)
        self._dense(f'{ours}/emb', f'{theirs}.emb_linear', self._emb, out, f'{theirs}.emb_gain')
        self._conv(f'{ours}/conv_res1', f'{theirs}.conv_res1', out, out, 3)
        if channels != out:
            self._conv(f'{ours}/conv_skip', f'{theirs}.conv_skip', out, channels, 1)
        self._channels = out
        if attention or (level is not None and found.attention[level]):
            heads = out // self._head_channels

            def convert(kernel: np.ndarray) -> np.ndarray:
                # A head's channels hold q, k and v in turn; here all q come first.
                split = normalised(kernel).reshape(heads, -1, 3, out)
                return hwio(np.moveaxis(split, 2, 0).reshape(kernel.shape))

            self.add(
                f'{ours}/qkv/kernel', f'{theirs}.attn_qkv.weight', (3 * out, out, 1, 1), convert
            )
            self._conv(f'{ours}/proj', f'{theirs}.attn_proj', out, out, 1)

    def _conv(
        self, ours: str, theirs: str, out: int, channels: int, side: int, gain: str = ''
    ) -> None:
        self.add(
            f'{ours}/kernel',
            f'{theirs}.weight',
            (out, channels, side, side),
            lambda kernel, *gains: hwio(normalised(kernel, *gains)),
            gain,
        )

    def _dense(self, ours: str, theirs: str, channels: int, out: int = 0, gain: str = '') -> None:
        self.add(
            f'{ours}/kernel',
            f'{theirs}.weight',
            (out or self._emb, channels),
            lambda kernel, *gains: normalised(kernel, *gains).T,
            gain,
        )

    def _name(self, way: str, level: int, block: str) -> str:
        side = self._found.size >> level
        return f'unet.{way}.{side}x{side}_{block}'


@dataclasses.dataclass(frozen=True)
class EDM2:
    """The family."""

    title = "EDM2's U-Net"
    origin = 'https://github.com/NVlabs/edm2'
    licence = 'CC BY-NC-SA 4.0: not for commercial use'

    def recognises(self, state: StateDict) -> bool:
        """By the class that was pickled, and its first layer."""
        return state.attributes.get('class_name') == 'Precond' and 'unet.emb_fourier.freqs' in state

    def plan(self, state: StateDict, settings: str) -> Plan:
        """Structure and sources from the shapes, the heads from the attributes."""
        nothing_to_set(settings)
        found = structure(state)
        check_attributes(state.attributes, _KNOWN)
        if found.out_channels != 3:
            raise UserError(
                f'it makes {found.out_channels} channels: latents need their autoencoder'
            )
        channels = head_size(state.attributes)
        return Plan(
            config=_config(found, channels),
            sources=sources(found, channels),
            ignored=frozenset(name for name in state if name.startswith('logvar_')),
            findings=_findings(found),
        )


FAMILY = EDM2()


def _config(found: Structure, channels: int) -> ConfigDict:
    config = found.config('edm2', found.size, channels)
    config.diffusion.time = 'edm'
    set_edm(config)
    config.sampler.num_steps = 32
    return config


def _findings(found: Structure) -> dict[str, str]:
    shown = findings(found, found.size)
    name = _SIZES.get(found.width, 'of no published width')
    return shown | {'network': f'{name}: {shown["network"]}'}
