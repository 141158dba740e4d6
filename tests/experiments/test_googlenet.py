"""GoogLeNet's layers against NumPy, and its weights' file; the whole network on real ones."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from support import experiment, user_error

from cfg_jax import files
from cfg_jax.data import (
    images,
    pipeline,
    sources,
)
from cfg_jax.metrics.class_agreement import share_of_label
from cfg_jax.metrics.inception_score import mean_over_splits

googlenet = experiment('tiny_imagenet64_parts.googlenet')
extractor = experiment('tiny_imagenet64_parts.extractor')

WEIGHTS, IMAGES = 'CFG_JAX_GOOGLENET', 'CFG_JAX_IMAGES'


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolution(layer, x):
    """ReLU(correlation + bias), stride 1, zeros around: by hand, a kernel's place at a time."""
    kernel = layer['w'].shape[0]
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1:3]
    total = np.zeros((*x.shape[:3], layer['w'].shape[-1]), np.float64)
    for i in range(kernel):
        for j in range(kernel):
            total += padded[:, i : i + height, j : j + width] @ layer['w'][i, j]
    return np.maximum(total + layer['b'], 0.0)


def pooled(x, stride, pad):
    """Caffe's: windows start every `stride` pixels as long as they hold any of the image."""
    side = x.shape[1]
    out = -(-(side + 2 * pad - 3) // stride) + 1
    found = np.empty((len(x), out, out, x.shape[-1]), x.dtype)
    for i in range(out):
        for j in range(out):
            top, left = i * stride - pad, j * stride - pad
            window = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
            found[:, i, j] = window.max(axis=(1, 2))
    return found


@pytest.mark.parametrize('side', [7, 8, 9, 12, 13])
@pytest.mark.parametrize(('stride', 'pad'), [(2, 0), (1, 1)])
def test_pooling_rounds_sizes_up(side, stride, pad):
    x = random(2, side, side, 3) - 5.0  # below zero: padding must not win
    np.testing.assert_array_equal(
        googlenet.max_pool(jnp.asarray(x), stride, pad), pooled(x, stride, pad)
    )


def test_sizes_of_the_network():
    """112, 56, 28 and 14 halve exactly, as in the paper's Table 1."""
    for side in (112, 56, 28, 14):
        assert googlenet.max_pool(jnp.zeros((1, side, side, 1))).shape[1] == side // 2


def test_response_norm():
    x = 100.0 * random(2, 3, 3, 9)
    expected = np.empty_like(x)
    for c in range(9):
        near = x[..., max(0, c - 2) : c + 3].astype(np.float64)
        expected[..., c] = x[..., c] / (1.0 + 1e-4 * np.square(near).sum(-1) / 5) ** 0.75
    np.testing.assert_allclose(googlenet.response_norm(jnp.asarray(x)), expected, rtol=2e-6)
    assert np.abs(expected / x).min() < 0.9  # it did something


def test_convolution_with_stride_has_caffes_padding():
    """conv1: 7x7, stride 2, three pixels on every side; 'SAME' would shift by one."""
    layer = {'w': random(7, 7, 2, 3), 'b': random(3, seed=1)}
    x = random(1, 12, 12, 2, seed=2)
    expected = convolution(layer, x)[:, ::2, ::2]
    found = googlenet.conv(layer, jnp.asarray(x), stride=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_inception_block():
    widths = (2, 3, 4, 2, 3, 5)
    shapes = googlenet.block_layers('b', 6, widths)
    params = {
        name: {'w': random(*shape, seed=i), 'b': random(shape[-1], seed=50 + i)}
        for i, (name, shape) in enumerate(shapes.items())
    }
    x = np.abs(random(2, 5, 5, 6, seed=99))
    branches = [
        convolution(params['b/1x1'], x),
        convolution(params['b/3x3'], convolution(params['b/3x3_reduce'], x)),
        convolution(params['b/5x5'], convolution(params['b/5x5_reduce'], x)),
        convolution(params['b/pool_proj'], pooled(x, 1, 1)),
    ]
    found = googlenet.block(params, 'b', jnp.asarray(x))
    assert found.shape == (2, 5, 5, 2 + 4 + 3 + 5)
    np.testing.assert_allclose(found, np.concatenate(branches, -1), rtol=1e-4, atol=1e-4)


def made_up():
    """Arrays of a file of weights, all zero."""
    arrays = {}
    for name, shape in googlenet.layers().items():
        arrays[f'{name}/w'] = np.zeros(shape, np.float16)
        arrays[f'{name}/b'] = np.zeros(shape[-1], np.float16)
    arrays['wnids'] = np.array([f'n{i:08d}' for i in range(1000)])
    return arrays


def test_loading(tmp_path):
    path = tmp_path / 'weights.npz'
    files.write_npz(path, made_up())
    params, wnids, record = googlenet.load(path)
    assert wnids[3] == 'n00000003'
    assert params['conv1/7x7_s2']['w'].dtype == np.float32
    assert record['sha256'] == files.sha256_of_arrays(made_up())
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    found = jax.eval_shape(googlenet.logits, params, image)
    assert (found.shape, found.dtype) == ((1, 1000), np.float32)


def test_mistakes(tmp_path):
    assert 'no GoogLeNet weights at' in user_error(googlenet.load, tmp_path / 'none.npz')
    (tmp_path / 'text.npz').write_text('not weights')
    assert 'damaged' in user_error(googlenet.load, tmp_path / 'text.npz')
    arrays = made_up()
    arrays['inception_4c/5x5/w'] = arrays['inception_4c/5x5/w'][:3]
    del arrays['inception_5b/1x1/b']
    files.write_npz(tmp_path / 'cut.npz', arrays)
    message = user_error(googlenet.load, tmp_path / 'cut.npz')
    assert 'inception_4c/5x5/w is (3, 5, 24, 64)' in message


def test_outputs_in_the_order_of_the_labels():
    order = extractor.output_order(['a', 'b', 'c', 'd', 'e'], ['d', 'a'])
    assert order == [3, 0, 1, 2, 4]
    message = user_error(extractor.output_order, ['a', 'b'], ['a', 'malamute'])
    assert "'malamute'" in message


@pytest.mark.skipif(
    not (os.environ.get(WEIGHTS) and os.environ.get(IMAGES)),
    reason=f'{WEIGHTS}=weights.npz {IMAGES}=TFDS_SET/1.0.0 run it on real ones (a minute)',
)
def test_real_weights_on_real_images():
    """The accuracies and the score that the weights' README states for 1,000 images, roughly."""
    name = os.environ[IMAGES]
    classes = sources.label_names(name)
    params, wnids, _ = googlenet.load(os.environ[WEIGHTS])
    order = extractor.output_order(wnids, classes)
    group = ConfigDict({'name': name, 'data_dir': '', 'image_size': 64, 'channels': 3})
    group.update({'num_classes': len(classes), 'num_workers': 0, 'max_bad_examples': 0})
    logits, labels = [], []
    for batch in pipeline.one_epoch(group, 'validation[:1000]', 50):
        logits.append(googlenet.logits(params, images.to_uint8(batch['image']))[:, order])
        labels.append(batch['condition'])
    logits, labels = np.concatenate(logits), np.concatenate(labels)
    assert share_of_label(logits, labels) == pytest.approx(0.224, abs=0.03)
    assert share_of_label(logits[:, : len(classes)], labels) == pytest.approx(0.441, abs=0.04)
    assert mean_over_splits(logits, 1)[0] == pytest.approx(38.1, abs=3.0)
