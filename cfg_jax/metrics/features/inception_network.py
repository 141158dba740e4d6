"""The FID Inception: TensorFlow's Inception v3 of 2015-12-05, for inference, and its taps.

Not torchvision's: average pooling leaves padding out of its counts, the last block pools by
maximum, there are 1,008 outputs, and images enter as (x - 128) / 128 after TensorFlow 1's resize.
Batch norm is folded into the convolutions, whose names are TensorFlow's with '_' for '/'.
"""

import functools
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfg_jax.errors import UserError
from cfg_jax.metrics.features.resize import tf1_bilinear

SIDE = 299
SPATIAL_CHANNELS = 7  # ADM's sFID: the first channels of mixed_6/conv, 17 * 17 * 7 = 2,023 numbers

# Spatial means (pytorch-fid's `dims`), ADM's sFID map, and pool @ W; in the network's order.
TAPS = ('64', '192', 'spatial', '768', '2048', 'logits')

# (output channels, kernel, stride); stride 2 is VALID, stride 1 SAME, as everywhere past the stem.
_Layer = tuple[int, tuple[int, int], int]


class _Conv(Protocol):
    def __call__(
        self, name: str, x: jax.Array, channels: int, kernel: tuple[int, int], stride: int = 1
    ) -> jax.Array: ...


class Inception(nn.Module):
    """Features of uint8 images at the taps asked for.

    Attributes:
      taps: of '64', '192', '768', '2048' (spatial means, as pytorch-fid's `dims`), 'spatial' (ADM's
        sFID map), 'logits' (pool @ W, without bias, as ADM's Inception Score) and 'logits_biased'.
      dtype: of the convolutions; float32 uses the highest precision the device has.
    """

    taps: tuple[str, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """uint8 [B, H, W, 3] -> float32 [B, D] for each tap; layers past the last are not run."""
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f'Inception takes uint8 RGB images [B, H, W, 3]; got {images.dtype}'
                f' {list(images.shape)}'
            )
        x = (tf1_bilinear(images, SIDE) - 128.0) / 128.0  # [B, 299, 299, 3]
        taps: dict[str, jax.Array] = {}
        for layers in (self._stem, self._middle, self._last):
            if not self._have_all(taps):
                x = layers(x.astype(self.dtype), taps)
        return {tap: taps[tap] for tap in self.taps}

    def _have_all(self, taps: dict[str, jax.Array]) -> bool:
        return set(self.taps) <= set(taps)

    def _stem(self, x: jax.Array, taps: dict[str, jax.Array]) -> jax.Array:
        x = self._conv('conv', x, 32, (3, 3), 2)  # [B, 149, 149, 32]
        x = self._conv('conv_1', x, 32, (3, 3), padding='VALID')  # [B, 147, 147, 32]
        x = self._conv('conv_2', x, 64, (3, 3))  # [B, 147, 147, 64]
        x = _max_pool_down(x)  # [B, 73, 73, 64]
        taps['64'] = _mean(x)
        if self._have_all(taps):
            return x
        x = self._conv('conv_3', x, 80, (1, 1))  # [B, 73, 73, 80]
        x = self._conv('conv_4', x, 192, (3, 3), padding='VALID')  # [B, 71, 71, 192]
        x = _max_pool_down(x)  # [B, 35, 35, 192]
        taps['192'] = _mean(x)
        return x

    def _middle(self, x: jax.Array, taps: dict[str, jax.Array]) -> jax.Array:
        for name, pool_channels in (('mixed', 32), ('mixed_1', 64), ('mixed_2', 64)):
            x = block_35(self._conv, name, x, pool_channels)  # [B, 35, 35, 256 then 288]
        x = block_35_to_17(self._conv, 'mixed_3', x)  # [B, 17, 17, 768]
        x = block_17(self._conv, 'mixed_4', x, 128)
        x = block_17(self._conv, 'mixed_5', x, 160)
        first = self._conv('mixed_6_conv', x, 192, (1, 1))  # [B, 17, 17, 192]
        spatial = first[..., :SPATIAL_CHANNELS].astype(jnp.float32)
        taps['spatial'] = spatial.reshape(len(x), -1)  # [B, 2023]
        if self._have_all(taps):
            return x
        x = jnp.concatenate([first, *_towers_17(self._conv, 'mixed_6', x, 160)], axis=-1)
        x = block_17(self._conv, 'mixed_7', x, 192)  # [B, 17, 17, 768]
        taps['768'] = _mean(x)
        return x

    def _last(self, x: jax.Array, taps: dict[str, jax.Array]) -> jax.Array:
        x = block_17_to_8(self._conv, 'mixed_8', x)  # [B, 8, 8, 1280]
        x = block_8(self._conv, 'mixed_9', x, average_pool)  # [B, 8, 8, 2048]
        x = block_8(self._conv, 'mixed_10', x, max_pool)  # [B, 8, 8, 2048]
        taps['2048'] = pooled = _mean(x)
        if {'logits', 'logits_biased'} & set(self.taps):
            head = nn.Dense(1008, use_bias=False, precision='highest', name='softmax')
            taps['logits'] = head(pooled)
            bias = self.param('softmax_bias', nn.initializers.zeros, (1008,))
            taps['logits_biased'] = taps['logits'] + bias
        return x

    def _conv(
        self,
        name: str,
        x: jax.Array,
        channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: str | None = None,
    ) -> jax.Array:
        conv = nn.Conv(
            channels,
            kernel,
            strides=stride,
            padding=padding or ('VALID' if stride == 2 else 'SAME'),
            precision='highest' if self.dtype == jnp.float32 else None,
            dtype=self.dtype,
            name=name,
        )
        return nn.relu(conv(x))


