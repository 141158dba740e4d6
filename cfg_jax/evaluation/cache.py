"""The work of a sweep, cut into files: features of a range of image numbers at one w.

A finished shard is never computed again, so a killed sweep goes on where it was.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import (
    files,
    generation,
    trained,
)
from cfg_jax.data import images
from cfg_jax.distributed import devices
from cfg_jax.distributed.preemption import Preemption
from cfg_jax.errors import Preempted
from cfg_jax.evaluation import image_sets
from cfg_jax.metrics.features import (
    FeatureExtractor,
    Features,
    extraction,
)
from cfg_jax.rules import network_passes
from cfg_jax.training import writers

_REPORT_SECONDS = 10.0

Report = Callable[[str], None]


class Samples(NamedTuple):
    """What is kept of the samples of one w and seed."""

    features: Features  # NumPy arrays, in the order of image numbers
    labels: np.ndarray  # int32 [N]


class _Shard(NamedTuple):
    w: float
    seed: int
    start: int
    stop: int

    def path(self, directory: epath.Path, kind: str) -> epath.Path:
        return directory / f'w_{self.w!r}_seed_{self.seed}_images_{self.start:07d}{kind}.npz'


class Shards:
    """Features of the samples of each w, computed shard by shard and read back.

    With many processes each computes its share of the shards; all read them.

    Args:
      model: generates.
      directory: where the shards lie.
      extractor: makes the features, on the device: images leave it only for `save_images`.
      report: receives lines of progress.
    """

    def __init__(
        self,
        model: trained.Model,
        directory: epath.Path,
        extractor: FeatureExtractor,
        report: Report,
    ):
        self._model, self._directory, self._report = model, directory, report
        self._config = config = model.config
        self._params = jax.device_put(extractor.params, devices.replicated())
        self._extract = extraction.make_extract(extractor)
        every = [
            s for w in weights(config) for seed in seeds(config) for s in self._shards(w, seed)
        ]
        # By number, not by what is missing: while others write, processes would not see the same.
        share = every[jax.process_index() :: jax.process_count()]
        self._missing = [shard for shard in share if not self._done(shard)]
        passes = sum(network_passes(s.w) * (s.stop - s.start) for s in self._missing)
        self._progress = writers.Progress(passes)
        self._passes_done = 0
        self._last_report = time.monotonic()

    def compute(self) -> None:
        """Computes this process's missing shards.

        Raises:
          Preempted: SIGTERM came; finished shards are kept.
        """
        with Preemption() as preemption:
            for shard in self._missing:
                self._compute(shard, preemption)

    def collect(self, w: float, seed: int) -> Samples:
        """All samples at guidance weight `w` from `seed`, which every process has computed."""
        parts, labels = [], []
        for shard in self._shards(w, seed):
            arrays = files.read_npz(shard.path(self._directory, ''))
            labels.append(arrays.pop('labels'))
            parts.append(Features(**arrays))
        return Samples(extraction.concatenate(parts), np.concatenate(labels))

    def save_images(self, w: float, seed: int, path: epath.Path) -> None:
        """Writes the samples of `w` and `seed`, computed by `collect`, as an ADM batch."""
        data, count = self._config.data, self._config.sweep.num_samples
        paths = [shard.path(self._directory, '_pixels') for shard in self._shards(w, seed)]
        shape = (count, data.image_size, data.image_size, data.channels)
        image_sets.save_batch(path, shape, (files.read_npz(part)['images'] for part in paths))

    def _shards(self, w: float, seed: int) -> list[_Shard]:
        size, count = self._config.sweep.shard_size, self._config.sweep.num_samples
        return [_Shard(w, seed, s, min(s + size, count)) for s in range(0, count, size)]

    def _done(self, shard: _Shard) -> bool:
        kinds = ('', '_pixels') if self._config.sweep.save_samples else ('',)
        return all(shard.path(self._directory, kind).exists() for kind in kinds)

    def _compute(self, shard: _Shard, preemption: Preemption) -> None:
        batch_size = min(self._config.sweep.batch_size, self._config.sweep.shard_size)
        parts, waiting = [], None
        # Drawn before the first batch: later they would wait for the devices behind it.
        all_labels = self._labels(shard.seed, np.arange(shard.start, shard.stop + batch_size))
        for first in range(shard.start, shard.stop, batch_size):
            if preemption.asked():
                raise Preempted('stopped on request; finished shards are kept')
            # The last batch keeps its size, so that nothing is compiled twice; what lies past the
            # end is dropped. A batch is fetched while the devices work on the next one.
            indices = np.arange(first, first + batch_size)
            labels = all_labels[indices - shard.start]
            x = images.to_uint8(self._model.generate(shard.seed, indices, labels, shard.w))
            count = min(shard.stop - first, batch_size)
            dispatched = self._extract(self._params, x), self._pixels(x), labels, count
            if waiting is not None:
                parts.append(_fetch(*waiting))
                self._tell(shard, first, batch_size)
            waiting = dispatched
        parts.append(_fetch(*waiting))
        self._tell(shard, shard.stop, waiting[-1])
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        if 'images' in arrays:
            pixels = shard.path(self._directory, '_pixels')
            files.write_npz(pixels, {'images': arrays.pop('images')})
        files.write_npz(shard.path(self._directory, ''), arrays)

    def _pixels(self, x: jax.Array) -> jax.Array | None:
        return x if self._config.sweep.save_samples else None

    def _labels(self, seed: int, indices: np.ndarray) -> np.ndarray:
        rule, num_classes = self._config.sweep.labels, self._config.data.num_classes
        return np.asarray(generation.image_labels(seed, indices, num_classes, rule), np.int32)

    def _tell(self, shard: _Shard, done: int, new: int) -> None:
        """Notes `new` more images, `done` at this w; a line at a shard's end or every 10 s."""
        self._passes_done += new * network_passes(shard.w)
        if done < shard.stop and time.monotonic() - self._last_report < _REPORT_SECONDS:
            return
        self._last_report = time.monotonic()
        rate = self._progress.update(self._passes_done) / network_passes(shard.w)
        left = writers.format_duration(self._progress.seconds_left())
        several = f'  seed {shard.seed}' if self._config.sweep.repeats > 1 else ''
        self._report(
            f'w={shard.w:g}{several}  {done}/{self._config.sweep.num_samples} images'
            f'  {rate:,.0f} images/s  {left} left'
        )


def weights(config: ConfigDict) -> list[float]:
    """The guidance weights of a sweep."""
    return [float(w) for w in config.sweep.w]


def seeds(config: ConfigDict) -> list[int]:
    """The seeds of a sweep's sets of samples."""
    return [config.sweep.seed + repeat for repeat in range(config.sweep.repeats)]


def _fetch(
    features: Features, pixels: jax.Array | None, labels: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    arrays = extraction.fetch(features, count)._asdict() | {'labels': labels[:count]}
    if pixels is not None:
        arrays['images'] = np.asarray(pixels)[:count]
    return {key: value for key, value in arrays.items() if value is not None}
