"""Examples by number, decoded; what cannot be decoded is replaced, counted and reported."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from cfg_jax.data import listing, preprocess, sources
from cfg_jax.errors import UserError

Batch = dict[str, np.ndarray]
Example = dict[str, Any]  # see `data.Source`

_NAMED = 5  # bad examples that get a line each
_FILE_FEATURES = ('file', 'file_name', 'filename', 'image/filename')


class BadExample(NamedTuple):
    """An example that cannot be decoded: its number in the split, its file if known, and why."""

    number: int
    file: str
    reason: str

    def __str__(self) -> str:
        file = f' ({self.file})' if self.file else ''
        return f'example {self.number}{file} cannot be decoded: {self.reason}'


class Reader:
    """Examples of a split by number, for whichever thread or process asks; picklable.

    Args:
      data: the config's `data` group.
      split: of the data set.
      crop: (pixels, rng) -> square, in the place of the central square.

    Raises:
      UserError: as `sources.data_source`.
    """

    def __init__(
        self,
        data: ConfigDict,
        split: str,
        crop: Callable[..., np.ndarray] | None = None,
    ):
        self._examples = sources.data_source(data, split)
        self._set = f'{data.name!r}, split {split!r}'
        self._name = data.name
        self._size, self._channels = data.image_size, data.channels
        self._num_classes, self._max_bad = data.num_classes, data.max_bad_examples
        self._crop = crop

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, number: int, rng: Any = None) -> tuple[Example, Batch] | BadExample:
        """The example as its source gives it, and decoded, if it can be.

        The latter is {'image': float32 [S, S, C] in [-1, 1], 'condition': int32}.

        Raises:
          UserError: its label is not in the range of the config's classes, or as the source.
        """
        try:
            example = self._examples[number]
        except preprocess.UndecodableImage as error:
            return BadExample(number, '', str(error))
        label = int(example['label'])
        if not 0 <= label < self._num_classes:
            raise UserError(
                f'{self._name!r} holds the label {label}, outside 0..{self._num_classes - 1}; is'
                ' this a test split without labels?'
            )
        crop = None if self._crop is None else functools.partial(self._crop, rng=rng)
        try:
            image = preprocess.decode(
                example['image'], size=self._size, channels=self._channels, crop=crop
            )
        except preprocess.UndecodableImage as error:
            return BadExample(number, file_of(example), str(error))
        return example, {'image': image, 'condition': np.asarray(label, np.int32)}

    def row(
        self, number: int, rng: np.random.Generator | None = None
    ) -> tuple[Batch, tuple[BadExample, ...]]:
        """The example decoded, or else the next in the data set that can be decoded.

        Which one follows from the number alone, so that the order of batches depends on neither
        restarts nor workers. The second value is what was passed over.

        Raises:
          UserError: more than `data.max_bad_examples` have to be passed over; or as `read`.
        """
        bad: list[BadExample] = []
        while True:
            at = (number + len(bad)) % len(self)
            found = self.read(at, rng)
            if not isinstance(found, BadExample):
                return found[1], tuple(bad)
            bad.append(found)
            if len(bad) > self._max_bad or len(bad) == len(self):
                raise UserError(too_many(self._set, bad, self._max_bad))


class BadExamples:
    """The bad examples that one process came upon: each counted once, the first ones reported."""

    def __init__(self, data: ConfigDict, split: str):
        self._set = f'{data.name!r}, split {split!r}'
        self._limit = data.max_bad_examples
        self._found: dict[int, BadExample] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, found: Iterable[BadExample]) -> None:
        """Counts those that are new.

        Raises:
          UserError: they are more than `data.max_bad_examples`.
        """
        for bad in found:
            if bad.number in self._found:
                continue
            self._found[bad.number] = bad
            count = len(self._found)
            if count > self._limit:
                raise UserError(too_many(self._set, list(self._found.values()), self._limit))
            if count <= _NAMED:
                logging.warning(
                    '%s: %s; the next takes its place (%d of at most %d bad examples)',
                    self._set,
                    bad,
                    count,
                    self._limit,
                )
            elif count == self._limit or not count & (count - 1):
                logging.warning('%s: %d bad examples replaced so far', self._set, count)


def too_many(name: str, bad: list[BadExample], limit: int) -> str:
    """The sentence with which a run ends that finds more bad examples than it may."""
    if not limit:
        return (
            f'{name}: {bad[-1]}; repair or remove it, or let a few be replaced with'
            ' --config.data.max_bad_examples=10'
        )
    return (
        f'{name}: {len(bad)} examples cannot be decoded, and data.max_bad_examples={limit}; the'
        f' last is {bad[-1].number}{f" ({bad[-1].file})" if bad[-1].file else ""}:'
        f' {bad[-1].reason}'
    )


def file_of(example: Example) -> str:
    """The file that an example came from, where its data set says so; else ''."""
    for feature in _FILE_FEATURES:
        file = example.get(feature)
        if isinstance(file, bytes):
            file = file.decode('utf-8', 'backslashreplace')
        if file and isinstance(file, str):
            return listing.printable(file)
    return ''
