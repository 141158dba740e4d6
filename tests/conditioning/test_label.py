"""Labels as a kind of condition: drawn by number, embedded, named by users."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support import make_tiny_config, user_error

from cfg_jax import inference
from cfg_jax.conditioning import CONDITIONS
from cfg_jax.conditioning.label import Label
from cfg_jax.keys import image_keys, per_image_noise, stream

CLASSES = NULL = 10


def draw(indices, seed=0, rule='uniform'):
    """Labels of images as a sweep draws them: from stream 0 of each image."""
    keys = stream(image_keys(seed, np.asarray(indices)), 0)
    return np.asarray(Label(CLASSES).draw(keys, np.asarray(indices), rule))


def test_balanced_labels():
    labels = draw(np.arange(50), rule='balanced')
    np.testing.assert_array_equal(labels, np.tile(np.arange(CLASSES), 5))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(draw([13, 2, 40], 7, 'balanced'), [3, 2, 0])


def test_uniform_labels():
    count = 10_000
    labels = draw(np.arange(count))
    assert labels.dtype == np.int32
    assert set(labels.tolist()) == set(range(CLASSES))  # and never the null label
    assert stats.chisquare(np.bincount(labels, minlength=CLASSES)).pvalue > 1e-3
    # The standard error of the correlation of neighbours is 1 / sqrt(count).
    assert abs(np.corrcoef(labels[:-1], labels[1:])[0, 1]) < 4 / np.sqrt(count)
    agreement = np.mean(labels == draw(np.arange(count), seed=1))
    assert abs(agreement - 0.1) < 4 * np.sqrt(0.1 * 0.9 / count)


def test_labels_and_noise_depend_on_the_number_alone():
    indices, shape = np.arange(64), (6, 6, 2)
    labels = draw(indices)
    noise = np.asarray(per_image_noise(image_keys(0, indices), shape))
    for part in (indices[:7], indices[20:27], np.random.default_rng(0).permutation(64)):
        np.testing.assert_array_equal(draw(part), labels[part])
        part_noise = per_image_noise(image_keys(0, part), shape)
        np.testing.assert_array_equal(part_noise, noise[part])
    assert len(np.unique(noise[:, 0, 0, 0])) == 64


def test_a_model_draws_them_alike(toy_networks):
    model = inference.Model(make_tiny_config())
    for rule in ('uniform', 'balanced'):
        drawn = model.draw_conditions(5, np.arange(30), rule)
        assert isinstance(drawn, np.ndarray)
        np.testing.assert_array_equal(drawn, draw(np.arange(30), 5, rule))


def test_the_null_label_is_the_number_of_classes():
    null = Label(CLASSES).null(jnp.array([3, 0, 9], jnp.int32))
    np.testing.assert_array_equal(null, [NULL, NULL, NULL])
    assert null.dtype == jnp.int32
    example = Label(CLASSES).example()
    assert (example.shape, example.dtype) == ((1,), jnp.int32)


def test_it_is_what_a_config_names():
    assert CONDITIONS.load('label')(7) == Label(7)
    assert hash(Label(7)) == hash(Label(7))  # networks hold it


@pytest.mark.parametrize('labels', [[3, 3, 7], (0,), np.arange(5), np.uint8([9])])
def test_from_user(labels):
    found = Label(CLASSES).from_user(labels)
    np.testing.assert_array_equal(found, labels)
    assert (type(found), found.dtype) == (np.ndarray, np.int32)


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        ([3, 10], 'label 10 is out of range; classes are 0..9'),
        ([-1], 'label -1 is out of range'),
        ([2**40], 'out of range'),
        ([], 'whole numbers'),
        ([1.0, 2.0], 'whole numbers'),
        (['3'], 'whole numbers'),
        ([True, False], 'whole numbers'),
        ([[1, 2], [3, 4]], 'whole numbers'),
        ([[1], [2, 3]], 'whole numbers'),
        (3, 'whole numbers'),
    ],
)
def test_what_is_not_a_list_of_labels(labels, words):
    assert words in user_error(Label(CLASSES).from_user, labels)
