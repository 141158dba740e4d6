"""The FID Inception against plain NumPy convolutions and pools with the padding written out."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError
from numpy.lib.stride_tricks import sliding_window_view
from support import user_error

from cfg_jax.metrics.features import (
    Features,
    inception as extractors,
    inception_network as inception,
)

LAYERS = inception.layers('logits')
TAPS = {tap: tuple(inception.layers(tap)) for tap in inception.TAPS}


@functools.cache
def weights():
    """Random weights of every layer that keep the size of what passes through."""
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in LAYERS.items():
        scale = np.float32(np.sqrt(2.0 / np.prod(shape[:-1])))
        w = rng.standard_normal(shape, np.float32) * scale
        made[name] = w, 0.1 * rng.standard_normal(shape[-1], np.float32)
    return made


def variables(names):
    """Parameters of the Flax network."""
    made = {n: dict(zip(('kernel', 'bias'), weights()[n], strict=True)) for n in names}
    if 'softmax' in made:
        made['softmax_bias'] = made['softmax'].pop('bias')
    return {'params': made}


def windows(x, kernel, stride, padding, fill):
    """[B, H, W, C] -> [B, H', W', C, kh, kw]; `padding` is (rows, columns) on either side."""
    pad = ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))
    x = np.pad(x, pad, constant_values=fill)
    return sliding_window_view(x, kernel, axis=(1, 2))[:, ::stride, ::stride]


def conv(name, x, stride=1, padding=(0, 0)):
    """relu(sum over the window of w x + b), zeros outside."""
    w, b = weights()[name]
    patches = windows(x.astype(np.float64), w.shape[:2], stride, padding, 0.0)
    return np.maximum(np.einsum('bhwcij,ijco->bhwo', patches, w, optimize=True) + b, 0.0)


def average(x):
    """3x3, stride 1: the sum over the window by the number of its pixels inside the image."""
    total = windows(x, (3, 3), 1, (1, 1), 0.0).sum(axis=(-2, -1))
    inside = windows(np.ones_like(x), (3, 3), 1, (1, 1), 0.0).sum(axis=(-2, -1))
    return total / inside


def maximum(x, stride, padding):
    return windows(x, (3, 3), stride, padding, -np.inf).max(axis=(-2, -1))


def block_35(n, x):
    five = conv(f'{n}_tower_conv_1', conv(f'{n}_tower_conv', x), padding=(2, 2))
    three = conv(f'{n}_tower_1_conv_1', conv(f'{n}_tower_1_conv', x), padding=(1, 1))
    three = conv(f'{n}_tower_1_conv_2', three, padding=(1, 1))
    return [conv(f'{n}_conv', x), five, three, conv(f'{n}_tower_2_conv', average(x))]


def block_35_to_17(n, x):
    three = conv(f'{n}_tower_conv_1', conv(f'{n}_tower_conv', x), padding=(1, 1))
    down = conv(f'{n}_tower_conv_2', three, stride=2)
    return [conv(f'{n}_conv', x, stride=2), down, maximum(x, 2, (0, 0))]


def block_17(n, x):
    row, column = (0, 3), (3, 0)
    once = conv(f'{n}_tower_conv_1', conv(f'{n}_tower_conv', x), padding=row)
    once = conv(f'{n}_tower_conv_2', once, padding=column)
    twice = conv(f'{n}_tower_1_conv', x)
    for number, padding in enumerate((column, row, column, row), 1):
        twice = conv(f'{n}_tower_1_conv_{number}', twice, padding=padding)
    return [conv(f'{n}_conv', x), once, twice, conv(f'{n}_tower_2_conv', average(x))]


def block_17_to_8(n, x):
    short = conv(f'{n}_tower_conv_1', conv(f'{n}_tower_conv', x), stride=2)
    long = conv(f'{n}_tower_1_conv_1', conv(f'{n}_tower_1_conv', x), padding=(0, 3))
    long = conv(f'{n}_tower_1_conv_2', long, padding=(3, 0))
    return [short, conv(f'{n}_tower_1_conv_3', long, stride=2), maximum(x, 2, (0, 0))]


def block_8(n, x, pool):
    once = conv(f'{n}_tower_conv', x)
    twice = conv(f'{n}_tower_1_conv_1', conv(f'{n}_tower_1_conv', x), padding=(1, 1))
    forks = [
        conv(f'{n}_{tower}_mixed_{name}', h, padding=padding)
        for tower, h in (('tower', once), ('tower_1', twice))
        for name, padding in (('conv', (0, 1)), ('conv_1', (1, 0)))
    ]
    return [conv(f'{n}_conv', x), *forks, conv(f'{n}_tower_2_conv', pool(x))]


def ours(block, name, x, *arguments):
    """A block of the library, outside the whole network."""

    class Alone(inception.Inception):
        @inception.nn.compact
        def __call__(self, x):
            return block(self._conv, name, x, *arguments)

    names = [n for n in LAYERS if n.startswith(f'{name}_')]
    names = [n for n in names if not n[len(name) + 1].isdigit()]  # mixed_1 is not mixed_10
    return Alone(()).apply(variables(names), jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize(
    ('block', 'name', 'channels', 'arguments', 'expected'),
    [
        (inception.block_35, 'mixed', 192, (32,), block_35),
        (inception.block_35_to_17, 'mixed_3', 288, (), block_35_to_17),
        (inception.block_17, 'mixed_4', 768, (128,), block_17),
        (inception.block_17_to_8, 'mixed_8', 768, (), block_17_to_8),
        (
            inception.block_8,
            'mixed_9',
            1280,
            (inception.average_pool,),
            functools.partial(block_8, pool=average),
        ),
        (
            inception.block_8,
            'mixed_10',
            2048,
            (inception.max_pool,),
            functools.partial(block_8, pool=functools.partial(maximum, stride=1, padding=(1, 1))),
        ),
    ],
)
def test_blocks(block, name, channels, arguments, expected):
    x = np.abs(np.random.default_rng(1).standard_normal((1, 9, 9, channels)))
    result = np.asarray(ours(block, name, x, *arguments))
    wanted = np.concatenate(expected(name, x), axis=-1)
    assert result.shape == wanted.shape
    assert np.abs(wanted).mean() > 0.1
    np.testing.assert_allclose(result, wanted, atol=1e-4)


def whole(x, taps):
    """The network up to mixed_3 in NumPy: [B, H, W, 3] in [-1, 1] -> its stem's taps."""
    x = conv('conv', x, stride=2)
    x = conv('conv_1', x)
    x = maximum(conv('conv_2', x, padding=(1, 1)), 2, (0, 0))
    taps['64'] = x.mean(axis=(1, 2))
    x = maximum(conv('conv_4', conv('conv_3', x)), 2, (0, 0))
    taps['192'] = x.mean(axis=(1, 2))
    return x


