"""How NVlabs/edm lays out its DhariwalUNet, which is ADM's network: structure and tensor names."""

import re

from cfg_jax.errors import UserError
from cfg_jax.pretrained import Source
from cfg_jax.pretrained.adm_layout import Shapes, Structure, shape_of, whole
from cfg_jax.pretrained.sources import Sources

_ROOT = 'model.'


def structure(state: Shapes) -> tuple[Structure, int]:
    """The structure of a module's tensors and the size of its images.

    Raises:
      UserError: a tensor is missing, or has a shape that does not fit.
    """
    convs = [re.fullmatch(r'model\.enc\.(\d+)x\1_conv\.weight', name) for name in state]
    sizes = [int(match[1]) for match in convs if match]
    if len(sizes) != 1:
        raise UserError('its encoder does not begin with one convolution')
    width = shape_of(state, f'{_ROOT}map_layer0.weight', 2)[1]
    blocks: dict[int, list[str]] = {}
    for name in state:
        match = re.fullmatch(r'model\.(enc\.(\d+)x\2_block\d+)\.conv0\.weight', name)
        if match:
            blocks.setdefault(int(match[2]), []).append(match[1])
    levels = sorted(blocks, reverse=True)
    counts = {len(names) for names in blocks.values()}
    if len(counts) != 1 or levels != [sizes[0] >> level for level in range(len(levels))]:
        raise UserError('its levels differ in their numbers of blocks, or do not halve')
    outs = [shape_of(state, f'{_ROOT}{blocks[size][0]}.conv0.weight', 4)[0] for size in levels]
    label = f'{_ROOT}map_label.weight'
    found = Structure(
        width=width,
        channel_mult=tuple(whole(out / width) for out in outs),
        num_res_blocks=counts.pop(),
        attention=tuple(f'{_ROOT}{blocks[size][0]}.qkv.weight' in state for size in levels),
        resblock_updown=True,
        scale_shift_norm=True,
        in_channels=shape_of(state, f'{_ROOT}enc.{sizes[0]}x{sizes[0]}_conv.weight', 4)[1],
        out_channels=shape_of(state, f'{_ROOT}out_conv.weight', 4)[0],
        labels=shape_of(state, label, 2)[1] if label in state else 0,
        pool_positions=0,
        pointwise_axes=2,
    )
    return found, sizes[0]


def sources(found: Structure, size: int, head_channels: int) -> dict[str, Source]:
    """Where each parameter of our network comes from; a head's channels hold q, k and v in turn."""
    layout = _Layout(found, size, head_channels)
    layout.embeddings()
    layout.way_down()
    layout.way_up()
    return layout.sources


def buffers(state: Shapes) -> frozenset[str]:
    """Tensors that are the 2 x 2 mean of resampling, which is fixed."""
    return frozenset(name for name in state if name.endswith('.resample_filter'))


class _Layout(Sources):
    """Collects sources block by block."""

    def __init__(self, found: Structure, size: int, head_channels: int):
        super().__init__()
        self._found, self._size, self._head_channels = found, size, head_channels
        self._emb = 4 * found.width
        self._skips: list[int] = []
        self._channels = 0

    def embeddings(self) -> None:
        """Of time and label."""
        self.dense('time_0', f'{_ROOT}map_layer0', self._emb, self._found.width)
        self.dense('time_1', f'{_ROOT}map_layer1', self._emb, self._emb)
        if self._found.labels:
            shape = (self._emb, self._found.labels)
            self.add('label/embedding', f'{_ROOT}map_label.weight', shape, lambda kernel: kernel.T)

    def way_down(self) -> None:
        """The encoder, and what EDM counts as the decoder's first two blocks."""
        found = self._found
        self._channels = found.channels(0)
        self.conv('conv_in', self._name('enc', 0, 'conv'), self._channels, found.in_channels, 3)
        self._skips = [self._channels]
        for level in range(len(found.channel_mult)):
            if level:
                self._block(f'down_{level - 1}_resample', self._name('enc', level, 'down'))
                self._skips.append(self._channels)
            for block in range(found.num_res_blocks):
                theirs = self._name('enc', level, f'block{block}')
                self._block(f'down_{level}_{block}', theirs, level)
                self._skips.append(self._channels)
        last = len(found.channel_mult) - 1
        self._block('middle_0', self._name('dec', last, 'in0'))
        self._attention('middle_attention', self._name('dec', last, 'in0'))
        self._block('middle_1', self._name('dec', last, 'in1'))

    def way_up(self) -> None:
        """The decoder and the output."""
        found = self._found
        for level in reversed(range(len(found.channel_mult))):
            if level != len(found.channel_mult) - 1:
                self._block(f'up_{level + 1}_resample', self._name('dec', level, 'up'))
            for block in range(found.num_res_blocks + 1):
                theirs = self._name('dec', level, f'block{block}')
                self._channels += self._skips.pop()
                self._block(f'up_{level}_{block}', theirs, level)
        self.vectors('norm_out', f'{_ROOT}out_norm', self._channels)
        self.conv('conv_out', f'{_ROOT}out_conv', found.out_channels, self._channels, 3)

    def _name(self, way: str, level: int, block: str) -> str:
        side = self._size >> level
        return f'{_ROOT}{way}.{side}x{side}_{block}'

    def _block(self, ours: str, theirs: str, level: int | None = None) -> None:
        """A residual block to the channels of a level, or one that keeps its channels."""
        channels = self._channels
        out = channels if level is None else self._found.channels(level)
        self.vectors(f'{ours}/norm_in', f'{theirs}.norm0', channels)
        self.conv(f'{ours}/conv_in', f'{theirs}.conv0', out, channels, 3)
        self.dense(f'{ours}/emb', f'{theirs}.affine', 2 * out, self._emb)
        self.vectors(f'{ours}/norm_out', f'{theirs}.norm1', out)
        self.conv(f'{ours}/conv_out', f'{theirs}.conv1', out, out, 3)
        if channels != out:
            self.conv(f'{ours}/conv_skip', f'{theirs}.skip', out, channels, 1)
        self._channels = out
        if level is not None and self._found.attention[level]:
            self._attention(f'{ours}_attention', theirs)

    def _attention(self, ours: str, theirs: str) -> None:
        channels = self._channels
        heads = channels // self._head_channels
        self.vectors(f'{ours}/norm', f'{theirs}.norm2', channels)
        self.pointwise(f'{ours}/qkv', f'{theirs}.qkv', 3 * channels, channels, 2, heads, 2)
        self.pointwise(f'{ours}/proj', f'{theirs}.proj', channels, channels, 2)
