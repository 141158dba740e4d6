"""Deterministic input: TFDS data sources through Grain to batches of images in [-1, 1].

A batch is {'image': float32 [B, H, W, C], 'condition': int32 [B]}, a class id per image. Which
examples batch n holds, and which of them are flipped, follows from the seed and n alone: not from
workers, restarts, or the number of processes.
"""

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from cfg_jax.data import images, sources
from cfg_jax.errors import UserError

Batch = dict[str, np.ndarray]

_NAMED = 32  # examples that a report names


class TrainingBatches(Iterator[Batch]):
    """Endless shuffled batches of this process's share of the data.

    Row i of process p is row p + i * process_count of the global batch.

    Raises:
      UserError: as `datasets.data_source`, or if the batch does not divide over processes.
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
        source = sources.data_source(data, data.split)
        dataset = _order(grain.MapDataset.source(source), seed)
        # The same order of the examples' numbers: to say which examples a batch holds.
        self._numbers = _order(grain.MapDataset.range(len(source)), seed)
        self._global_batch = batch_size
        if data.random_crop:
            smallest = data.random_crop
            dataset = dataset.random_map(_decoder(data, functools.partial(random_square, smallest)))
        else:
            dataset = dataset.map(_decoder(data))
        if data.flip:
            dataset = dataset.random_map(_flip)
        # Sliced last, so that an example is flipped alike whatever the number of processes; what
        # the slice leaves out is never decoded.
        self._dataset = dataset[process_index::process_count].batch(batch_size // process_count)
        self._num_workers = data.num_workers
        self._iterator: Any = None
        self.set_state({'next_batch': 0})

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Position in the stream; JSON."""
        return {'next_batch': self._next_batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues at a position that `get_state` returned, in this or another process."""
        self.close()
        self._next_batch = state['next_batch']
        # Random access lets the stream start anywhere, so its state is one number, whatever the
        # number of workers is before and after.
        remaining = self._dataset[self._next_batch :].to_iter_dataset()
        remaining = _with_workers(remaining, self._num_workers)
        self._iterator = iter(remaining)

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
            self._iterator: Any = None


def _order(dataset: grain.MapDataset, seed: int) -> grain.MapDataset:
    """Shuffled anew in every epoch, without end."""
    return dataset.seed(seed).shuffle().repeat()


def one_epoch(data: ConfigDict, split: str, batch_size: int, start: int = 0) -> Iterator[Batch]:
    """Every example of `split` from number `start` on, once, in order, without flips.

    The last batch may be smaller.
    """
    source = sources.data_source(data, split)
    dataset = grain.MapDataset.source(source)[start:].map(_decoder(data)).batch(batch_size)
    return iter(_with_workers(dataset.to_iter_dataset(), data.num_workers))


def _with_workers(dataset: grain.IterDataset, num_workers: int) -> grain.IterDataset:
    """Decodes in worker processes; the order stays. 0 decodes in this process."""
    if not num_workers:
        return dataset
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags of Grain's own
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))


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
    """
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(opened.convert('L' if channels == 1 else 'RGB'))
    pixels = pixels.reshape(*pixels.shape[:2], channels)
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
    side = round(min(height, width) * rng.uniform(smallest, 1.0))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return pixels[top : top + side, left : left + side]


def area_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """[S, S, C] -> float32 [size, size, C]: the mean over each output pixel's footprint.

    Source pixels that a footprint covers in part count in part, as in TensorFlow's `area` method.
    """
    if pixels.shape[0] == size:
        return pixels.astype(np.float32)
    weights = _area_weights(pixels.shape[0], size)  # [size, S]
    return np.einsum(
        'iy,jx,yxc->ijc', weights, weights, pixels.astype(np.float32), optimize=True
    ).astype(np.float32)


@functools.lru_cache(maxsize=1024)
def _area_weights(source: int, target: int) -> np.ndarray:
    """weights[i, y] = share of output pixel i's footprint that source pixel y covers."""
    edges = np.linspace(0.0, source, target + 1)
    low, high = edges[:-1, None], edges[1:, None]  # [target, 1]
    y = np.arange(source)[None, :]
    overlap = np.clip(np.minimum(high, y + 1) - np.maximum(low, y), 0.0, None)
    return (overlap / (high - low)).astype(np.float32)


def _decoder(data: ConfigDict, crop: Callable[..., np.ndarray] | None = None) -> Callable:
    """example -> batch row; with a random `crop`, (example, rng) -> batch row."""
    return functools.partial(
        _decode_example,
        crop=crop,
        size=data.image_size,
        channels=data.channels,
        num_classes=data.num_classes,
        name=data.name,
    )


def _decode_example(
    example: dict[str, Any],
    rng: np.random.Generator | None = None,
    *,
    size: int,
    channels: int,
    num_classes: int,
    name: str,
    crop: Callable[..., np.ndarray] | None,
) -> Batch:
    label = int(example['label'])
    if not 0 <= label < num_classes:
        raise UserError(
            f'{name!r} holds the label {label}, outside 0..{num_classes - 1}; is this a test split'
            ' without labels?'
        )
    if crop is not None:
        crop = functools.partial(crop, rng=rng)
    image = decode(example['image'], size=size, channels=channels, crop=crop)
    return {'image': image, 'condition': np.asarray(label, np.int32)}


def _flip(example: Batch, rng: np.random.Generator) -> Batch:
    """Mirrors the image left to right with probability 1/2, per example and epoch."""
    if rng.random() < 0.5:
        return example | {'image': example['image'][:, ::-1]}
    return example
