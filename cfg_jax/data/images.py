"""Pixels: the one place that converts between uint8 and [-1, 1], and tiles grids."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from cfg_jax import files

LONGEST_WEBP = 16_383  # pixels of a side


def to_uint8(x: jax.Array | np.ndarray, rounding: str = 'round') -> jax.Array:
    """float [-1, 1] -> uint8: floor(127.5 x + 128) clipped to 0..255, which rounds half up.

    This is EDM's rule. `rounding='truncate'` is ADM's, floor(127.5 (x + 1)): half a grey level
    darker, which moves FID. It is for samples only: of a real image's own grey level it may make
    the level below.
    """
    levels = x * 127.5 + 128.0 if rounding == 'round' else (x + 1.0) * 127.5
    return jnp.clip(jnp.floor(levels), 0, 255).astype(jnp.uint8)


def from_uint8(image: np.ndarray) -> np.ndarray:
    """uint8 0..255 -> float32 [-1, 1]: x = image / 127.5 - 1. Takes float images in 0..255 too."""
    return np.asarray(image, np.float32) / np.float32(127.5) - np.float32(1.0)


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles uint8 images [N, H, W, C] into rows of `columns`, a white pixel between them.

    Returns uint8 [rows (H + 1) - 1, columns (W + 1) - 1, C]; missing places are white.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_png(path: epath.PathLike, image: np.ndarray, min_side: int = 0) -> None:
    """Writes a uint8 image [H, W, 1 or 3] as PNG, enlarged by a whole factor to `min_side`."""
    files.write_bytes(path, png(image, min_side))


def png(image: np.ndarray, min_side: int = 0) -> bytes:
    """What `save_png` writes."""
    factor = max(1, -(-min_side // min(image.shape[:2])))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, 'PNG')
    return buffer.getvalue()