def test_stem_and_input(monkeypatch):
    """Resize, (x - 128) / 128 and the stem's paddings; 75 pixels stand for 299 to save time."""
    monkeypatch.setattr(inception, 'SIDE', 75)
    images = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 3), dtype=np.uint8)
    net = inception.Inception(('64', '192'))
    result = net.apply(variables(TAPS['192']), jnp.asarray(images))
    expected = {}
    whole((images.astype(np.float64) - 128.0) / 128.0, expected)
    for tap in ('64', '192'):
        np.testing.assert_allclose(result[tap], expected[tap], atol=1e-4)


class Everything(NamedTuple):
    """Of one image, from random weights, at full size."""

    image: np.ndarray
    taps: dict
    layers: dict  # what the convolutions from mixed_7 on give, by their names
    features: Features  # of the extractor


@pytest.fixture(scope='module')
def everything():
    """The extractor's network, which is asked for all taps, to compile it once."""
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    params = {name: dict(zip('wb', weights()[name], strict=True)) for name in LAYERS}
    found = {}

    def is_behind_mixed_6(module, method):
        return (module.name or '').startswith(('mixed_7_', 'mixed_8_', 'mixed_9_', 'mixed_10_'))

    class WithAllTaps:
        def __init__(self, taps, dtype):
            every = ('64', '192', '768', '2048', 'spatial', 'logits', 'logits_biased')
            self.taps, self.net = taps, inception.Inception(every, dtype)

        def apply(self, variables, images):
            found['taps'], kept = self.net.apply(
                variables, images, capture_intermediates=is_behind_mixed_6
            )
            found['layers'] = kept['intermediates']
            return {tap: found['taps'][tap] for tap in self.taps}

    @jax.jit
    def run(params, image):
        return {'features': extractor.apply(params, image)} | found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors, 'Inception', WithAllTaps)
        extractor = extractors.InceptionExtractor(params, 'inception', 'float32', {})
    every = run(params, jnp.asarray(image))
    layers = {n: np.maximum(calls['__call__'][0], 0.0) for n, calls in every.pop('layers').items()}
    return Everything(image, layers=layers, **every)


def test_tap_sizes(everything):
    taps = everything.taps
    sizes = {tap: values.shape for tap, values in taps.items()}
    assert sizes == {
        '64': (1, 64),
        '192': (1, 192),
        '768': (1, 768),
        '2048': (1, 2048),
        'spatial': (1, 17 * 17 * 7),
        'logits': (1, 1008),
        'logits_biased': (1, 1008),
    }
    assert all(values.dtype == jnp.float32 for values in taps.values())


