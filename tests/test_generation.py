"""Images by number: what image i is must depend on nothing but the seed, i, its label and w."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cfg_jax.generation import (
    image_keys,
    image_labels,
)
from scipy import stats

from cfg_jax import (
    generation,
    rules,
    sampling,
)

CLASSES = NULL = 10
SHAPE = (6, 6, 2)
# float32 additions in another order, through a few steps, move a finished image by less.
SAME_IMAGE = 2e-3


def make_params(seed=0):
    """Of `conv_network`."""
    rng = np.random.default_rng(seed)
    return {
        'kernel': np.float32(0.3 * rng.normal(size=(3, 3, 2, 2))),
        'table': np.float32(rng.normal(size=(CLASSES + 1, 2))),
    }


def conv_network(params, z, logsnr, label):
    """An eps_theta with a convolution, which mixes pixels, and an embedding of the label."""
    h = jax.lax.conv_general_dilated(
        z, params['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return jnp.tanh(h + params['table'][label][:, None, None] + 0.1 * logsnr[:, None, None, None])


class Recorder:
    """A network that notes the shape of each z it is traced with."""

    def __init__(self, network):
        self.network = network
        self.shapes = []

    def __call__(self, params, z, logsnr, label):
        self.shapes.append(z.shape)
        return self.network(params, z, logsnr, label)


def start_noise(eps_fn, z, keys):
    """A sampler that returns its start."""
    return z


def step_noise(eps_fn, z, keys):
    """A sampler that returns what its keys draw."""
    return sampling.per_image_noise(keys, z.shape[1:])


def one_eps(eps_fn, z, keys):
    """A sampler that returns one prediction."""
    return eps_fn(z, jnp.float32(0.0))


def make(sampler, network=conv_network):
    return generation.Generator(rules.ClassifierFree(network, NULL), sampler, SHAPE)


@functools.cache
def recorded_generator():
    """(generator, recorder) with the real sampler; compilations are shared between tests."""
    recorder = Recorder(conv_network)
    return make(sampling.make_sampler('ancestral', num_steps=5, v=0.3), recorder), recorder


def labels_of(indices, seed=0):
    return np.asarray(image_labels(seed, indices, CLASSES, 'uniform'))


def generate(indices, w, seed=0):
    indices = np.asarray(indices)
    x = recorded_generator()[0](make_params(), seed, indices, labels_of(indices), w)
    return np.asarray(x)


def test_keys_follow_the_number():
    root = jax.random.key(3)
    numbers = np.uint32([0, 5, 4_000_000_000])
    for key, i in zip(image_keys(3, numbers), numbers, strict=True):
        expected = jax.random.key_data(jax.random.fold_in(root, i))
        np.testing.assert_array_equal(jax.random.key_data(key), expected)


def test_balanced_labels():
    labels = np.asarray(image_labels(0, np.arange(50), CLASSES, 'balanced'))
    np.testing.assert_array_equal(labels, np.tile(np.arange(CLASSES), 5))
    assert labels.dtype == np.int32
    some = image_labels(7, [13, 2, 40], CLASSES, 'balanced')
    np.testing.assert_array_equal(some, [3, 2, 0])


def test_uniform_labels():
    count = 10_000
    labels = labels_of(np.arange(count))
    assert labels.dtype == np.int32
    assert set(labels.tolist()) == set(range(CLASSES))  # and never the null label
    assert stats.chisquare(np.bincount(labels, minlength=CLASSES)).pvalue > 1e-3
    # The standard error of the correlation of neighbours is 1 / sqrt(count).
    assert abs(np.corrcoef(labels[:-1], labels[1:])[0, 1]) < 4 / np.sqrt(count)
    agreement = np.mean(labels == labels_of(np.arange(count), seed=1))
    assert abs(agreement - 0.1) < 4 * np.sqrt(0.1 * 0.9 / count)


def test_labels_and_noise_depend_on_the_number_alone():
    indices = np.arange(64)
    labels = labels_of(indices)
    noise = np.asarray(sampling.per_image_noise(image_keys(0, indices), SHAPE))
    for part in (indices[:7], indices[20:27], np.random.default_rng(0).permutation(64)):
        np.testing.assert_array_equal(labels_of(part), labels[part])
        part_noise = sampling.per_image_noise(image_keys(0, part), SHAPE)
        np.testing.assert_array_equal(part_noise, noise[part])
    assert len(np.unique(noise[:, 0, 0, 0])) == 64


@pytest.mark.parametrize('sampler', [start_noise, step_noise])
def test_noise_is_the_same_in_any_batch_and_for_any_weight(sampler):
    generator = make(sampler)

    def noise(indices, w=0.0, seed=0):
        labels = np.zeros(len(indices), np.int32)
        return np.asarray(generator(make_params(), seed, indices, labels, w))

    together = noise(np.arange(64))
    assert together.shape == (64, *SHAPE)
    for part in (np.arange(7), np.arange(40, 47)):
        np.testing.assert_array_equal(noise(part), together[part])
        np.testing.assert_array_equal(noise(part, w=2.0), together[part])
    other = noise(np.arange(64), seed=1)
    assert abs(np.corrcoef(together.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(other.size)
    assert stats.kstest(together.ravel(), 'norm').pvalue > 1e-3


def test_start_steps_and_labels_draw_from_different_streams():
    indices, labels = np.arange(64), np.zeros(64, np.int32)
    start, steps = (
        np.asarray(make(sampler)(make_params(), 0, indices, labels, 0.0)).ravel()
        for sampler in (start_noise, step_noise)
    )
    assert abs(np.corrcoef(start, steps)[0, 1]) < 4 / np.sqrt(start.size)


@pytest.mark.parametrize('w', [0.0, 1.5])
def test_an_image_is_the_same_in_a_batch_of_7_and_of_64(w):
    together = generate(np.arange(64), w)
    assert np.abs(together).max() <= 1.0
    for part in (np.arange(7), np.arange(57, 64)):
        np.testing.assert_allclose(generate(part, w), together[part], rtol=0, atol=SAME_IMAGE)
    # Other numbers are other images, by far more than the tolerance.
    differences = np.abs(together[1:] - together[:-1]).max(axis=(1, 2, 3))
    assert differences.min() > 100 * SAME_IMAGE


def test_seed_label_and_weight_change_the_image():
    indices = np.arange(7)
    image = generate(indices, 1.5)
    generator = recorded_generator()[0]
    relabelled = generator(make_params(), 0, indices, (labels_of(indices) + 1) % CLASSES, 1.5)
    for other in (generate(indices, 0.5), generate(indices, 1.5, seed=1), np.asarray(relabelled)):
        assert np.abs(other - image).max(axis=(1, 2, 3)).min() > 10 * SAME_IMAGE


def test_prediction_by_hand():
    """With eps = label: (1 + w) c - w null, and c alone at w = 0."""

    def network(params, z, logsnr, label):
        return jnp.broadcast_to(params * label[:, None, None, None], z.shape)

    generator = make(one_eps, network)
    # w = 0.5: 1.5 * 4 - 0.5 * 10 = 1; times the parameter, 2. Class 7: 1.5 * 7 - 5 = 5.5.
    for w, expected in ((0.0, [8.0, 14.0]), (0.5, [2.0, 11.0])):
        eps = generator(np.float32(2.0), 0, [0, 1], [4, 7], w)
        np.testing.assert_allclose(eps[:, 0, 0, 0], expected, rtol=1e-6)


def test_one_trace_serves_every_weight():
    recorder = Recorder(conv_network)
    generator = make(one_eps, recorder)
    indices, labels = np.arange(5), np.arange(5)
    for w in (0.1, 0.3, 1, 4.0, np.float32(2.0), np.full(5, 0.7), np.zeros(5)):
        generator(make_params(), 0, indices, labels, w)
    assert recorder.shapes == [(5, *SHAPE)]  # mapped over the two labels
    for w in (0.0, 0, np.float32(0.0)):
        generator(make_params(seed=1), 1, indices + 5, labels, w)
    assert recorder.shapes == [(5, *SHAPE)] * 2


def test_a_sweep_compiles_the_sampler_twice():
    """Once guided and once not, whatever the number of weights; `lax.scan` hides the steps."""
    generator, recorder = recorded_generator()
    indices = np.arange(7)
    generate(indices, 1.0)
    generate(indices, 0.0)
    recorder.shapes.clear()
    for w in (0.0, 0.1, 0.3, 1.0, 4.0):
        generator(make_params(seed=2), 5, indices + 100, labels_of(indices), w)
    assert recorder.shapes == []


def test_one_weight_per_image():
    indices = np.arange(7)
    weights = np.array([0.0, 0.5, 0.5, 1.5, 4.0, 1.5, 0.0])
    together = generate(indices, weights)
    for w in np.unique(weights):
        alone = generate(indices, w)
        rows = weights == w
        np.testing.assert_allclose(together[rows], alone[rows], rtol=0, atol=SAME_IMAGE)
        if not rows.all():
            assert np.abs(together[~rows] - alone[~rows]).max() > 10 * SAME_IMAGE


def test_generator_of_a_config(tiny_config, toy_networks):
    from cfg_jax import models

    generator = generation.make_generator(tiny_config)
    size, channels = tiny_config.data.image_size, tiny_config.data.channels
    model = models.make_unet(tiny_config)
    z = jnp.zeros((1, size, size, channels))
    params = jax.jit(model.init)(jax.random.key(0), z, jnp.zeros(1), jnp.zeros(1, jnp.int32))
    labels = np.array([3, 3, 7])
    x = np.asarray(generator(params, 0, np.arange(3), labels, 1.0))
    assert x.shape == (3, size, size, channels)
    assert x.dtype == np.float32
    assert np.abs(x).max() <= 1.0
    # The same by its parts, with the settings of the config.
    sampler = sampling.make_sampler(
        tiny_config.sampler.name,
        num_steps=tiny_config.sampler.num_steps,
        v=tiny_config.sampler.v,
        clip=tiny_config.sampler.clip,
    )
    null_label = tiny_config.data.num_classes
    rule = rules.ClassifierFree(model.apply, null_label)
    by_hand = generation.Generator(rule, sampler, (size, size, channels))
    expected = by_hand(params, 0, np.arange(3), labels, 1.0)
    np.testing.assert_allclose(x, expected, rtol=0, atol=SAME_IMAGE)
