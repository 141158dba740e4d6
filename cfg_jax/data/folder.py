"""A folder of image files as a data source: folder:PATH, a sub-directory per class.

PATH/CLASS/.../IMAGE.png: the classes are the sub-directories of PATH, sorted by name, as
torchvision's ImageFolder numbers them. Where PATH/train holds sub-directories itself, the classes
are those of PATH/train, and PATH/train, PATH/val and so on are the splits; otherwise everything is
the split 'train'. JPEG, PNG and WebP are read, in any case of the ending, and links are followed.
"""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cfg_jax.data import Examples, listing
from cfg_jax.data.preprocess import UndecodableImage
from cfg_jax.errors import UserError

_ENDINGS = (*listing.PNG, *listing.JPEG, *listing.WEBP)
_SPLIT = re.compile(r'(?P<name>[^\[\]+]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?')
_NAMED = 3


class Folder:
    """A `Source` of image files.

    Raises:
      UserError: no such directory, or no classes in it.
    """

    def __init__(self, path: Path):
        self._path = path
        self.name = re.sub(r'[^\w.-]', '_', path.resolve().name) or 'folder'
        self.channels = 3
        if not path.is_dir():
            raise UserError(f'there is no directory {path}; give folder:PATH')
        self._has_splits = bool((path / 'train').is_dir() and _classes(path / 'train'))
        if self._has_splits:
            self.splits = [name for name in _classes(path) if _classes(path / name)]
        else:
            self.splits = ['train']
        self.class_names = _classes(self._directory('train'))
        if not self.class_names:
            raise UserError(
                f'{path} holds no sub-directories; each class needs one, as in {path}/CLASS/1.png'
            )

    def examples(self, split: str) -> Examples:
        """The images of a split by number, in a fixed order that mixes the classes.

        Any part of it from the front holds each class in the share that it has of the whole, up to
        one image.
        """
        match = _SPLIT.fullmatch(split)
        if match is None or match['name'] not in self.splits:
            raise UserError(
                f'{self._path} has no split {split!r}; it has: {", ".join(self.splits)} (and slices'
                ' of them such as train[:80%])'
            )
        directory = self._directory(match['name'])
        found = listing.list_images(directory, _ENDINGS)
        files = [file for file in found.images if '/' in file]
        labels = self._labels(directory, files)
        if not files:
            raise UserError(
                f'the split {match["name"]!r} of {self._path} holds no JPEG, PNG or WebP images;'
                ' remove its directory or add images'
            )
        self._report(directory, found, files)
        files, labels = _in_fixed_order(files, labels)
        start = _boundary(match['start'] or '0', len(files), split)
        stop = _boundary(match['stop'] or '100%', len(files), split)
        prefix = f'{match["name"]}/' if self._has_splits else ''
        chosen = [prefix + file for file in files[start:stop]]
        return _Examples(self._path, chosen, labels[start:stop])

    def _directory(self, split: str) -> Path:
        return self._path / split if self._has_splits else self._path

    def _labels(self, directory: Path, files: list[str]) -> np.ndarray:
        ids = {name: number for number, name in enumerate(self.class_names)}
        counts = Counter(file.partition('/')[0] for file in files)
        foreign = sorted(counts.keys() - ids.keys())
        if foreign:
            raise UserError(
                f'{directory} holds the class {foreign[0]!r}, which {self._directory("train")}'
                ' lacks; the splits of a set have the same classes'
            )
        empty = [name for name in self.class_names if not counts[name]]
        if empty and directory == self._directory('train'):
            named = ', '.join(empty[:_NAMED]) + (', ...' if len(empty) > _NAMED else '')
            raise UserError(
                f'{len(empty)} of the {len(ids)} sub-directories of {directory} hold no JPEG, PNG'
                f' or WebP images: {named}; remove them or add images'
            )
        return np.array([ids[file.partition('/')[0]] for file in files], np.int32)

    def _report(self, directory: Path, found: listing.Listing, files: list[str]) -> None:
        skipped = found.skipped_words()
        outside = len(found.images) - len(files)
        if outside:
            skipped += f'{", " if skipped else ""}{outside} images outside of the classes'
        logging.info(
            '%s: %s images of %s classes%s',
            directory,
            f'{len(files):,}',
            f'{len(self.class_names):,}',
            f'; skipped: {skipped}' if skipped else '',
        )


class _Examples:
    """The encoded images of chosen files; the files are read when they are asked for."""

    def __init__(self, root: Path, files: list[str], labels: np.ndarray):
        self._root, self._files, self._labels = root, files, labels

    def __len__(self) -> int:
        return len(self._files)

    def fingerprint(self) -> str:
        """Another one where names, labels, sizes or times of the files are; none is read."""
        digest = hashlib.sha256(self._labels.tobytes())
        for file in self._files:
            found = Path(self._root, file).stat()
            digest.update(os.fsencode(f'{file} {found.st_size} {found.st_mtime_ns}\n'))
        return digest.hexdigest()

    def __getitem__(self, number: int) -> dict[str, Any]:
        file = self._files[number]
        try:
            image = Path(self._root, file).read_bytes()
        except PermissionError as error:  # of this file for good: like one that is damaged
            raise UndecodableImage(f'{listing.printable(file)} may not be read') from error
        except OSError as error:  # storage that is away: another run would find other images
            raise UserError(f'{self._root}/{file} cannot be read: {error.strerror}') from error
        return {'image': image, 'label': int(self._labels[number]), 'file': file}


def open_set(location: str, data_dir: str) -> Folder:
    """The folder of a path; one that is not absolute is below `data_dir`, if that is given.

    Raises:
      UserError: as `Folder`, or the path is of an object store.
    """
    path = os.path.join(os.path.expanduser(data_dir), os.path.expanduser(location))
    if '://' in path:
        raise UserError(
            f'a folder of images must be on a local disk; got {path}; write it as ArrayRecord with'
            ' scripts/prepare_data.py --folder, which can be read from anywhere'
        )
    return Folder(Path(path))


def _classes(directory: Path) -> list[str]:
    return listing.subdirectories(directory)


def _in_fixed_order(files: list[str], labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Files and labels by (rank of the name's hash in its class + 1/2) / images of the class.

    This order depends on nothing but the names. Every prefix has the whole's share of each class.
    """
    digests = [hashlib.blake2b(os.fsencode(file), digest_size=8).digest() for file in files]
    hashes = np.frombuffer(b''.join(digests), '>u8')
    by_class = np.lexsort((hashes, labels))
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(files), np.int64)
    rank[by_class] = np.arange(len(files)) - first[labels[by_class]]
    order = np.lexsort((hashes, (rank + 0.5) / counts[labels]))
    return [files[i] for i in order], labels[order]


def _boundary(text: str, count: int, split: str) -> int:
    """The place in 0..count of one side of a slice: '80%', '1000' or, from the end, '-1000'."""
    place = round(count * int(text[:-1]) / 100) if text.endswith('%') else int(text)
    place += count if text.startswith('-') else 0
    if not 0 <= place <= count:
        raise UserError(f'{split!r} asks for more than the {count:,} images that there are')
    return place