def test_logits_are_the_pooled_features_by_the_last_layer(everything):
    taps = everything.taps
    w, b = weights()['softmax']
    logits = np.asarray(taps['2048'], np.float64) @ w
    np.testing.assert_allclose(taps['logits'], logits, atol=1e-4)
    np.testing.assert_allclose(taps['logits_biased'], logits + b, atol=1e-4)


def test_last_blocks_pool_by_average_and_then_by_maximum(everything):
    def out(name, *layers):
        return np.concatenate([everything.layers[f'{name}_{layer}'] for layer in layers], axis=-1)

    mixed_7 = out('mixed_7', 'conv', 'tower_conv_2', 'tower_1_conv_4', 'tower_2_conv')
    mixed_8 = out('mixed_8', 'tower_conv_1', 'tower_1_conv_3')
    mixed_8 = np.concatenate([mixed_8, maximum(mixed_7, 2, (0, 0))], axis=-1)
    forks = [
        f'{tower}_mixed_{name}' for tower in ('tower', 'tower_1') for name in ('conv', 'conv_1')
    ]
    mixed_9, mixed_10 = (
        out(name, 'conv', *forks, 'tower_2_conv') for name in ('mixed_9', 'mixed_10')
    )
    np.testing.assert_allclose(
        out('mixed_9', 'tower_2_conv'), conv('mixed_9_tower_2_conv', average(mixed_8)), atol=1e-4
    )
    np.testing.assert_allclose(
        out('mixed_10', 'tower_2_conv'),
        conv('mixed_10_tower_2_conv', maximum(mixed_9, 1, (1, 1))),
        atol=1e-4,
    )
    for tap, layers in (('768', mixed_7), ('2048', mixed_10)):
        np.testing.assert_allclose(everything.taps[tap], layers.mean(axis=(1, 2)), atol=1e-4)


def test_extractor_gives_three_of_the_taps(everything):
    """The Inception Score is of logits without bias, as published."""
    taps = [everything.taps[tap] for tap in ('2048', 'logits', 'spatial')]
    for found, expected in zip(everything.features, taps, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_taps_need_only_their_layers():
    """The network stops at its last tap: it runs with the layers of a tap, not with one less."""
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    for tap in ('64', '192', 'spatial', '768', '2048'):
        net, names = inception.Inception((tap,)), TAPS[tap]
        jax.eval_shape(net.apply, variables(names), shape)
        with pytest.raises(ScopeParamNotFoundError):
            jax.eval_shape(net.apply, variables(names[:-1]), shape)
        assert inception.served_taps(names)[-1] == tap
        assert tap not in inception.served_taps(names[1:])


def test_spatial_map_is_rows_then_columns_then_channels(everything):
    """Flattened from [17, 17, 7] as TensorFlow lays it out; another order gives another sFID."""
    image, taps = everything.image, everything.taps

    class Middle(inception.Inception):
        @inception.nn.compact
        def __call__(self, images):
            x = (inception.tf1_bilinear(images, 299) - 128.0) / 128.0
            x = self._stem(x, {})
            for name, pool in (('mixed', 32), ('mixed_1', 64), ('mixed_2', 64)):
                x = inception.block_35(self._conv, name, x, pool)
            x = inception.block_35_to_17(self._conv, 'mixed_3', x)
            x = inception.block_17(self._conv, 'mixed_4', x, 128)
            return inception.block_17(self._conv, 'mixed_5', x, 160)

    names = [n for n in TAPS['spatial'] if n != 'mixed_6_conv']
    x = np.asarray(jax.jit(Middle(('spatial',)).apply)(variables(names), jnp.asarray(image)))
    expected = conv('mixed_6_conv', x)[..., :7]  # [1, 17, 17, 7]
    assert expected.shape == (1, 17, 17, 7)
    np.testing.assert_allclose(taps['spatial'], expected.reshape(1, -1), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near(monkeypatch):
    monkeypatch.setattr(inception, 'SIDE', 75)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    exact, rounded = (
        inception.Inception(('192',), dtype).apply(variables(TAPS['192']), jnp.asarray(image))[
            '192'
        ]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 5e-2


@pytest.mark.parametrize(
    'images',
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_other_images_are_refused(images):
    net = inception.Inception(('64',))
    message = user_error(net.apply, variables(TAPS['64']), jnp.asarray(images))
    assert 'uint8 RGB' in message
    assert str(images.dtype) in message
