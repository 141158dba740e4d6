"""TensorFlow 1's bilinear resize against its gather formula, written out pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.metrics.features.resize import tf1_bilinear


def by_the_formula(image, size):
    """out[i, j] lerps the four source pixels around (i in / out, j in / out).

    The positions are float32, as TensorFlow computes them; the rest is float64.
    """
    height, width = image.shape[:2]
    image = image.astype(np.float64)
    out = np.empty((size, size, image.shape[2]))
    for i in range(size):
        y = float(np.float32(i) * np.float32(height / size))
        top, bottom = int(np.floor(y)), min(int(np.floor(y)) + 1, height - 1)
        for j in range(size):
            x = float(np.float32(j) * np.float32(width / size))
            left, right = int(np.floor(x)), min(int(np.floor(x)) + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            out[i, j] = upper + (lower - upper) * (y - top)
    return out


@pytest.mark.parametrize('side', [32, 64, 128, 256])
def test_resize_is_the_gather_formula(side):
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ours = np.asarray(tf1_bilinear(jnp.asarray(image[None]), 299))[0] / 255.0
    assert np.abs(ours - by_the_formula(image, 299) / 255.0).max() < 1e-6


def test_pixels_at_whole_positions_are_kept():
    """From 8 to 32 every fourth pixel is a source pixel; half-pixel centres would keep none."""
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    ours = np.asarray(tf1_bilinear(jnp.asarray(image), 32))
    np.testing.assert_array_equal(ours[:, ::4, ::4], image)


def test_last_pixels_repeat_the_edge():
    """Beyond the last source pixel there is nothing to go to: no reflection, no wrap."""
    image = np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1).repeat(4, axis=1)
    ours = np.asarray(tf1_bilinear(jnp.asarray(image), 16))[0, 0, :, 0]
    np.testing.assert_allclose(ours, np.minimum(np.arange(16) / 4, 3.0))


def test_it_is_not_jax_image_resize():
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
    other = jax.image.resize(image, (1, 299, 299, 3), 'bilinear')
    assert np.abs(np.asarray(tf1_bilinear(jnp.asarray(image), 299)) - other).mean() > 1.0


def test_oblong_images():
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    ours = np.asarray(tf1_bilinear(jnp.asarray(image[None]), 50))[0]
    np.testing.assert_allclose(ours, by_the_formula(image, 50), atol=1e-3)
