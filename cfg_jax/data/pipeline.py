"""Deterministic input: data sources through Grain to batches of images in [-1, 1].

A batch is {'image': float32 [B, H, W, C], 'condition': int32 [B]}, a class id per image. Which
examples batch n holds, and which of them are flipped, follows from the seed and n alone: not from
workers, restarts, or the number of processes.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from cfg_jax.data import preprocess, reading, workers
from cfg_jax.data.reading import BadExample, Batch
from cfg_jax.errors import UserError

_NAMED = 32  # examples that a message names

_Row = tuple[Batch, tuple[BadExample, ...]]


class TrainingBatches(Iterator[Batch]):
    """Endless shuffled batches of this process's share of the data.

    Row i of process p is row p + i * process_count of the global batch.

    An example that cannot be decoded is replaced, see `reading.Reader.row`.

    Raises:
      UserError: as `sources.data_source`, or if the batch does not divide over processes; from
        `next`, more than `data.max_bad_examples` were found.
      WorkerDied: from `next`, a worker process was killed.
    """

    def __init__(
        self,
        data: ConfigDict,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if batch_size % process_count:
            raise UserError(
                f'train.batch_size={batch_size} is not divisible by {process_count} processes'
            )
        crop = None
        if data.random_crop:
            crop = functools.partial(preprocess.random_square, data.random_crop)
        reader = reading.Reader(data, data.split, crop)
        # The same order twice: to read the examples, and to say which of them a batch holds.
        self._count = len(reader)
        self._numbers = _order(grain.MapDataset.range(self._count), seed)
        dataset = _order(grain.MapDataset.range(len(reader)), seed)
        self._global_batch = batch_size
        dataset = dataset.random_map(reader.row) if crop else dataset.map(reader.row)
        if data.flip:
            dataset = dataset.random_map(_flip)
        # Sliced last, so that an example is flipped alike whatever the number of processes; what
        # the slice leaves out is never decoded.
        self._dataset = dataset[process_index::process_count].batch(
            batch_size // process_count, batch_fn=_stack
        )
        self._bad = reading.BadExamples(data, data.split)
        self._num_workers = data.num_workers
        self._iterator: workers.WorkerIterator[_Row] | None = None
        self.set_state({'next_batch': 0})

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise ValueError('the batches are closed')
        batch, bad = next(self._iterator)
        self._bad.add(bad)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Position in the stream; JSON."""
        return {'next_batch': self._next_batch, 'examples': self._count}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues at a position that `get_state` returned, in this or another process."""
        self.close()
        before = state.get('examples', self._count)
        if before != self._count:
            logging.warning(
                f'the data has {self._count:,} images and had {before:,} as the checkpoint was'
                ' written: they come in another order than they would have'
            )
        self._next_batch = state['next_batch']
        # Random access lets the stream start anywhere, so its state is one number, whatever the
        # number of workers is before and after.
        remaining = self._dataset[self._next_batch :]
        self._iterator = workers.WorkerIterator(remaining, self._num_workers)

    def bad_examples(self) -> int:
        """How many examples this process has replaced so far, each counted once."""
        return len(self._bad)

    def examples_of(self, batch: int) -> str:
        """The numbers, in the data set, of the examples of global batch `batch`, from 1."""
        start = (batch - 1) * self._global_batch
        numbers = [self._numbers[i] for i in range(start, start + min(self._global_batch, _NAMED))]
        rest = ', ...' if self._global_batch > _NAMED else ''
        return ', '.join(map(str, numbers)) + rest

    def close(self) -> None:
        """Stops the reading threads and worker processes."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _order(dataset: grain.MapDataset, seed: int) -> grain.MapDataset:
    """Shuffled again in every epoch, without end."""
    return dataset.seed(seed).shuffle().repeat()


def one_epoch(data: ConfigDict, split: str, batch_size: int, start: int = 0) -> Iterator[Batch]:
    """Every example of `split` from number `start` on, once, in order, without flips.

    The last batch may be smaller. Examples that cannot be decoded are replaced as in training.

    Raises:
      UserError, WorkerDied: as `TrainingBatches`.
    """
    reader = reading.Reader(data, split)
    numbers = grain.MapDataset.range(start, len(reader))
    dataset = numbers.map(reader.row).batch(batch_size, batch_fn=_stack)
    return _checked(
        workers.WorkerIterator(dataset, data.num_workers), reading.BadExamples(data, split)
    )


def _checked(batches: workers.WorkerIterator[_Row], found: reading.BadExamples) -> Iterator[Batch]:
    with contextlib.closing(batches):
        for batch, bad in batches:
            found.add(bad)
            yield batch


def _stack(rows: Sequence[_Row]) -> _Row:
    """Rows -> a batch, and the bad examples in whose place some of them stand."""
    batch = {key: np.stack([row[key] for row, _ in rows]) for key in rows[0][0]}
    return batch, tuple(bad for _, found in rows for bad in found)


def _flip(row: _Row, rng: np.random.Generator) -> _Row:
    """Mirrors the image left to right with probability 1/2, per example and epoch."""
    example, bad = row
    if rng.random() < 0.5:
        example = example | {'image': example['image'][:, ::-1]}
    return example, bad
