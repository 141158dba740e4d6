"""Given images changed by a model: image to image, and painting by a mask, with every rule."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cfg_jax import files, model_checks
from cfg_jax.data import preprocess
from cfg_jax.data.images import from_uint8, to_uint8
from cfg_jax.errors import UserError
from cfg_jax.guidance import Rule
from cfg_jax.inference import Model
from cfg_jax.samplers import Sampler
from cfg_jax.samplers.editing import Edit

_STRENGTH = 0.5  # of image to image, if none is given


def edit(
    model: Model,
    condition: Sequence[Any],
    image: np.ndarray,
    *,
    strength: float | None = None,
    mask: np.ndarray | None = None,
    resample: int = 1,
    w: ArrayLike = 0.0,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    guidance: str | Rule | None = None,
    sampler: str | Sampler | None = None,
    num_steps: int | None = None,
) -> np.ndarray:
    """Images as uint8 [B, H, W, C], drawn from given ones.

    Without a mask an image is noised to a level and denoised from there (SDEdit): the last share
    `strength` of the sampler's levels is run. With one, the pixels of the mask are painted anew and
    the others keep their values exactly (RePaint); a mask that reaches the border continues the
    picture. Image i has its own random numbers, from the seed and i, as in `Model.sample`.

    Args:
      model: draws.
      condition: one value per image, such as class ids or names of classes.
      image: uint8, one for all [H, W, C] or one each [B, H, W, C].
      strength: share of the levels, in [0, 1]; 0 returns the image, 1 begins with noise. By default
        0.5, and 1 with a mask.
      mask: bool, True where pixels are painted anew, [H, W] or [B, H, W].
      resample: steps a level with a mask; more of them make the painted part agree better with the
        rest, and cost as many times the evaluations.
      w, seed, indices, guidance, sampler, num_steps: see `Model.sample`.

    Raises:
      UserError: as `Model.sample`; images or masks of another size or dtype; a strength outside
        [0, 1]; a model of latents; a mask with a sampler that extrapolates from earlier levels.
    """
    if 'latent' in model.config:
        raise UserError('a model of latents cannot edit pictures; give one that works on pixels')
    given, data = model.condition_of(condition), model.config.data
    count = len(condition)
    image = _for_each(image, np.uint8, (data.image_size, data.image_size, data.channels), count)
    if mask is not None:
        mask = _for_each(mask, np.bool_, (data.image_size, data.image_size), count)[..., None]
    if strength is None:
        strength = _STRENGTH if mask is None else 1.0
    if not 0.0 <= strength <= 1.0:
        raise UserError(f'strength is in [0, 1]; got {strength}')
    model = model.with_settings(guidance, sampler, num_steps)
    numbers = range(count) if indices is None else indices
    if strength == 0.0:
        model_checks.check_numbers(seed, numbers)
        model_checks.check_lengths(len(numbers), given, w)
        model_checks.check_guidance(model.rule, model.config, w)
        return image.copy()
    start = Edit(from_uint8(image), mask, strength, resample)
    drawn = model.generate(seed, numbers, given, w, edit=start)
    return np.asarray(to_uint8(drawn.x))


def read_image(path: epath.PathLike, data: ConfigDict) -> np.ndarray:
    """A picture of the size of the config's images, uint8 [H, W, C].

    Raises:
      UserError: no such file, not a picture, or another size.
    """
    return _read(path, data.image_size, data.channels)


def read_mask(path: epath.PathLike, data: ConfigDict) -> np.ndarray:
    """A picture whose light pixels (grey level 128 and above) are painted anew, bool [H, W].

    Raises:
      UserError: as `read_image`.
    """
    return _read(path, data.image_size, 1)[..., 0] >= 128


def _read(path: epath.PathLike, size: int, channels: int) -> np.ndarray:
    path = files.as_path(path)
    if not path.is_file():
        raise UserError(f'there is no picture {path}')
    try:
        pixels, _ = preprocess.read_pixels(path.read_bytes(), channels)
    except preprocess.UndecodableImage as error:
        raise UserError(f'{path} cannot be decoded: {error}') from error
    height, width = pixels.shape[:2]
    if (height, width) != (size, size):
        raise UserError(
            f"{path} has {width}x{height} pixels, the model's images {size}x{size}; resize it first"
        )
    return pixels


def _for_each(
    array: np.ndarray, dtype: type[np.generic], shape: tuple[int, ...], count: int
) -> np.ndarray:
    """`array` [*shape] or [count, *shape] as the latter."""
    array = np.asarray(array)
    if array.dtype != dtype:
        raise UserError(f'images are uint8 and masks bool; got {array.dtype} for {dtype.__name__}')
    if array.shape not in (shape, (count, *shape)):
        raise UserError(
            f'{count} edited images need an array of the shape {shape} or {(count, *shape)}; got'
            f' {array.shape}'
        )
    return np.broadcast_to(array, (count, *shape))
