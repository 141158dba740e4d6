"""From an encoded image to pixels in [-1, 1]: decoding, crops and the area resize."""

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile

from cfg_jax.data import images

BACKGROUND = (255, 255, 255)  # the colour on which transparent images are composited
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'PPM', 'TIFF')


class UndecodableImage(Exception):
    """What is wrong with an encoded image, in a clause without its name."""


def _composited(image: Image.Image) -> Image.Image:
    """RGB of an image with transparency on `BACKGROUND`."""
    background = Image.new('RGBA', image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(background, image.convert('RGBA')).convert('RGB')


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Grey levels 0..65535 -> 0..255 by round(level / 257), which maps white to white."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UndecodableImage('its pixels are 32-bit integers; convert it to 8 or 16 bits')
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert('RGB')


def _unchanged(image: Image.Image) -> Image.Image:
    return image


# Every accepted mode of Pillow and its way to 8 bits of grey or RGB; other modes are refused.
MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    'L': _unchanged,
    'RGB': _unchanged,
    '1': lambda image: image.convert('L'),
    'P': _rgb,
    'CMYK': _rgb,
    'YCbCr': _rgb,
    'LA': _composited,
    'PA': _composited,
    'RGBA': _composited,
    'I;16': _from_sixteen_bits,
    'I;16B': _from_sixteen_bits,
    'I;16L': _from_sixteen_bits,
    'I': _from_sixteen_bits,  # 16-bit PNGs in older versions of Pillow
}


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode in `MODES` -> the same picture in mode L or RGB.

    Raises:
      UndecodableImage: another mode.
    """
    if image.mode not in MODES:
        raise UndecodableImage(
            f'it is of mode {image.mode}, which is not supported; convert it to 8-bit RGB'
        )
    if 'transparency' in image.info:
        return _composited(image)
    return MODES[image.mode](image)


def _refuse_cut_bits(opened: ImageFile.ImageFile) -> None:
    """Pillow reads colour and transparency of 16 bits, but keeps the upper 8 of each."""
    transparent = 'transparency' in opened.info
    if ';16' in str(opened.tile) and (transparent or not opened.mode.startswith('I')):
        kind = ' and transparency' if transparent else ''
        raise UndecodableImage(
            f'it is of mode {opened.mode} with 16 bits a channel{kind}; convert it to 8 bits'
        )


def read_pixels(
    encoded: bytes, channels: int, formats: tuple[str, ...] = _FORMATS
) -> tuple[np.ndarray, str]:
    """An encoded image -> uint8 [H, W, channels] and the mode in which Pillow opened it.

    Grey of a colour image is ITU-R 601's; colour of a grey image repeats it. Orientation tags are
    ignored, as in the usual preparations of ImageNet. Of an animation the first picture is taken.

    Raises:
      UndecodableImage: empty, damaged, or of a mode or format that is not accepted.
    """
    if not encoded:
        raise UndecodableImage('it is empty')
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as opened:
            _refuse_cut_bits(opened)
            mode = opened.mode
            pixels = np.asarray(to_eight_bits(opened).convert('L' if channels == 1 else 'RGB'))
    except (UndecodableImage, MemoryError):
        raise
    except Exception as error:  # damaged bytes raise nearly anything in Pillow's decoders
        raise UndecodableImage(_reason(error)) from error
    return pixels.reshape(*pixels.shape[:2], channels), mode


def _reason(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if text.startswith('cannot identify image file'):  # it ends in the address of our buffer
        return 'its format is not one of an image'
    return text[:200].rstrip('. ')


def decode(
    image: bytes,
    *,
    size: int,
    channels: int,
    crop: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """An encoded image -> float32 [size, size, channels] in [-1, 1].

    Central square crop along the longer side, then area resize: the "area-downsampled" ImageNet
    of the paper, as the authors' public Progressive Distillation code does it. `crop` takes the
    place of the central square.

    Raises:
      UndecodableImage: see `read_pixels`.
    """
    pixels, _ = read_pixels(image, channels)
    square = (crop or central_square)(pixels)
    return images.from_uint8(np.clip(area_resize(square, size), 0, 255))


def central_square(pixels: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [S, S, C] with S = min(H, W), cut from the middle."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def random_square(smallest: float, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[H, W, C] -> [S, S, C]: a square anywhere, S uniform in [smallest, 1] times min(H, W).

    ADM's augmentation for its classifiers (smallest = 0.8) up to the order of crop and resize: it
    resizes first, to a random size.
    """
    height, width = pixels.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(smallest, 1.0)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return pixels[top : top + side, left : left + side]


def area_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """[S, S, C] -> float32 [size, size, C]: the mean over each output pixel's footprint.

    Source pixels that a footprint covers in part count in part, as in TensorFlow's `area` method.
    """
    if pixels.shape[0] == size:
        return pixels.astype(np.float32)
    rows = np.zeros((size, *pixels.shape[1:]), np.float32)
    resized = np.zeros((size, size, pixels.shape[2]), np.float32)
    # Sums rather than products with a matrix: BLAS would start its own threads in every worker.
    for y, share in _footprints(pixels.shape[0], size):
        rows += share[:, None, None] * pixels[y]
    for x, share in _footprints(pixels.shape[0], size):
        resized += share[:, None] * rows[:, x]
    return resized


@functools.lru_cache(maxsize=1024)
def _footprints(source: int, target: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(y [target], share [target]) for the first, second, ... source pixel of all footprints.

    `share` is the part of output pixel i's footprint that source pixel y[i] covers; 0 past its end.
    """
    edges = np.linspace(0.0, source, target + 1)
    low, high = edges[:-1], edges[1:]
    first = np.floor(low).astype(np.int64)
    footprints = []
    for y in range(int((np.ceil(high) - first).max())):
        overlap = np.minimum(high, first + y + 1) - np.maximum(low, first + y)
        share = np.clip(overlap, 0.0, None) / (high - low)
        footprints.append((np.minimum(first + y, source - 1), share.astype(np.float32)))
    return tuple(footprints)
