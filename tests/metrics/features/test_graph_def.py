"""Frozen graphs, written byte by byte here."""

import struct

import numpy as np
import pytest
from support import user_error

from cfg_jax.metrics.features import graph_def


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number, content):
    """A field of the wire format: an int as varint, a float as four bytes, bytes with length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    if isinstance(content, float):
        return varint(number << 3 | 5) + struct.pack('<f', content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def node(name, op, **attrs):
    """A NodeDef in a GraphDef, with inputs and a device to skip."""
    body = (
        field(1, name.encode()) + field(2, op.encode()) + field(3, b'input:0') + field(4, b'/cpu')
    )
    for key, value in attrs.items():
        body += field(5, field(1, key.encode()) + field(2, value))
    return field(1, body)


def tensor(shape, content, dtype=1):
    """An AttrValue with a TensorProto of these dimensions and encoded values."""
    dims = b''.join(field(2, field(1, size)) for size in shape)
    return field(8, field(1, dtype) + field(2, dims) + content)


def constant(name, array):
    """A Const node, as TensorFlow writes it."""
    content = field(4, np.asarray(array, '<f4').tobytes())
    return node(name, 'Const', dtype=field(6, 1), value=tensor(np.shape(array), content))


def batch_norm(name, epsilon, scaled):
    """A BatchNormWithGlobalNormalization node."""
    return node(
        name,
        'BatchNormWithGlobalNormalization',
        T=field(6, 1),
        variance_epsilon=field(4, epsilon),
        scale_after_normalization=field(5, int(scaled)),
    )


def read(tmp_path, content):
    path = tmp_path / 'graph.pb'
    path.write_bytes(content)
    return graph_def.read(path)


def test_constants_and_batch_norms(tmp_path):
    w = np.random.default_rng(0).standard_normal((3, 1, 2, 5), np.float32)
    graph = read(
        tmp_path,
        node('images', 'Placeholder')
        + constant('conv/conv2d_params', w)
        + constant('scalar', 2.5)
        + node('axis', 'Const', value=tensor((1,), field(4, bytes(4)), dtype=3))
        + batch_norm('conv/batchnorm', 0.25, False)
        + batch_norm('conv_1/batchnorm', 0.5, True)
        + node('bare', 'BatchNormWithGlobalNormalization')
        + field(4, b'versions'),
    )
    assert graph.constants.keys() == {'conv/conv2d_params', 'scalar'}
    np.testing.assert_array_equal(graph.constants['conv/conv2d_params'], w)
    assert graph.constants['conv/conv2d_params'].dtype == np.float32
    assert graph.constants['scalar'].shape == ()
    assert graph.constants['scalar'] == 2.5
    assert graph.batch_norms == {
        'conv/batchnorm': (0.25, False),
        'conv_1/batchnorm': (0.5, True),
        'bare': (None, None),
    }


PACKED = field(5, struct.pack('<6f', *range(6)))
SINGLE = b''.join(field(5, float(number)) for number in range(6))


@pytest.mark.parametrize('content', [PACKED, SINGLE])
def test_values_one_by_one(tmp_path, content):
    graph = read(tmp_path, node('x', 'Const', value=tensor((2, 3), content)))
    np.testing.assert_array_equal(graph.constants['x'], np.arange(6.0).reshape(2, 3))


def test_one_value_stands_for_all(tmp_path):
    graph = read(tmp_path, node('x', 'Const', value=tensor((2, 3), field(5, 1.5))))
    np.testing.assert_array_equal(graph.constants['x'], np.full((2, 3), 1.5))


@pytest.mark.parametrize('kept', [1, 10, 60, 200, -1])
def test_truncation(tmp_path, kept):
    whole = constant('a', np.ones(30)) + constant('b', np.ones(30))
    message = user_error(read, tmp_path, whole[:kept])
    assert 'graph.pb' in message
    assert 'cut off' in message


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'PK\x03\x04 is no graph',
        b'\x80\x02}q\x00.',
        node('x', 'Relu'),
        node('x', 'Const'),
        node('x', 'Const', value=tensor((2, 3), field(4, bytes(20)))),
        node('x', 'Const', value=tensor((2, 3), PACKED[:1] + b'\x08' + PACKED[2:10])),
        node('x', 'Const', value=tensor((2**64 - 1,), field(4, bytes(4)))),
        node('x', 'Const', value=tensor((2**62, 2**62), field(5, 1.0))),
    ],
    ids=['empty', 'zip', 'pickle', 'no_const', 'no_value', 'short', 'few', 'open', 'huge'],
)
def test_what_is_no_frozen_graph(tmp_path, content):
    assert 'graph.pb' in user_error(read, tmp_path, content)
