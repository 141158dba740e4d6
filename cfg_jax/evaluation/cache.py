"""Cache of a sweep: features of the samples at each w, in files that hold a range of images each.

A finished file is never computed again, so a killed sweep continues where it was.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files, progress
from cfg_jax.conditioning import Condition
from cfg_jax.data import images
from cfg_jax.distributed import devices
from cfg_jax.distributed.preemption import Preemption
from cfg_jax.errors import Preempted
from cfg_jax.evaluation import image_sets
from cfg_jax.inference import Generated, Model
from cfg_jax.metrics.features import FeatureExtractor, Features, extraction


class Samples(NamedTuple):
    """What is kept of the samples of one w and seed.

    Attributes:
      features: NumPy arrays, in the order of image numbers.
      condition: of the images, [N, ...].
      nfe: evaluations of networks that an image took; 0 if an earlier edition did not record it.
      not_finite: images with a value that is not finite, before rounding to uint8.
    """

    features: Features
    condition: np.ndarray
    nfe: int = 0
    not_finite: int = 0


class _Part(NamedTuple):
    w: float
    seed: int
    start: int
    stop: int

    def path(self, directory: epath.Path, kind: str) -> epath.Path:
        return directory / f'w_{self.w!r}_seed_{self.seed}_images_{self.start:07d}{kind}.npz'


class SampleCache:
    """Features of the samples of each w, computed part by part and read back.

    With many processes each computes its share of the parts; all read them.

    Args:
      model: generates.
      directory: where the files lie.
      extractor: makes the features, on the device: images leave it only for `save_images`.
    """

    def __init__(self, model: Model, directory: epath.Path, extractor: FeatureExtractor):
        self._model, self._directory = model, directory
        self._config = config = model.config
        self._params = jax.device_put(extractor.params, devices.replicated())
        self._extract = extraction.make_extract(extractor)
        every = [p for w in weights(config) for seed in seeds(config) for p in self._parts(w, seed)]
        # By number, not by what is missing: while others write, processes would not see the same.
        share = every[jax.process_index() :: jax.process_count()]
        self._missing = [part for part in share if not self._sound(part)]

    def compute(self, w: float | None = None) -> None:
        """Computes this process's missing parts, of all weights or of one.

        Raises:
          Preempted: SIGTERM came; finished parts are kept.
        """
        missing = [part for part in self._missing if w in (None, part.w)]
        total = sum(part.stop - part.start for part in missing)
        batch_size = min(self._config.sweep.batch_size, self._config.sweep.shard_size)
        with Preemption() as preemption, progress.bar(total, 'images') as bar:
            for part in missing:
                bar.set_description_str(f'w = {part.w:g}: ')
                batches: list[dict[str, Any]] = []
                waiting: list[tuple[dict[str, Any], int]] = []
                # Drawn before the first batch: later they would wait for the devices behind it.
                drawn = self._draw(part.seed, np.arange(part.start, part.stop + batch_size))
                for first in range(part.start, part.stop, batch_size):
                    if preemption.asked():
                        raise Preempted('stopped on request; finished samples are kept')
                    # The last batch keeps its size, so that nothing is compiled twice; what lies
                    # past the end is dropped.
                    indices = np.arange(first, first + batch_size)
                    condition = _rows(drawn, indices - part.start)
                    generated = self._model.generate(part.seed, indices, condition, part.w)
                    waiting.append((self._dispatch(generated, condition), part.stop - first))
                    # A batch is fetched while the devices work on the next one.
                    if len(waiting) > 1:
                        batches.append(_fetch(*waiting.pop(0)))
                        bar.update(batch_size)
                batches.append(_fetch(*waiting.pop()))
                bar.update(len(batches[-1]['nfe']))
                self._write(part, batches)

    def holds(self, w: float) -> bool:
        """Whether the features of all samples at `w` are there."""
        return all(self._done(p) for seed in seeds(self._config) for p in self._parts(w, seed))

    def collect(self, w: float, seed: int) -> Samples:
        """All samples at guidance weight `w` from `seed`, which every process has computed."""
        parts, conditions, nfe, not_finite = [], [], 0, 0
        for part in self._parts(w, seed):
            arrays = files.read_npz(part.path(self._directory, ''))
            # Named 'labels' by the first edition.
            conditions.append(arrays.pop('condition', arrays.pop('labels', None)))
            nfe = int(np.max(arrays.pop('nfe', 0)))
            not_finite += int(np.sum(~arrays.pop('finite', np.ones(1, bool))))
            parts.append(Features(**arrays))
        features = extraction.concatenate(parts)
        return Samples(features, np.concatenate(conditions), nfe, not_finite)

    def save_images(self, w: float, seed: int, path: epath.Path) -> None:
        """Writes the samples of `w` and `seed`, computed by `collect`, as an ADM batch."""
        data, count = self._config.data, self._config.sweep.num_samples
        paths = [part.path(self._directory, '_pixels') for part in self._parts(w, seed)]
        shape = (count, data.image_size, data.image_size, data.channels)
        image_sets.save_batch(path, shape, (files.read_npz(part)['images'] for part in paths))

    def _parts(self, w: float, seed: int) -> list[_Part]:
        size, count = self._config.sweep.shard_size, self._config.sweep.num_samples
        return [_Part(w, seed, s, min(s + size, count)) for s in range(0, count, size)]

    def _done(self, part: _Part) -> bool:
        return all(part.path(self._directory, kind).exists() for kind in self._kinds())

    def _kinds(self) -> tuple[str, ...]:
        return ('', '_pixels') if self._config.sweep.save_samples else ('',)

    def _sound(self, part: _Part) -> bool:
        """Whether a part's files are there and readable; damaged ones are set aside."""
        return self._done(part) and all(
            files.read_or_set_aside(part.path(self._directory, kind), files.read_npz) is not None
            for kind in self._kinds()
        )

    def _draw(self, seed: int, indices: np.ndarray) -> Condition:
        return self._model.draw_conditions(seed, indices, self._config.sweep.labels)

    def _dispatch(self, generated: Generated, condition: Condition) -> dict[str, Any]:
        x = images.to_uint8(generated.x, self._config.sweep.rounding)
        arrays = self._extract(self._params, x)._asdict() | {
            'condition': condition,
            'nfe': generated.nfe,
            'finite': jnp.isfinite(generated.x).all(axis=(1, 2, 3)),
        }
        if self._config.sweep.save_samples:
            arrays['images'] = x
        return {key: value for key, value in arrays.items() if value is not None}

    def _write(self, part: _Part, batches: Sequence[dict[str, np.ndarray]]) -> None:
        arrays = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        if 'images' in arrays:
            pixels = part.path(self._directory, '_pixels')
            files.write_npz(pixels, {'images': arrays.pop('images')})
        files.write_npz(part.path(self._directory, ''), arrays)


def weights(config: ConfigDict) -> list[float]:
    """The guidance weights of a sweep, each once; -0.0 is 0."""
    return list(dict.fromkeys(float(w) + 0.0 for w in config.sweep.w))


def seeds(config: ConfigDict) -> list[int]:
    """The seeds of a sweep's sets of samples."""
    return [config.sweep.seed + repeat for repeat in range(config.sweep.repeats)]


def _rows(tree: Condition, rows: np.ndarray) -> Condition:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _fetch(arrays: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    """The first `count` rows of each array, on the host."""
    return {key: np.asarray(value)[:count] for key, value in arrays.items()}
