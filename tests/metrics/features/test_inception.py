"""Loading a user's weights, and what the extractor does with them."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import experiment, user_error

from cfg_jax import files
from cfg_jax.metrics.features import extraction, inception
from cfg_jax.metrics.features.inception_network import layers
from cfg_jax.metrics.frechet import frechet_distance
from cfg_jax.metrics.statistics import Moments

REAL_WEIGHTS = 'CFG_JAX_INCEPTION'
REAL_IMAGES = 'CFG_JAX_IMAGES'


def made_up(names):
    """Arrays of our `.npz` format, random, for some layers."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name in names:
        scale = np.float32(np.sqrt(2.0 / np.prod(layers('logits')[name][:-1])))
        arrays[f'{name}/w'] = rng.standard_normal(layers('logits')[name], np.float32) * scale
        arrays[f'{name}/b'] = np.zeros(layers('logits')[name][-1], np.float32)
    return arrays


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Weights that end with mixed_7, as the 768-d tap needs."""
    path = tmp_path_factory.mktemp('weights') / 'to_768.npz'
    files.write_npz(path, made_up(layers('768')) | {'source': np.array('this test')})
    return path


def test_features_and_provenance(weights):
    extractor = inception.from_file(weights, 'inception768')
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.uint8)
    features = jax.eval_shape(extractor.apply, extractor.params, images)
    assert features.pooled.shape == (1, 768)
    assert features.spatial.shape == (1, 2023)
    assert features.logits is None
    assert not extractor.logits_are_labels
    record = extractor.provenance()
    arrays = files.read_npz(weights)
    source = arrays.pop('source')
    assert record['sha256'] == files.sha256_of_arrays(arrays)
    assert record['source'] == str(source)
    assert (record['name'], record['distance']) == ('inception768', 'FD-768')
    assert record['dtype'] == 'float32'


def test_weights_that_end_early_are_never_called_fid(weights):
    message = user_error(inception.from_file, weights, 'inception')
    assert 'lack' in message
    assert 'mixed_8_tower_conv' in message
    assert "'inception768' can use them" in message


def test_too_few_layers_for_anything(tmp_path):
    path = tmp_path / 'stem.npz'
    files.write_npz(path, made_up(layers('192')))
    message = user_error(inception.from_file, path, 'inception768')
    assert 'mixed_conv' in message
    assert 'can use them' not in message


def test_a_layer_without_its_bias_does_not_count(weights, tmp_path):
    arrays = files.read_npz(weights)
    del arrays['mixed_7_conv/b']
    files.write_npz(tmp_path / 'torn.npz', arrays)
    message = user_error(inception.from_file, tmp_path / 'torn.npz', 'inception768')
    assert 'mixed_7_conv' in message


def test_mistakes(weights, tmp_path):
    load = inception.from_file
    assert 'docs/metrics.md' in user_error(load, '', 'inception')
    assert 'no Inception weights at' in user_error(load, tmp_path / 'none.npz', 'inception')

    content = weights.read_bytes()
    (tmp_path / 'cut.npz').write_bytes(content[: len(content) // 2])
    assert 'damaged' in user_error(load, tmp_path / 'cut.npz', 'inception768')
    (tmp_path / 'text.npz').write_text('not weights')
    assert 'damaged' in user_error(load, tmp_path / 'text.npz', 'inception768')

    files.write_npz(tmp_path / 'other.npz', {'layer1/w': np.zeros(3)})
    assert "'layer1/w'" in user_error(load, tmp_path / 'other.npz', 'inception768')
    arrays = made_up(['conv'])
    arrays['conv/w'] = arrays['conv/w'].transpose(3, 2, 0, 1)
    files.write_npz(tmp_path / 'oihw.npz', arrays)
    message = user_error(load, tmp_path / 'oihw.npz', 'inception768')
    assert '(32, 3, 3, 3)' in message
    assert '(3, 3, 3, 32)' in message


@pytest.mark.skipif(
    not (os.environ.get(REAL_WEIGHTS) and os.environ.get(REAL_IMAGES)),
    reason=f'{REAL_WEIGHTS}=weights.npz {REAL_IMAGES}=TFDS_SET/1.0.0 run it on real ones (minutes)',
)
def test_real_weights_order_real_images():
    """FD-768: zero to itself, small to other real images, larger to noise, largest to blur."""
    extractor = inception.from_file(os.environ[REAL_WEIGHTS], 'inception768')
    make = experiment('instruments').image_sets(os.environ[REAL_IMAGES], 64, 400)

    def features(name, size):
        images = make[name]()
        batches = [images[i : i + size] for i in range(0, len(images), size)]
        return extraction.concatenate(extraction.extract_all(extractor, batches, size))

    real = features('train', 50)
    reference = Moments.of_many(real.pooled).gaussian()
    again = Moments.of_many(features('train', 40).pooled).gaussian()
    assert frechet_distance(again, reference) < 1e-6
    near, noise, blur = (
        frechet_distance(Moments.of_many(features(name, 50).pooled).gaussian(), reference)
        for name in list(make)[1:]
    )
    assert 0.0 < near < noise < blur