@functools.cache
def layers(tap: str) -> Mapping[str, tuple[int, ...]]:
    """The layers that a tap needs, in the network's order, with the shapes of their kernels.

    A name is TensorFlow's with '_' for '/'; a shape is HWIO, or [input, output] of 'softmax'.
    Nothing is computed.
    """
    order: list[str] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Conv | nn.Dense):
            order.append(str(context.module.name))
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.uint8)
    with nn.intercept_methods(note):
        variables = jax.eval_shape(Inception((tap,)).init, jax.random.key(0), image)
    params = variables['params']
    return MappingProxyType({name: params[name]['kernel'].shape for name in dict.fromkeys(order)})


def served_taps(names: Collection[str]) -> list[str]:
    """Taps of which every layer is among `names`, in the network's order."""
    return [tap for tap in TAPS if layers(tap).keys() <= set(names)]


def average_pool(x: jax.Array) -> jax.Array:
    """3x3 means, stride 1; the padding does not count."""
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding='SAME', count_include_pad=False)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maxima, stride 1."""
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding='SAME')


def block_35(conv: _Conv, name: str, x: jax.Array, pool_channels: int) -> jax.Array:
    """[B, 35, 35, C] -> [B, 35, 35, 224 + pool_channels]: 1x1 | 5x5 | 3x3 twice | pool."""
    branches = [
        conv(f'{name}_conv', x, 64, (1, 1)),
        _tower(conv, f'{name}_tower', x, [(48, (1, 1), 1), (64, (5, 5), 1)]),
        _tower(conv, f'{name}_tower_1', x, [(64, (1, 1), 1), (96, (3, 3), 1), (96, (3, 3), 1)]),
        conv(f'{name}_tower_2_conv', average_pool(x), pool_channels, (1, 1)),
    ]
    return jnp.concatenate(branches, axis=-1)


def block_35_to_17(conv: _Conv, name: str, x: jax.Array) -> jax.Array:
    """[B, 35, 35, 288] -> [B, 17, 17, 768]."""
    branches = [
        conv(f'{name}_conv', x, 384, (3, 3), 2),
        _tower(conv, f'{name}_tower', x, [(64, (1, 1), 1), (96, (3, 3), 1), (96, (3, 3), 2)]),
        _max_pool_down(x),
    ]
    return jnp.concatenate(branches, axis=-1)


def block_17(conv: _Conv, name: str, x: jax.Array, inner: int) -> jax.Array:
    """[B, 17, 17, 768] -> the same shape: 1x1 | 7x7 in two | 7x7 twice in four | pool."""
    first = conv(f'{name}_conv', x, 192, (1, 1))
    return jnp.concatenate([first, *_towers_17(conv, name, x, inner)], axis=-1)


def _towers_17(conv: _Conv, name: str, x: jax.Array, inner: int) -> list[jax.Array]:
    row, column = (1, 7), (7, 1)
    once: list[_Layer] = [(inner, (1, 1), 1), (inner, row, 1), (192, column, 1)]
    twice: list[_Layer] = [(inner, (1, 1), 1), (inner, column, 1), (inner, row, 1)]
    twice += [(inner, column, 1), (192, row, 1)]
    return [
        _tower(conv, f'{name}_tower', x, once),
        _tower(conv, f'{name}_tower_1', x, twice),
        conv(f'{name}_tower_2_conv', average_pool(x), 192, (1, 1)),
    ]


def block_17_to_8(conv: _Conv, name: str, x: jax.Array) -> jax.Array:
    """[B, 17, 17, 768] -> [B, 8, 8, 1280]."""
    wide: list[_Layer] = [(192, (1, 1), 1), (192, (1, 7), 1), (192, (7, 1), 1), (192, (3, 3), 2)]
    branches = [
        _tower(conv, f'{name}_tower', x, [(192, (1, 1), 1), (320, (3, 3), 2)]),
        _tower(conv, f'{name}_tower_1', x, wide),
        _max_pool_down(x),
    ]
    return jnp.concatenate(branches, axis=-1)


def block_8(conv: _Conv, name: str, x: jax.Array, pool: Any) -> jax.Array:
    """[B, 8, 8, C] -> [B, 8, 8, 2048]: 1x1 | 3x3 as a fork | 3x3 and a fork | pool."""
    once = _tower(conv, f'{name}_tower', x, [(384, (1, 1), 1)])
    twice = _tower(conv, f'{name}_tower_1', x, [(448, (1, 1), 1), (384, (3, 3), 1)])
    branches = [
        conv(f'{name}_conv', x, 320, (1, 1)),
        *_fork(conv, f'{name}_tower_mixed', once),
        *_fork(conv, f'{name}_tower_1_mixed', twice),
        conv(f'{name}_tower_2_conv', pool(x), 192, (1, 1)),
    ]
    return jnp.concatenate(branches, axis=-1)


def _fork(conv: _Conv, name: str, x: jax.Array) -> list[jax.Array]:
    return [conv(f'{name}_conv', x, 384, (1, 3)), conv(f'{name}_conv_1', x, 384, (3, 1))]


def _tower(conv: _Conv, name: str, x: jax.Array, layers: list[_Layer]) -> jax.Array:
    for number, layer in enumerate(layers):
        x = conv(f'{name}_conv_{number}' if number else f'{name}_conv', x, *layer)
    return x


_max_pool_down = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


def _mean(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> float32 [B, C]."""
    return x.astype(jnp.float32).mean(axis=(1, 2))
