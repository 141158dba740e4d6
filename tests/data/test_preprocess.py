"""Pixels of encoded images: every accepted mode, refusals by name, crops, the exact area resize."""

import numpy as np
import pytest
from pictures import encoded, png, random_pixels
from PIL import Image

from cfg_jax.data import preprocess
from cfg_jax.data.preprocess import UndecodableImage


def pixels_of(content, channels=3):
    return preprocess.read_pixels(content, channels)[0]


def on_white(colour, alpha):
    """The compositing formula, exact; both of 0..255."""
    share = alpha.astype(np.float64) / 255
    return colour * share + 255 * (1 - share)


# How each mode's pictures look as RGB, by formulas of ours. Values: (bytes, uint8 [H, W, 3], mode).
def grey():
    levels = random_pixels(1, channels=1)[0]
    return png(levels), levels.repeat(3, axis=2), 'L'


def colour():
    levels = random_pixels(1)[0]
    return png(levels), levels, 'RGB'


def grey_alpha():
    levels = random_pixels(1, channels=2)[0]
    return png(levels), on_white(levels[..., :1], levels[..., 1:]).repeat(3, axis=2), 'LA'


def colour_alpha():
    levels = random_pixels(1, channels=4)[0]
    return png(levels), on_white(levels[..., :3], levels[..., 3:]), 'RGBA'


def webp_alpha():
    """WebP sets the colour under alpha 0 free; what is seen is white."""
    levels = random_pixels(1, 8, 8, 4)[0]
    levels[..., 3] = 255 * (np.arange(8) < 4)
    levels[:, :4, :3] = 77
    seen = np.where(levels[..., 3:] == 255, levels[..., :3], 255)
    return encoded(Image.fromarray(levels), 'WEBP', lossless=True), seen, 'RGBA'


def colour_key():
    """RGB with one colour declared transparent."""
    levels = random_pixels(1)[0]
    levels[2, 1] = levels[0, 0]
    key = b''.join(b'\0' + bytes([level]) for level in levels[0, 0])
    hidden = (levels == levels[0, 0]).all(axis=-1, keepdims=True)
    assert hidden.sum() == 2
    return png(levels, (b'tRNS', key)), np.where(hidden, 255, levels), 'RGB'


def grey_key():
    """Grey with one level declared transparent."""
    levels = random_pixels(1, channels=1)[0]
    seen = np.where(levels == levels[0, 0], 255, levels).repeat(3, axis=2)
    return png(levels, (b'tRNS', b'\0' + bytes([levels[0, 0, 0]]))), seen, 'L'


def palette(**options):
    image = Image.new('P', (4, 5))
    colours = random_pixels(1, 1, 7)[0, 0]
    image.putpalette(colours.tobytes())
    numbers = np.arange(20).reshape(5, 4) % 7
    image.putdata(numbers.ravel().tolist())
    return encoded(image, **options), colours[numbers], numbers


def palette_opaque():
    content, seen, _ = palette()
    return content, seen, 'P'


def palette_transparent():
    """Entries 0 and 1 of the palette have alpha 0 and 100."""
    content, seen, numbers = palette(transparency=bytes([0, 100]))
    alpha = np.select([numbers == 0, numbers == 1], [0, 100], 255)[..., None]
    return content, on_white(seen, alpha), 'P'


def gif_transparent():
    content, seen, numbers = palette(kind='GIF', transparency=3)
    return content, np.where(numbers[..., None] == 3, 255, seen), 'P'


def black_and_white():
    bits = random_pixels(1, channels=1)[0, ..., 0] > 127
    return encoded(Image.fromarray(bits)), 255 * bits[..., None].repeat(3, axis=2), '1'


def cmyk():
    """Of one colour, as JPEG is lossy: (1 - ink) (1 - black)."""
    inks = np.broadcast_to(np.uint8([200, 100, 0, 51]), (16, 16, 4))
    content = encoded(Image.fromarray(np.ascontiguousarray(inks), 'CMYK'), 'JPEG', quality=100)
    seen = (255 - inks[..., :3].astype(float)) * (255 - 51) / 255
    return content, seen, 'CMYK'


