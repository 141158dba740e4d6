"""Data sets written once as ArrayRecord: a folder's files as they are, or any set's images resized.

Resized copies are lossless, so that training decodes almost nothing.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
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
from cfg_jax.data import Examples, Source, imagenet, parts, reading, sources, tfds_sets, workers
from cfg_jax.data.preprocess import UndecodableImage
from cfg_jax.data.reading import BadExample, Example, Reader
from cfg_jax.errors import UserError

_CHUNK = 64  # examples that a worker hands over at once; divides parts.EXAMPLES
_NAMED = 5  # bad examples that get a line each


class _Copy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder of another set's examples; it lies in OUT/KIND/NAME/1.0.0.

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
            description=f'{self.__doc__} {self.made_from()}',
            features=features,
            disable_shuffling=True,  # the same batches as training on the original
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(split) for name, split in self._splits.items()}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Example]]:
        number = 0
        counts = np.zeros(self.info.features['label'].num_classes, np.int64)
        for example in self._made(split):
            if isinstance(example, BadExample):
                self.left_out += 1
                if self.left_out <= _NAMED:
                    logging.warning('%s %s: %s; left out', self._data.name, split, example)
                continue
            counts[example['label']] += 1
            yield number, example
            number += 1
        if not number:
            raise UserError(f'no image of {self._data.name!r}, split {split!r}, can be decoded')
        self._report(split, counts)

    def _made(self, split: str) -> Iterator[Example | BadExample]:
        """Every example of a split of the set: what an earlier call has made, then the rest."""
        reader = Reader(self._data, split)
        kept, number = self.parts(), 0
        with tqdm(total=len(reader), desc=split, unit=' images', disable=None) as progress:
            for part in kept.saved(split):
                number += 1
                progress.update(len(part))
                yield from part
            if number:
                done = min(number * parts.EXAMPLES, len(reader))
                logging.info(f'{split}: {done:,} of {len(reader):,} images were made before')
            left = grain.MapDataset.range(number * parts.EXAMPLES, len(reader))
            if not len(left):
                return
            chunks = workers.WorkerIterator(
                left.map(self._maker(reader)).batch(_CHUNK, batch_fn=list), self._data.num_workers
            )
            with contextlib.closing(chunks):
                part = []
                for chunk in chunks:
                    part += chunk
                    progress.update(len(chunk))
                    if len(part) == parts.EXAMPLES:
                        kept.save(split, number, part)
                        number += 1
                        yield from part
                        part = []
                yield from part

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


class Resized(_Copy, skip_registration=True):
    """Central square, area resize, rounded to 8 bits, as PNG."""

    RELEASE_NOTES: ClassVar = {'1.0.0': 'Central square, area resize, rounded to 8 bits.'}

    def _image_shape(self) -> tuple[int | None, int | None, int]:
        return (self._data.image_size, self._data.image_size, self._data.channels)

    def _maker(self, reader: Reader) -> Any:
        return functools.partial(_resized, reader)


class Folder(_Copy, skip_registration=True):
    """Image files as they were, those left out that cannot be decoded."""

    RELEASE_NOTES: ClassVar = {'1.0.0': 'The files as they were.'}

    def _image_shape(self) -> tuple[int | None, int | None, int]:
        return (None, None, self._data.channels)

    def _maker(self, reader: Reader) -> Any:
        return functools.partial(_unchanged, reader)


def resize(
    name: str, data_dir: str, size: int, out: str, num_workers: int = 0, validation: float = 0.0
) -> str:
    """Writes a resized copy of a data set; returns a sentence that says where it lies.

    Args:
      name, data_dir: as in a config's `data`.
      size: side of the images.
      out: a TFDS directory for the copy.
      num_workers: processes that decode.
      validation: the share of a set with one split that becomes the split 'validation'.

    Raises:
      UserError: the set is not there, has no labelled images, or `out` holds another copy.
    """
    if size < 1:
        raise UserError(f'--resize is a side in pixels, at least 1; got {size}')
    source = sources.open_source(name, data_dir)
    data = _group(name, data_dir, source, size, num_workers)
    splits = _splits(data, source, validation)
    builder = Resized(f'{source.name}_{size}', source.name, data, splits, out)
    return _write(builder, f'{name} at {size} pixels')


def copy_folder(path: str, out: str, num_workers: int = 0, validation: float = 0.0) -> str:
    """Writes a folder's image files as ArrayRecord; returns a sentence that says where they lie.

    Args:
      path: see `folder`.
      out, num_workers, validation, errors: as of `resize`.
    """
    name = f'folder:{path}'
    source = sources.open_source(name)
    data = _group(name, '', source, 1, num_workers)
    splits = _splits(data, source, validation)
    return _write(Folder(source.name, source.name, data, splits, out), path)


def _group(name: str, data_dir: str, source: Source, size: int, num_workers: int) -> ConfigDict:
    return ConfigDict(
        {
            'name': name,
            'data_dir': data_dir,
            'image_size': size,
            'channels': source.channels,
            'num_classes': len(source.class_names),
            'num_workers': num_workers,
            'max_bad_examples': 0,
        }
    )


def _splits(data: ConfigDict, source: Source, validation: float) -> dict[str, str]:
    """The copy's splits; one without labels, as ImageNet's test split, cannot be trained on."""
    if not 0.0 <= validation < 1.0:
        raise UserError(f'--validation is a share of at least 0 and below 1; got {validation:g}')
    if len(source.splits) > 1 or not validation:
        labelled = [split for split in source.splits if _is_labelled(source.examples(split))]
        return {split: split for split in labelled}
    (split,) = source.splits
    total = len(sources.data_source(data, split))
    count = max(1, round(validation * total))
    if count >= total:
        raise UserError(f'--validation={validation:g} leaves none of {total} images to train on')
    return {split: f'{split}[{count}:]', 'validation': f'{split}[:{count}]'}


def _is_labelled(examples: Examples) -> bool:
    try:
        return len(examples) > 0 and examples[0]['label'] >= 0
    except UndecodableImage:
        return True  # a file of a folder, in a directory of its class


def _identity(examples: Examples) -> bytes:
    """The examples' own fingerprint, or some of them."""
    if hasattr(examples, 'fingerprint'):
        return examples.fingerprint().encode()
    last = len(examples) - 1
    chosen = [examples[number] for number in (*range(0, last, parts.EXAMPLES), last)]
    return b''.join(f'{reading.file_of(e)} {e["label"]}'.encode() + e['image'] for e in chosen)


