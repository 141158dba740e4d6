"""Names and shapes of the FID Inception's layers, and which of them each tap needs.

A name is TensorFlow's with '_' for '/'; the order is the network's.
"""

from collections.abc import Iterable

_POINT, _ROW, _COLUMN, _SMALL, _LARGE = (1, 1), (1, 7), (7, 1), (3, 3), (5, 5)

_Steps = list[tuple[tuple[int, int], int]]  # kernel, output channels
_Shapes = dict[str, tuple[int, ...]]


def _tower(name: str, channels: int, steps: _Steps) -> _Shapes:
    """HWIO shapes of the convolutions that follow one another: conv, conv_1, conv_2, ..."""
    shapes = {}
    for number, (kernel, out) in enumerate(steps):
        shapes[f'{name}_conv_{number}' if number else f'{name}_conv'] = (*kernel, channels, out)
        channels = out
    return shapes


def _stem() -> _Shapes:
    return {
        'conv': (3, 3, 3, 32),
        'conv_1': (3, 3, 32, 32),
        'conv_2': (3, 3, 32, 64),
        'conv_3': (1, 1, 64, 80),
        'conv_4': (3, 3, 80, 192),
    }


def _block_35(name: str, channels: int, pool_channels: int) -> _Shapes:
    return {
        **_tower(name, channels, [(_POINT, 64)]),
        **_tower(f'{name}_tower', channels, [(_POINT, 48), (_LARGE, 64)]),
        **_tower(f'{name}_tower_1', channels, [(_POINT, 64), (_SMALL, 96), (_SMALL, 96)]),
        **_tower(f'{name}_tower_2', channels, [(_POINT, pool_channels)]),
    }


def _block_35_to_17(name: str) -> _Shapes:
    return {
        **_tower(name, 288, [(_SMALL, 384)]),
        **_tower(f'{name}_tower', 288, [(_POINT, 64), (_SMALL, 96), (_SMALL, 96)]),
    }


def _block_17(name: str, inner: int) -> _Shapes:
    once = [(_POINT, inner), (_ROW, inner), (_COLUMN, 192)]
    twice = [(_POINT, inner), (_COLUMN, inner), (_ROW, inner), (_COLUMN, inner), (_ROW, 192)]
    return {
        **_tower(name, 768, [(_POINT, 192)]),
        **_tower(f'{name}_tower', 768, once),
        **_tower(f'{name}_tower_1', 768, twice),
        **_tower(f'{name}_tower_2', 768, [(_POINT, 192)]),
    }


def _block_17_to_8(name: str) -> _Shapes:
    wide = [(_POINT, 192), (_ROW, 192), (_COLUMN, 192), (_SMALL, 192)]
    return {
        **_tower(f'{name}_tower', 768, [(_POINT, 192), (_SMALL, 320)]),
        **_tower(f'{name}_tower_1', 768, wide),
    }


def _block_8(name: str, channels: int) -> _Shapes:
    return {
        **_tower(name, channels, [(_POINT, 320)]),
        **_tower(f'{name}_tower', channels, [(_POINT, 384)]),
        **_fork(f'{name}_tower_mixed'),
        **_tower(f'{name}_tower_1', channels, [(_POINT, 448), (_SMALL, 384)]),
        **_fork(f'{name}_tower_1_mixed'),
        **_tower(f'{name}_tower_2', channels, [(_POINT, 192)]),
    }


def _fork(name: str) -> _Shapes:
    return {f'{name}_conv': (1, 3, 384, 384), f'{name}_conv_1': (3, 1, 384, 384)}


# layer -> HWIO shape of its kernel; of the final dense layer, [input, output]
LAYERS: dict[str, tuple[int, ...]] = {
    **_stem(),
    **_block_35('mixed', 192, 32),
    **_block_35('mixed_1', 256, 64),
    **_block_35('mixed_2', 288, 64),
    **_block_35_to_17('mixed_3'),
    **_block_17('mixed_4', 128),
    **_block_17('mixed_5', 160),
    **_block_17('mixed_6', 160),
    **_block_17('mixed_7', 192),
    **_block_17_to_8('mixed_8'),
    **_block_8('mixed_9', 1280),
    **_block_8('mixed_10', 2048),
    'softmax': (2048, 1008),
}


def _up_to(last: str) -> tuple[str, ...]:
    names = tuple(LAYERS)
    return names[: names.index(last) + 1]


# tap -> the layers that it needs; 'spatial' is ADM's sFID map, 'logits' has no bias added
TAPS: dict[str, tuple[str, ...]] = {
    '64': _up_to('conv_2'),
    '192': _up_to('conv_4'),
    'spatial': _up_to('mixed_6_conv'),
    '768': _up_to('mixed_7_tower_2_conv'),
    '2048': _up_to('mixed_10_tower_2_conv'),
    'logits': _up_to('softmax'),
}


def taps_of(names: Iterable[str]) -> list[str]:
    """Taps of which every layer is among `names`, in the network's order."""
    present = set(names)
    return [tap for tap, layers in TAPS.items() if present.issuperset(layers)]
