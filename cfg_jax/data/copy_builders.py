"""TFDS builders of copies: another set's examples, resized or as they are, in shards of `parts`."""

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from cfg_jax import files
from cfg_jax.data import Examples, imagenet, parts, reading, sources, workers
from cfg_jax.data.reading import BadExample, Example, Reader
from cfg_jax.errors import UserError

_CHUNK = 64  # examples that a worker hands over at once; divides parts.EXAMPLES
_NAMED = 5  # bad examples that get a line each


class Copy(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A TFDS builder of another set's examples; it lies in OUT/KIND/NAME/1.0.0.

    A shard is what one of `parts` holds: the memory that is needed does not grow with the set.

    Args:
      name: of the copy.
      original: the set's name.
      data: a config's `data` group: the set, its directory, `image_size` and `channels`.
      splits: of the copy, each with the split or slice of the set that it holds.
      out: a TFDS directory.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(
        self, name: str, original: str, data: ConfigDict, splits: Mapping[str, str], out: str
    ):
        self._original, self._data, self._splits = original, data, dict(splits)
        self.left_out = 0
        super().__init__(
            data_dir=os.fspath(files.as_path(out)) if out else None,
            config=tfds.core.BuilderConfig(name=name, version=self.VERSION),
        )
        self._place = epath.Path(self.data_path)  # while it is written, TFDS gives another one

    def made_from(self) -> str:
        """What the copy was made from; in its description."""
        return f'Made from {self._data.name}: {self._splits}.'

    def state(self) -> str:
        """As what the set was found when the copy was made; in its description."""
        return f'State {self._original_hash}.'

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=self._image_shape()),
                'label': tfds.features.ClassLabel(names=sources.class_names(self._data)),
                'file': tfds.features.Text(),  # where the image comes from, if that is known
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'{self.__doc__} {self.made_from()} {self.state()}',
            features=features,
            disable_shuffling=True,  # the same batches as training on the original
        )

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {name: self._shards(split) for name, split in self._splits.items()}

    def _shards(self, split: str) -> list[Callable[[], Iterator[tuple[int, Example]]]]:
        """Makes all parts of a split; returns what yields the examples of each shard."""
        shards, begin = [], 0
        counts = np.zeros(self.info.features['label'].num_classes, np.int64)
        for number, part in enumerate(self._made(split)):
            good = _good(part)
            for bad in part:
                if isinstance(bad, BadExample):
                    self.left_out += 1
                    if self.left_out <= _NAMED:
                        logging.warning('%s %s: %s; left out', self._data.name, split, bad)
            np.add.at(counts, [example['label'] for example in good], 1)
            if good:
                shards.append(functools.partial(self._shard, split, number, begin))
                begin += len(good)
        if not shards:
            raise UserError(f'no image of {self._data.name!r}, split {split!r}, can be decoded')
        self._report(split, counts)
        return shards

    def _shard(self, split: str, number: int, begin: int) -> Iterator[tuple[int, Example]]:
        yield from enumerate(_good(self.parts().part(split, number)), begin)

    def _made(self, split: str) -> Iterator[list[Example | BadExample]]:
        """Every part of a split of the set: what an earlier call has made, then the rest."""
        reader = Reader(self._data, split)
        kept, number, done = self.parts(), 0, 0
        with tqdm(total=len(reader), desc=split, unit=' images', disable=None) as progress:
            for part in kept.saved(split):
                number, done = number + 1, done + len(part)
                progress.update(len(part))
                yield part
            if done:
                logging.info(f'{split}: {done:,} of {len(reader):,} images were made before')
            left = grain.MapDataset.range(done, len(reader))
            if not len(left):
                return
            chunks = workers.WorkerIterator(
                left.map(self._maker(reader)).batch(_CHUNK, batch_fn=list), self._data.num_workers
            )
            with contextlib.closing(chunks):
                part = []
                for chunk in chunks:
                    part += chunk
                    done += len(chunk)
                    progress.update(len(chunk))
                    if parts.is_full(part) or done == len(reader):
                        kept.save(split, number, part)
                        yield part
                        number, part = number + 1, []

    def parts(self) -> parts.Parts:
        """Where the examples lie until the copy is written: beside it."""
        data = self._data
        what = f'{self.made_from()} {data.image_size} {data.channels} {self._original_hash}'
        return parts.Parts(self._place.with_name(f'{self._place.name}.parts'), what)

    @functools.cached_property
    def _original_hash(self) -> str:
        """Of the set's classes, of how many examples its splits have, and of a folder's files; of
        a prepared set, which nobody edits, of some examples."""
        digest = hashlib.sha256(json.dumps(list(sources.class_names(self._data))).encode())
        for split in self._splits.values():
            examples = sources.data_source(self._data, split)
            digest.update(f'{split} {len(examples)}'.encode())
            digest.update(_identity(examples))
        return digest.hexdigest()[:16]

    def _report(self, split: str, counts: np.ndarray) -> None:
        """How many images the classes have; a class without one, or less than all, is a warning."""
        logging.info(
            f'{split}: {counts.sum():,} images, {counts.min():,} to {counts.max():,} of each of'
            f' {len(counts)} classes'
        )
        if not counts.min():
            names = self.info.features['label'].names
            empty = [names[label] for label in np.flatnonzero(counts == 0)]
            logging.warning(
                f'{split}: {len(empty)} of {len(names)} classes have no image, such as {empty[0]}'
            )
        different = imagenet.difference(self._original, split, counts)
        if different:
            logging.warning(different)

    def _image_shape(self) -> tuple[int | None, int | None, int]:
        raise NotImplementedError

    def _maker(self, reader: Reader) -> Any:
        """number -> Example | BadExample, for worker processes."""
        raise NotImplementedError


