"""Sets of images on disk, as people exchange them: ADM's `.npz` batches and folders of PNGs."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Protocol

import numpy as np
from absl import logging
from etils import epath

from cfg_jax import files
from cfg_jax.data import listing, preprocess
from cfg_jax.errors import UserError

_ARRAY = 'arr_0.npy'  # ADM's name for the images


class ImageSet(Protocol):
    """Images in file order; `len` counts them."""

    def __len__(self) -> int: ...

    def describe(self) -> str:
        """Such as '10 images of 12 files; skipped: 2 hidden'."""
        ...

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """uint8 RGB [B, H, W, 3]; the last batch may be smaller."""
        ...


def open_images(path: epath.PathLike) -> ImageSet:
    """The images of a folder of PNGs (subfolders too, sorted by path) or of an ADM `.npz` batch.

    Raises:
      UserError: nothing there, not images, or images of another kind: named with its file.
    """
    path = files.as_path(path)
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise UserError(f'no images at {path}; give a folder of PNGs or an .npz batch')
    return _Batch(path)


def has_images(path: epath.PathLike) -> bool:
    """Whether `path` is a folder or an `.npz` with images, not one of statistics alone.

    Raises:
      UserError: as `open_images`, where there is nothing, or a damaged file.
    """
    path = files.as_path(path)
    if path.is_dir():
        return True
    if not path.exists():
        raise UserError(f'nothing at {path}; give a folder of PNGs, an .npz batch or statistics')
    with (
        files.damage_reported(path, 'give images or an .npz of statistics'),
        path.open('rb') as file,
        zipfile.ZipFile(file) as archive,
    ):
        return _ARRAY in archive.namelist()


def save_batch(path: epath.PathLike, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Writes uint8 images [N, H, W, C] = `shape`, given in parts, as an ADM `.npz` batch."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f'.{path.name}.tmp'
    header = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    with (
        unfinished.open('wb') as file,
        zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive,
        archive.open(_ARRAY, 'w', force_zip64=True) as array,
    ):
        np.lib.format.write_array_header_1_0(array, header)
        for part in parts:
            array.write(np.ascontiguousarray(part, np.uint8).tobytes())
    unfinished.replace(path)


class _Batch:
    """`arr_0` of an `.npz`, read piece by piece: 50,000 images need not fit in memory."""

    def __init__(self, path: epath.Path):
        self._path = path
        with self._reading(), path.open('rb') as file, zipfile.ZipFile(file) as archive:
            held = ', '.join(name.removesuffix('.npy') for name in archive.namelist())
            if _ARRAY not in archive.namelist():
                raise UserError(f"{path} holds no images 'arr_0' but {held or 'nothing'}")
            with archive.open(_ARRAY) as array:
                self._shape, fortran, dtype = _read_header(array)
        if dtype != np.uint8:
            raise UserError(
                f'{path} holds images of {dtype}; FID is defined on uint8 in 0..255, so round them'
                ' first'
            )
        if len(self._shape) != 4 or self._shape[-1] != 3:
            raise UserError(f'{path} holds an array {self._shape}; images are RGB, [N, H, W, 3]')
        if fortran:
            raise UserError(f'{path} is in Fortran order; save it with numpy.ascontiguousarray')
        if not self._shape[0]:
            raise UserError(f'{path} holds no images')

    def __len__(self) -> int:
        return self._shape[0]

    def describe(self) -> str:
        """See `ImageSet`."""
        return f'{len(self):,} images of 1 file'

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """See `ImageSet`."""
        with (
            self._reading(),
            self._path.open('rb') as file,
            zipfile.ZipFile(file) as archive,
            archive.open(_ARRAY) as array,
        ):
            _read_header(array)
            for start in range(0, len(self), batch_size):
                shape = (min(batch_size, len(self) - start), *self._shape[1:])
                content = array.read(int(np.prod(shape)))
                if len(content) != np.prod(shape):
                    raise UserError(f'{self._path} ends after {start} images; copy it again')
                yield np.frombuffer(content, np.uint8).reshape(shape)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return files.damage_reported(self._path, 'give an .npz batch of images, or copy it again')


class _Folder:
    """PNGs of one size; links are followed. JPEGs among them would look like a mistake."""

    def __init__(self, path: epath.Path):
        self._path = pathlib.Path(path)
        self._listing = listing.list_images(self._path, listing.PNG)
        self._files = [self._path / name for name in self._listing.images]
        foreign = {
            ending: count
            for ending, count in sorted(self._listing.others.items())
            if ending in (*listing.JPEG, *listing.WEBP, *listing.OTHER_IMAGES)
        }
        if not self._files:
            skipped = self._listing.skipped_words()
            has = f'; it has files that are {skipped}' if skipped else ''
            raise UserError(
                f'{path} holds no PNGs{has}; JPEG changes FID noticeably, so save images as PNG'
            )
        if foreign:
            counts = ' and '.join(f'{count:,} {ending}' for ending, count in foreign.items())
            raise UserError(
                f'{path} holds {len(self._files):,} PNGs, but also {counts} files; a set is of one'
                ' kind, and JPEG changes FID noticeably: save all images as PNG, or move the'
                ' others away'
            )
        self._converted: set[str] = set()
        self._shape = self._read(self._files[0]).shape

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> str:
        """See `ImageSet`."""
        skipped = self._listing.skipped_words()
        words = f'{len(self):,} images of {self._listing.num_files():,} files'
        return f'{words}; skipped: {skipped}' if skipped else words

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """See `ImageSet`."""
        for start in range(0, len(self._files), batch_size):
            yield np.stack([self._read_alike(f) for f in self._files[start : start + batch_size]])

    def _read_alike(self, file: pathlib.Path) -> np.ndarray:
        image = self._read(file)
        if image.shape != self._shape:
            raise UserError(
                f'{file} has {image.shape[1]}x{image.shape[0]} pixels,'
                f' {self._files[0].name} has {self._shape[1]}x{self._shape[0]}; images of a set'
                ' have one size'
            )
        return image

    def _read(self, file: pathlib.Path) -> np.ndarray:
        try:
            pixels, mode = preprocess.read_pixels(file.read_bytes(), 3, formats=('PNG',))
        except OSError as error:
            raise UserError(f'{file} cannot be read: {error.strerror}') from error
        except preprocess.UndecodableImage as error:
            raise UserError(f'{file} is damaged or not a PNG that can be used: {error}') from error
        if mode != 'RGB' and mode not in self._converted:
            self._converted.add(mode)
            logging.warning(
                f'{file} is of mode {mode}, not RGB: such images are converted, transparent ones on'
                ' white'
            )
        return pixels


def _read_header(array: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of an `.npy` stream, which is left at the data."""
    if np.lib.format.read_magic(array) == (1, 0):
        return np.lib.format.read_array_header_1_0(array)
    return np.lib.format.read_array_header_2_0(array)
