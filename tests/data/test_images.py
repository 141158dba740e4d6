"""Pixels: rounding, grids, files."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cfg_jax.data import images


def test_every_grey_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    x = images.from_uint8(levels)
    assert x.dtype == np.float32
    assert (x[0], x[-1]) == (-1.0, 1.0)
    np.testing.assert_array_equal(images.to_uint8(jnp.asarray(x)), levels)


def test_from_uint8_is_affine():
    # 51 / 127.5 - 1 = 0.4 - 1 = -0.6, 204 / 127.5 - 1 = 1.6 - 1 = 0.6
    np.testing.assert_allclose(images.from_uint8(np.uint8([51, 204])), [-0.6, 0.6], atol=1e-7)
    # Between two levels, as the resize of data sets leaves them.
    np.testing.assert_allclose(images.from_uint8(np.float32([63.75])), [-0.5], atol=1e-7)


def test_to_uint8_rounds_to_the_nearest_level():
    # Level k is 2 k / 255 - 1; it owns the values within half a level, 1 / 255.
    levels = np.arange(256)
    for offset in (-0.98, -0.5, 0.0, 0.5, 0.98):
        x = np.float32((2 * levels + offset) / 255 - 1)
        image = images.to_uint8(jnp.asarray(x))
        assert image.dtype == jnp.uint8
        np.testing.assert_array_equal(image, levels)


def test_to_uint8_is_its_formula():
    x = np.linspace(-1.2, 1.2, 10_001).astype(np.float32)
    exact = 127.5 * x.astype(np.float64) + 128
    sure = np.abs(exact - np.round(exact)) > 1e-4  # away from the steps, where float32 may differ
    expected = np.clip(np.floor(exact), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(images.to_uint8(jnp.asarray(x)))[sure], expected[sure])
    assert images.to_uint8(jnp.float32(0.0)) == 128  # 127.5 rounds up
    # The rule of ADM, which truncates, is half a level darker.
    darker = np.clip(127.5 * (x.astype(np.float64) + 1), 0, 255).astype(np.uint8)
    assert np.mean(expected.astype(float) - darker) == pytest.approx(0.5 * 2.0 / 2.4, abs=0.01)


def test_to_uint8_clips():
    x = jnp.array([-jnp.inf, -1e9, -1.5, -1.01, 1.01, 1.5, 1e9, jnp.inf])
    np.testing.assert_array_equal(images.to_uint8(x), [0, 0, 0, 0, 255, 255, 255, 255])


def test_grid_layout():
    tiles = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    canvas = images.grid(tiles, columns=3)
    white = 255
    expected = [
        [1, 1, 1, white, 2, 2, 2, white, 3, 3, 3],
        [1, 1, 1, white, 2, 2, 2, white, 3, 3, 3],
        [white] * 11,
        [4, 4, 4, white, 5, 5, 5, white, white, white, white],
        [4, 4, 4, white, 5, 5, 5, white, white, white, white],
    ]
    assert canvas.dtype == np.uint8
    np.testing.assert_array_equal(canvas[..., 0], expected)


def test_grid_keeps_pixels_and_colours():
    tiles = np.random.default_rng(0).integers(0, 256, size=(4, 5, 4, 3), dtype=np.uint8)
    canvas = images.grid(tiles, columns=2)
    assert canvas.shape == (11, 9, 3)
    np.testing.assert_array_equal(canvas[:5, :4], tiles[0])
    np.testing.assert_array_equal(canvas[:5, 5:], tiles[1])
    np.testing.assert_array_equal(canvas[6:, :4], tiles[2])
    np.testing.assert_array_equal(canvas[6:, 5:], tiles[3])


@pytest.mark.parametrize(('channels', 'mode'), [(1, 'L'), (3, 'RGB')])
def test_save_png(tmp_path, channels, mode):
    image = np.random.default_rng(0).integers(0, 256, size=(4, 6, channels), dtype=np.uint8)
    images.save_png(tmp_path / 'plain.png', image)
    with Image.open(tmp_path / 'plain.png') as picture:
        assert (picture.format, picture.mode, picture.size) == ('PNG', mode, (6, 4))
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


def test_save_png_enlarges_by_a_whole_factor(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, size=(4, 6, 3), dtype=np.uint8)
    images.save_png(tmp_path / 'large.png', image, min_side=10)  # 4 * 2 < 10 <= 4 * 3
    with Image.open(tmp_path / 'large.png') as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (12, 18, 3)
    for row in range(12):
        for column in range(18):
            np.testing.assert_array_equal(pixels[row, column], image[row // 3, column // 3])


def test_truncation_is_adms_rule():
    """floor(127.5 (x + 1)), clipped: never above rounding half up, and below it by 0 or 1."""
    x = np.linspace(-1.2, 1.2, 5001, dtype=np.float32)
    truncated = np.asarray(images.to_uint8(jnp.asarray(x), 'truncate'))
    assert truncated.dtype == np.uint8
    np.testing.assert_array_equal(truncated, np.clip((x + 1) * np.float32(127.5), 0, 255) // 1)
    rounded = np.asarray(images.to_uint8(jnp.asarray(x)))
    inside = np.abs(x) < 1
    darker = rounded[inside].astype(int) - truncated[inside]
    assert {*darker} == {0, 1}
    assert darker.mean() == pytest.approx(0.5, abs=0.01)
    assert truncated[0] == 0
    assert truncated[-1] == 255
