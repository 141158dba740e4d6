"""The published weights' formats into ours, on layer tables with few channels."""

import hashlib
import math

import numpy as np
import pytest
from support import run_script, user_error
from test_torch_archive import torch_file

from cfg_jax import files
from cfg_jax.metrics.features import conversion, inception_network
from cfg_jax.metrics.features.inception_network import served_taps

LAYERS = inception_network.layers('logits')
TAPS = {tap: tuple(inception_network.layers(tap)) for tap in inception_network.TAPS}

# Some of each block, from the names that both projects publish.
TORCH_NAMES = {
    'conv': 'Conv2d_1a_3x3',
    'conv_4': 'Conv2d_4a_3x3',
    'mixed_conv': 'Mixed_5b.branch1x1',
    'mixed_tower_conv_1': 'Mixed_5b.branch5x5_2',
    'mixed_2_tower_1_conv_2': 'Mixed_5d.branch3x3dbl_3',
    'mixed_2_tower_2_conv': 'Mixed_5d.branch_pool',
    'mixed_3_conv': 'Mixed_6a.branch3x3',
    'mixed_3_tower_conv': 'Mixed_6a.branch3x3dbl_1',
    'mixed_4_tower_conv_2': 'Mixed_6b.branch7x7_3',
    'mixed_7_tower_1_conv_4': 'Mixed_6e.branch7x7dbl_5',
    'mixed_8_tower_conv_1': 'Mixed_7a.branch3x3_2',
    'mixed_8_tower_1_conv_3': 'Mixed_7a.branch7x7x3_4',
    'mixed_9_tower_conv': 'Mixed_7b.branch3x3_1',
    'mixed_9_tower_mixed_conv_1': 'Mixed_7b.branch3x3_2b',
    'mixed_10_tower_1_conv_1': 'Mixed_7c.branch3x3dbl_2',
    'mixed_10_tower_1_mixed_conv': 'Mixed_7c.branch3x3dbl_3a',
}


@pytest.fixture
def small(monkeypatch):
    """Every layer with two channels in and three out."""
    layers = {name: (*shape[:-2], 2, 3) for name, shape in LAYERS.items()}
    monkeypatch.setattr(conversion, 'layers', lambda tap: layers)
    return layers