def sixteen_bits():
    """All levels: white is 65535, and 257 levels of 16 bits make one of 8."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    return png(levels), np.rint(levels / 257.0).repeat(3, axis=2), 'I;16'


MODES = [
    grey, colour, grey_alpha, colour_alpha, webp_alpha, colour_key, grey_key, palette_opaque,
    palette_transparent, gif_transparent, black_and_white, cmyk, sixteen_bits,
]  # fmt: skip


@pytest.mark.parametrize('make', MODES, ids=lambda make: make.__name__)
def test_accepted_modes(make):
    content, expected, mode = make()
    pixels, found = preprocess.read_pixels(content, 3)
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert found == mode or (mode, found) == ('I;16', 'I')  # by the version of Pillow
    assert mode in preprocess.MODES
    exact = make not in (grey_alpha, colour_alpha, palette_transparent, cmyk)
    np.testing.assert_allclose(pixels, expected, atol=0 if exact else 1.01)
    if mode in ('L', '1', 'I;16', 'LA') and make is not grey_key:
        np.testing.assert_array_equal(pixels_of(content, 1), pixels[..., :1])


def test_every_accepted_mode_is_tested():
    """PA, YCbCr and the other byte orders of 16 bits come from no file that Pillow writes."""
    tested = {make()[2] for make in MODES}
    assert preprocess.MODES.keys() - tested == {'PA', 'YCbCr', 'I', 'I;16B', 'I;16L'}
    for mode in ('PA', 'YCbCr'):
        image = Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).convert('RGBA').convert(mode)
        assert abs(int(np.asarray(preprocess.to_eight_bits(image).convert('L'))[0, 0]) - 200) <= 1


def test_integers_are_sixteen_bits_if_they_can_be():
    levels = np.array([[0, 257, 65535]], np.int32)
    image = preprocess.to_eight_bits(Image.fromarray(levels))
    assert np.asarray(image).tolist() == [[0, 1, 255]]
    for level in (-1, 65536):
        with pytest.raises(UndecodableImage, match='32-bit'):
            preprocess.to_eight_bits(Image.fromarray(np.array([[level]], np.int32)))


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (lambda: encoded(Image.new('F', (4, 4)), 'TIFF'), 'mode F'),
        (lambda: encoded(Image.new('LAB', (4, 4)), 'TIFF'), 'mode LAB'),
        (lambda: png(np.zeros((4, 4, 3), np.uint16)), 'mode RGB with 16 bits'),
        (lambda: png(np.zeros((4, 4, 4), np.uint16)), 'mode RGBA with 16 bits'),
        (lambda: png(np.zeros((4, 4, 2), np.uint16)), 'LA? with 16 bits|RGBA with 16 bits'),
        (lambda: png(np.zeros((4, 4, 1), np.uint16), (b'tRNS', b'\0\0')), '16 bits .* transpar'),
        (lambda: b'', 'empty'),
        (lambda: b'no picture at all', 'not one of an image'),
        (lambda: png(random_pixels(1, 64, 64)[0])[:3000], 'truncated'),
        (lambda: encoded(random_pixels(1, 64, 64)[0], 'JPEG')[:-300], 'truncated'),
    ],
    ids=['F', 'LAB', 'RGB16', 'RGBA16', 'LA16', 'L16key', 'empty', 'text', 'png', 'jpeg'],
)
def test_refused(content, words):
    for channels in (1, 3):
        with pytest.raises(UndecodableImage, match=words):
            pixels_of(content(), channels)


def test_damage_anywhere_is_one_kind_of_error():
    rng = np.random.default_rng(0)
    image = Image.fromarray(random_pixels(1, 32, 32)[0])
    for kind in ('PNG', 'JPEG', 'WEBP', 'GIF', 'TIFF', 'BMP', 'PPM'):
        content = encoded(image, kind)
        for _ in range(60):
            spoilt = bytearray(content)
            for place in rng.integers(0, min(len(content), 600), 4):
                spoilt[place] = rng.integers(256)
            try:
                pixels_of(bytes(spoilt))
            except UndecodableImage as error:
                assert str(error) and '\n' not in str(error) and '0x' not in str(error)


def test_random_squares_have_at_least_a_pixel():
    square = preprocess.random_square(0.01, np.zeros((8, 8, 3)), np.random.default_rng(0))
    assert min(square.shape[:2]) >= 1


def test_random_squares_lie_anywhere_in_the_image():
    rng = np.random.default_rng(0)
    pixels = np.stack(np.meshgrid(np.arange(10), np.arange(16), indexing='ij'), axis=-1)
    squares = [preprocess.random_square(0.8, pixels, rng) for _ in range(2000)]
    sides = np.array([square.shape[:2] for square in squares])
    assert (sides[:, 0] == sides[:, 1]).all()
    assert set(sides[:, 0]) == {8, 9, 10}
    corners = np.array([square[0, 0] for square in squares])
    ends = np.array([square[-1, -1] for square in squares])
    np.testing.assert_array_equal(ends - corners, sides - 1)  # nothing left out between
    assert corners.min(axis=0).tolist() == [0, 0]
    assert ends.max(axis=0).tolist() == [9, 15]
    assert abs(np.mean((corners + ends)[:, 1] / 2) - 7.5) < 0.3


@pytest.mark.parametrize(('height', 'width'), [(6, 10), (11, 6), (7, 7)])
def test_central_square(height, width):
    pixels = np.arange(height * width).reshape(height, width, 1)
    side = min(height, width)
    square = preprocess.central_square(pixels)
    assert square.shape == (side, side, 1)
    rows, columns = square[:, 0, 0] // width, square[0, :, 0] % width
    for indices, length in ((rows, height), (columns, width)):
        assert np.array_equal(np.diff(indices), np.ones(side - 1))
        left_over = (indices[0], length - 1 - indices[-1])
        assert abs(left_over[0] - left_over[1]) <= 1


@pytest.mark.parametrize(('source', 'target'), [(12, 4), (5, 3), (9, 4), (4, 6), (64, 48)])
def test_area_resize_is_the_exact_integral(source, target):
    pixels = np.random.default_rng(0).integers(0, 256, (source, source, 3)).astype(np.uint8)
    # Every source pixel cut into target x target equal parts, of which each output pixel's
    # footprint covers source x source whole ones.
    fine = pixels.astype(np.float64).repeat(target, axis=0).repeat(target, axis=1)
    exact = fine.reshape(target, source, target, source, 3).mean(axis=(1, 3))
    resized = preprocess.area_resize(pixels, target)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, exact, rtol=1e-5)


def test_area_resize_keeps_a_constant_and_the_same_size():
    constant = np.full((7, 7, 1), 201, np.uint8)
    np.testing.assert_allclose(preprocess.area_resize(constant, 5), 201.0, rtol=1e-6)
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    np.testing.assert_array_equal(preprocess.area_resize(pixels, 4), pixels)


def test_decode_colours():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 255, 51, 0
    image = preprocess.decode(encoded(rgb), size=2, channels=3)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, np.broadcast_to([1.0, -0.6, -1.0], (2, 2, 3)), atol=1e-6)
    grey = preprocess.decode(encoded(rgb), size=2, channels=1)
    luma = np.floor(0.299 * 255 + 0.587 * 51 + 0.5) / 127.5 - 1.0  # ITU-R 601
    np.testing.assert_allclose(grey, np.full((2, 2, 1), luma), atol=1e-6)
    from_grey = preprocess.decode(encoded(rgb[..., 1]), size=2, channels=3)
    np.testing.assert_allclose(from_grey, np.full((2, 2, 3), -0.6), atol=1e-6)


def test_decode_crops_before_it_resizes():
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, 4:8] = 255
    np.testing.assert_array_equal(preprocess.decode(encoded(pixels), size=2, channels=1), 1.0)
