"""Animated pictures: how images form, and what a growing guidance weight does to them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from cfg_jax import files
from cfg_jax.data import images
from cfg_jax.errors import UserError
from cfg_jax.inference import Model

_FRAMES = 41  # of a trajectory at most, and of growing w
_MILLISECONDS, _REST = 80, 1200  # a frame, and the last one
_SIDE = 256  # the least side of the pictures
_BAR = 22  # pixels of the caption
_SMALL = 32  # images up to this side are enlarged in blocks, which lossless WebP packs well
_QUALITY = 90

Frames = list[tuple[np.ndarray, str]]  # uint8 [B, H, W, C], caption


def denoising(
    model: Model,
    condition: Sequence[Any],
    w: float | Sequence[float],
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> Frames:
    """Noise that becomes images, some 40 levels of it; see `Model.trajectory`."""
    last = model.sampler.num_steps
    chosen = np.unique(np.linspace(0, last, min(_FRAMES, last + 1)).round().astype(int))
    z = model.trajectory(condition, np.asarray(w), seed, indices=indices, levels=chosen)
    return [(z_t, f'level {t} of {last}') for z_t, t in zip(z, chosen, strict=True)]


def growing_weight(
    model: Model,
    condition: Sequence[Any],
    low: float,
    high: float,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> Frames:
    """The same noise at weights from `low` to `high`, evenly spaced; see `Model.sample`."""
    count = len(condition)
    weights = np.linspace(low, high, _FRAMES)
    return [
        (model.sample(condition, np.full(count, w), seed, indices=indices), f'w = {w:.2f}')
        for w in weights
    ]


def check_size(count: int, columns: int, side: int) -> None:
    """Raises UserError unless `count` images of `side` pixels find room in rows of `columns`."""
    width, height = columns * side, -(-count // columns) * side
    if max(width, height + _BAR) > images.LONGEST_WEBP:
        raise UserError(
            f'{count} images of {side} pixels in rows of {columns} make a picture of'
            f' {width:,}x{height:,} pixels, and a WebP has at most {images.LONGEST_WEBP:,} a side:'
            ' give other --columns, or fewer images'
        )


def save(path: epath.PathLike, frames: Frames, columns: int) -> None:
    """Writes an animated WebP that repeats, its images in rows of `columns`.

    Raises:
      UserError: the name does not end in .webp.
    """
    if not str(path).lower().endswith('.webp'):
        raise UserError(f'{path} must end in .webp: animations are written as WebP')
    side = frames[0][0].shape[1]
    drawn = [_frame(images.grid(pictures, columns), caption) for pictures, caption in frames]
    options = {'lossless': True} if side <= _SMALL else {'quality': _QUALITY}
    buffer = io.BytesIO()
    drawn[0].save(
        buffer,
        'WEBP',
        save_all=True,
        append_images=drawn[1:],
        duration=[_MILLISECONDS] * (len(drawn) - 1) + [_REST],
        loop=0,
        **options,
    )
    files.write_bytes(path, buffer.getvalue())


def _frame(picture: np.ndarray, caption: str) -> Image.Image:
    """An enlarged picture above its caption."""
    factor = max(1, -(-_SIDE // min(picture.shape[:2])))
    factor = min(factor, (images.LONGEST_WEBP - _BAR) // max(picture.shape[:2]))
    enlarged = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    if enlarged.shape[-1] == 1:
        enlarged = enlarged.repeat(3, axis=-1)
    height, width = enlarged.shape[:2]
    frame = Image.new('RGB', (width, height + _BAR), 'white')
    frame.paste(Image.fromarray(enlarged))
    place = (width / 2, height + _BAR / 2)
    font = ImageFont.load_default(14)
    ImageDraw.Draw(frame).text(place, caption, fill='black', font=font, anchor='mm')
    return frame