class Resized(Copy, skip_registration=True):
    """Central square, area resize, rounded to 8 bits, as PNG."""

    RELEASE_NOTES: ClassVar = {'1.0.0': 'Central square, area resize, rounded to 8 bits.'}

    def _image_shape(self) -> tuple[int | None, int | None, int]:
        return (self._data.image_size, self._data.image_size, self._data.channels)

    def _maker(self, reader: Reader) -> Any:
        return functools.partial(_resized, reader)


class Folder(Copy, skip_registration=True):
    """Image files as they were, those left out that cannot be decoded."""

    RELEASE_NOTES: ClassVar = {'1.0.0': 'The files as they were.'}

    def _image_shape(self) -> tuple[int | None, int | None, int]:
        return (None, None, self._data.channels)

    def _maker(self, reader: Reader) -> Any:
        return functools.partial(_unchanged, reader)


def _identity(examples: Examples) -> bytes:
    """The examples' own fingerprint, or some of them."""
    if hasattr(examples, 'fingerprint'):
        return examples.fingerprint().encode()
    last = len(examples) - 1
    chosen = [examples[number] for number in (*range(0, last, parts.EXAMPLES), last)]
    return b''.join(f'{reading.file_of(e)} {e["label"]}'.encode() + e['image'] for e in chosen)


def _resized(reader: Reader, number: int) -> Example | BadExample:
    found = reader.read(number)
    if isinstance(found, BadExample):
        return found
    example, row = found
    # `images.to_uint8` in NumPy: workers must not start a device.
    levels = np.floor(row['image'] * np.float32(127.5) + np.float32(128.0))
    pixels = np.clip(levels, 0, 255).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, 'PNG')
    return _copied(example, png.getvalue())


def _unchanged(reader: Reader, number: int) -> Example | BadExample:
    found = reader.read(number)
    return found if isinstance(found, BadExample) else _copied(found[0], found[0]['image'])


def _good(part: Iterable[Example | BadExample]) -> list[Example]:
    return [example for example in part if not isinstance(example, BadExample)]


def _copied(example: Example, image: bytes) -> Example:
    return {'image': image, 'label': int(example['label']), 'file': reading.file_of(example)}