def draw(layers, seed=0):
    """{layer: {part: array}} with kernels HWIO; gamma is one, as in the published weights."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, shape in layers.items():
        drawn[name] = {'w': rng.standard_normal(shape, np.float32)}
        vectors = ('b',) if name == 'softmax' else ('beta', 'mean')
        for part in vectors:
            drawn[name][part] = rng.standard_normal(shape[-1], np.float32)
        drawn[name]['variance'] = rng.uniform(1e-3, 2, shape[-1]).astype(np.float32)
        drawn[name]['gamma'] = np.ones(shape[-1], np.float32)
    return drawn


def write_torch(path, drawn, legacy=False):
    tensors = {}
    for name, parts in drawn.items():
        if name == 'softmax':
            tensors |= {'fc.weight': parts['w'].T, 'fc.bias': parts['b']}
            continue
        module = conversion.TORCH_MODULES[name]
        tensors |= {
            f'{module}.conv.weight': parts['w'].transpose(3, 2, 0, 1),
            f'{module}.bn.weight': parts['gamma'],
            f'{module}.bn.bias': parts['beta'],
            f'{module}.bn.running_mean': parts['mean'],
            f'{module}.bn.running_var': parts['variance'],
            f'{module}.bn.num_batches_tracked': np.array(0),
        }
    path.write_bytes(torch_file(tensors, legacy))
    return path


def arrays_of(path):
    return conversion.convert(path, accept_unknown=True)[0]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_layers_are_those_of_the_published_network():
    """Inception v3 of torchvision has 27,161,264 parameters, 3,326,696 in its auxiliary head.

    Its 17,216 channels have a gamma, which is folded away here; there are 1,008 classes, not 1,000.
    """
    channels = sum(shape[-1] for name, shape in LAYERS.items() if name != 'softmax')
    assert channels == 17_216
    parameters = sum(math.prod(shape) + shape[-1] for shape in LAYERS.values())
    assert parameters == 27_161_264 - 3_326_696 - channels + 8 * (2048 + 1)


def test_taps():
    assert {tap: len(layers) for tap, layers in TAPS.items()} == {
        '64': 3,
        '192': 5,
        'spatial': 51,
        '768': 70,
        '2048': 94,
        'logits': 95,
    }
    assert TAPS['spatial'][-2:] == ('mixed_5_tower_2_conv', 'mixed_6_conv')
    for tap, layers in TAPS.items():
        assert served_taps(layers) == list(TAPS)[: list(TAPS).index(tap) + 1]
        assert tap not in served_taps(layers[1:])
    assert served_taps([]) == []
    assert served_taps(list(LAYERS)) == list(TAPS)


def test_names_of_pytorch():
    modules = conversion.TORCH_MODULES
    assert modules.keys() == LAYERS.keys() - {'softmax'}
    assert len(set(modules.values())) == len(modules)
    assert modules.items() >= TORCH_NAMES.items()


def test_folding_equals_convolution_and_batch_norm():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((50, 4)), rng.standard_normal((1, 1, 4, 6))
    gamma, beta, mean = rng.standard_normal((3, 6))
    variance = rng.uniform(0, 2, 6)
    norm = conversion._BatchNorm(gamma, beta, mean, variance)
    folded, bias = conversion.fold(w, norm)
    assert folded.dtype == bias.dtype == np.float32
    expected = (x @ w[0, 0] - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(x @ folded[0, 0] + bias, expected, rtol=1e-5, atol=1e-5)


def test_every_source_gives_the_same_arrays(small, tmp_path):
    drawn = draw(small)
    arrays = arrays_of(write_torch(tmp_path / 'a.pth', drawn))
    assert arrays.keys() == {f'{name}/{part}' for name in LAYERS for part in 'wb'}
    assert all(arrays[f'{name}/w'].shape == shape for name, shape in small.items())
    np.testing.assert_array_equal(arrays['softmax/w'], drawn['softmax']['w'])
    np.testing.assert_array_equal(arrays['softmax/b'], drawn['softmax']['b'])
    scale = 1 / np.sqrt(drawn['conv']['variance'].astype(np.float64) + 1e-3)
    np.testing.assert_allclose(arrays['conv/w'], drawn['conv']['w'] * scale, rtol=1e-6)
    assert_same(arrays_of(write_torch(tmp_path / 'a.pt', drawn, legacy=True)), arrays)
    files.write_npz(tmp_path / 'a.npz', arrays | {'source': np.array('a.pth')})
    assert_same(arrays_of(tmp_path / 'a.npz'), arrays)


def test_gamma_of_pytorch_is_applied(small, tmp_path):
    drawn = draw({'conv': small['conv']})
    plain = arrays_of(write_torch(tmp_path / 'a.pth', drawn))
    drawn['conv']['gamma'] *= 2
    doubled = arrays_of(write_torch(tmp_path / 'a.pth', drawn))
    np.testing.assert_allclose(doubled['conv/w'], 2 * plain['conv/w'], rtol=1e-6)


@pytest.mark.parametrize('suffix', ['.pth', '.npz'])
def test_missing_layers_are_left_out(tmp_path, suffix):
    path = write_source(tmp_path, suffix, draw({name: LAYERS[name] for name in TAPS['64']}))
    arrays = arrays_of(path)
    assert served_taps({name[:-2] for name in arrays}) == ['64']
    assert len(arrays) == 6


def write_source(tmp_path, suffix, drawn):
    path = tmp_path / f'weights{suffix}'
    if suffix == '.npz':
        arrays = {f'{name}/w': parts['w'] for name, parts in drawn.items()}
        arrays |= {f'{name}/b': parts['beta'] for name, parts in drawn.items()}
        files.write_npz(path, arrays | {'conv_4/w': np.zeros(3)})  # half a layer
        return path
    return write_torch(path, drawn)


@pytest.mark.parametrize('suffix', ['.pth', '.npz'])
@pytest.mark.parametrize(
    ('part', 'shape'), [('w', (3, 3, 3, 31)), ('w', (1, 3, 3, 32)), ('beta', (31,)), ('beta', ())]
)
def test_wrong_shapes(tmp_path, suffix, part, shape):
    drawn = draw({'conv': LAYERS['conv']})
    drawn['conv'][part] = np.zeros(shape, np.float32)
    message = user_error(arrays_of, write_source(tmp_path, suffix, drawn))
    assert 'conv' in message
    assert f'weights{suffix}' in message
    assert str(list(shape)) in message


def test_a_dense_kernel_in_the_place_of_a_convolution(tmp_path):
    path = tmp_path / 'weights.pth'
    names = ('weight', 'bias', 'running_mean', 'running_var')
    vectors = {f'Conv2d_1a_3x3.bn.{name}': np.ones(32, np.float32) for name in names}
    kernel = {'Conv2d_1a_3x3.conv.weight': np.ones((32, 27), np.float32)}
    path.write_bytes(torch_file(vectors | kernel))
    assert '[32, 27]' in user_error(arrays_of, path)


def test_values_that_are_not_finite(tmp_path):
    drawn = draw({'conv': LAYERS['conv']})
    drawn['conv']['variance'][3] = -1
    assert 'conv/w is not finite' in user_error(arrays_of, write_source(tmp_path, '.pth', drawn))


def test_files_that_are_no_weights(tmp_path):
    for suffix in ('.pth', '.pt', '.npz'):
        path = tmp_path / f'weights{suffix}'
        for content in (b'', b'<html>not found</html>', b'PK\x03\x04', b'\x93NUMPY\x01\x00'):
            path.write_bytes(content)
            assert str(path) in user_error(arrays_of, path)
    assert 'no complete layer' in user_error(arrays_of, other_npz(tmp_path / 'other.npz'))
    assert '.pth, .pt' in user_error(arrays_of, tmp_path / 'inception-2015-12-05.tgz')
    assert 'no file' in user_error(arrays_of, tmp_path / 'absent.pth')


def other_npz(path):
    files.write_npz(path, {'layer/w': np.zeros(3)})
    return path


def test_digests(small, tmp_path, monkeypatch):
    path = write_torch(tmp_path / 'a.pth', draw({'conv': small['conv']}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    message = user_error(conversion.convert, path)
    assert digest in message
    assert '--accept_unknown' in message
    _, record = conversion.convert(path, accept_unknown=True)
    assert record == {'source': 'a.pth', 'source_sha256': digest, 'known': False}
    monkeypatch.setitem(conversion.KNOWN, digest, 'published.pth')
    _, record = conversion.convert(path)
    assert record == {'source': 'published.pth', 'source_sha256': digest, 'known': True}


def test_script(tmp_path):
    path = write_torch(tmp_path / 'a.pth', draw({name: LAYERS[name] for name in TAPS['64']}))
    out = tmp_path / 'out.npz'
    arguments = (path, out, '--accept_unknown')
    status, stdout, stderr = run_script('', 'convert_inception.py', *arguments)
    assert status == 0, stderr
    arrays = files.read_npz(out)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(arrays.pop('source')) == f'a.pth, SHA-256 {digest}'
    assert_same(arrays, arrays_of(path))
    assert digest in stdout
    assert files.sha256_of_arrays(arrays) in stdout
    assert 'serves: 64\n' in stdout
    assert 'lacks 4 tensors for 192: conv_3/w, conv_3/b, conv_4/w, conv_4/b\n' in stdout
    assert 'lacks 182 tensors for 2048: conv_3/w,' in stdout
