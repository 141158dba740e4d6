"""Random keys by image number."""

import jax
import numpy as np

from cfg_jax.keys import image_keys, per_image_noise, stream


def test_keys_follow_the_number():
    root = jax.random.key(3)
    numbers = np.uint32([0, 5, 4_000_000_000])
    for key, i in zip(image_keys(3, numbers), numbers, strict=True):
        expected = jax.random.key_data(jax.random.fold_in(root, i))
        np.testing.assert_array_equal(jax.random.key_data(key), expected)


def test_streams_are_folded_in():
    keys = image_keys(3, np.arange(4))
    for key, original in zip(stream(keys, 7), keys, strict=True):
        expected = jax.random.key_data(jax.random.fold_in(original, 7))
        np.testing.assert_array_equal(jax.random.key_data(key), expected)
    one, two = (per_image_noise(stream(keys, n), (50, 50)) for n in (1, 2))
    assert abs(np.corrcoef(np.ravel(one), np.ravel(two))[0, 1]) < 4 / np.sqrt(one.size)