def _write(builder: _Copy, what: str) -> str:
    directory = epath.Path(builder.data_path)
    advice = (
        f'train on it with --config.data.name={directory}'
        f' --config.data.num_classes={builder.info.features["label"].num_classes}'
    )
    if builder.is_prepared():
        found = json.loads((directory / 'dataset_info.json').read_text()).get('description', '')
        if 'Made from' in found and builder.made_from() not in found:
            raise UserError(
                f'{directory} holds another copy ({found[found.index("Made from") :]}); remove it'
                ' or give another --out'
            )
        return f'{what} is already in {directory}; {advice}'
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of a download
        tfds_sets.prepare(builder)
    builder.parts().remove()
    for left in directory.parent.glob(f'incomplete.*_{directory.name}'):  # as TFDS calls it
        logging.warning(
            f'{left} was left by a run that was killed, if none is under way; remove it then'
        )
    left_out = f', {builder.left_out} bad examples left out' if builder.left_out else ''
    counts = ', '.join(f'{n} {s.num_examples:,}' for n, s in builder.info.splits.items())
    return f'{what} is in {directory} ({counts}{left_out}); {advice}'


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


def _copied(example: Example, image: bytes) -> Example:
    return {'image': image, 'label': int(example['label']), 'file': reading.file_of(example)}
