"""Rows of the real-images experiment: samples against the training and the validation split."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files
from cfg_jax.data import images, pipeline
from cfg_jax.errors import UserError
from cfg_jax.evaluation import (
    dataset_reference,
    differences,
    results as results_lib,
    rows as rows_lib,
    sweep,
)
from cfg_jax.evaluation.cache import SampleCache, Samples, weights
from cfg_jax.inference import Model
from cfg_jax.metrics import Inputs, frechet, precision_recall
from cfg_jax.metrics.features import extraction
from cfg_jax.metrics.statistics import Gaussian, Moments, Reference
from tiny_imagenet64_parts import googlenet
from tiny_imagenet64_parts.extractor import RealExtractor

SPLITS = ('train', 'validation')
CURVE = 'curve.json'
JUDGED = ('is', 'class_agreement')
_ADVICE = 'choose another --root'

Row = dict[str, Any]
Curve = dict[str, Any]  # what CURVE holds: settings of the sweep, 'name', 'config' and 'rows'


class RealImages(NamedTuple):
    """What metrics need of a split: its statistics, and the distance from its sFID maps."""

    statistics: Reference
    spatial_distance: Callable[[Gaussian], float]


class References(NamedTuple):
    """The real images of both splits."""

    train: RealImages
    validation: RealImages

    def hashes(self) -> dict[str, str]:
        """What identifies them in settings."""
        return {split: getattr(self, split).statistics.record['sha256'] for split in SPLITS}


def references(
    config: ConfigDict, root: epath.Path, extractor: RealExtractor, count: int
) -> References:
    """The statistics of `count` images of each split, or of all for 0; kept in ROOT/reference."""
    made = []
    for split in SPLITS:
        path = root / 'reference' / f'{split}{count or ""}.npz'
        group = config.data.copy_and_resolve_references()
        group.split = split + (f'[:{count}]' if count else '')
        statistics = dataset_reference.kept_or_computed(
            group, extractor.inception, path, config.sweep.batch_size
        )
        # The root of its covariance takes as long as the rest of a row, and is always the same.
        made.append(RealImages(statistics, frechet.distance_from(statistics.spatial)))
    return References(*made)


def check_counts(num_samples: int, num_real: int) -> None:
    """Raises UserError where precision and recall have too few images; 0 real ones mean all."""
    fewest = precision_recall.NEIGHBOURS + 1
    for name, count in (('sweep.num_samples', num_samples), ('--real', num_real or fewest)):
        if count < fewest:
            raise UserError(f'{name}={count}: precision and recall need at least {fewest} images')


class Curves:
    """Samples, measures and keeps curves in ROOT/sweep/SLUG; continues from what is there.

    Args:
      root: the experiment's directory.
      extractor: of the samples' features.
      real_images: what they are compared with.
    """

    def __init__(self, root: epath.Path, extractor: RealExtractor, real_images: References):
        self._root, self._extractor, self._real = root, extractor, real_images

    def curve(self, slug: str, name: str, model: Model) -> Curve:
        """The rows of a model at the weights of its config's `sweep`, written as CURVE too.

        Rows of other weights that were measured before, in the same way, stay in it.

        Args:
          slug: of the directory.
          name: for people.
          model: what is sampled.

        Raises:
          UserError: the directory holds samples of other settings.
        """
        config = model.config
        settings = sweep.settings_of(model, self._extractor)
        settings |= {'references': self._real.hashes()}
        directory = results_lib.claim(self._root / 'sweep' / slug, settings, _ADVICE)
        logging.info('\n%s', name)
        self._fill(model, directory)
        paths = (directory / 'rows').glob('w_*.json')
        rows = [row for path in paths if (row := _kept_row(path, config)) is not None]
        # Rows of the first edition lack it; its rules guided at every level.
        steps = config.sampler.num_steps
        rows = [
            {'nfe': steps * model.rule.nfe_per_level(row['w'])} | row
            for row in sorted(rows, key=lambda row: row['w'])
        ]
        measured = config_lib.thawed(config)
        measured.sweep.w = tuple(row['w'] for row in rows)
        curve = {'name': name, **settings, 'config': config_lib.to_json(measured), 'rows': rows}
        curve['best'] = differences.best_weights(directory, rows)
        files.write_json(directory / CURVE, curve)
        return curve

    def _fill(self, model: Model, directory: epath.Path) -> None:
        """Measures the rows that are missing, each while the next is sampled."""
        config = model.config
        missing = [w for w in weights(config) if not _is_measured(directory, w, config)]
        cache = SampleCache(model, directory / 'shards', self._extractor)
        with ThreadPoolExecutor(1) as measuring:
            kept = []
            for w in missing:
                cache.compute(w)
                samples = cache.collect(w, config.sweep.seed)
                kept.append(measuring.submit(self._keep, directory, w, samples, config))
        for row in kept:
            row.result()

    def _keep(self, directory: epath.Path, w: float, samples: Samples, config: ConfigDict) -> None:
        row, influences = metrics_of(samples, self._real, config)
        differences.save(directory, w, [influences], row)
        files.write_json(_row_path(directory, w), {'w': w, 'nfe': samples.nfe} | _how(config) | row)

    def floor(self, config: ConfigDict) -> list[Row]:
        """Real images in the place of samples, as many of them: each split against the other."""
        settings = {
            'dataset': config.data.name,
            'num_samples': config.sweep.num_samples,
            'features': self._extractor.provenance(),
            'references': self._real.hashes(),
        }
        directory = results_lib.claim(floor_directory(self._root, config), settings, _ADVICE)
        rows = []
        for split, other in zip(SPLITS, reversed(SPLITS), strict=True):
            path = directory / f'{split}.json'
            row = _kept_row(path, config)
            if row is None or 'is_splits' not in row:  # of before rows said how
                logging.info('\nfloor: %s against %s', split, other)
                row = self._floor_row(config, split, getattr(self._real, other))
                row |= {'images': split, 'against': other} | _how(config)
                files.write_json(path, row)
            rows.append(row)
        return rows

    def _floor_row(self, config: ConfigDict, split: str, other: RealImages) -> Row:
        count, size = config.sweep.num_samples, config.sweep.batch_size
        epoch = pipeline.one_epoch(config.data, split, size)
        batches = list(itertools.islice(epoch, -(-count // size)))
        labels = np.concatenate([batch['condition'] for batch in batches])[:count]
        pixels = np.concatenate([images.to_uint8(batch['image']) for batch in batches])[:count]
        parts = (pixels[i : i + size] for i in range(0, len(pixels), size))
        features = extraction.concatenate(extraction.extract_all(self._extractor, parts, size))
        row = against(Samples(features, labels), other, config).row
        return row | {'num_images': len(labels)}


def _kept_row(path: epath.Path, config: ConfigDict) -> Row | None:
    """A row that was measured in the same way, or that is of before rows said how."""
    row = files.read_or_set_aside(path, files.read_json)
    if row is None or any(row.get(key, value) != value for key, value in _how(config).items()):
        return None
    return row


def _row_path(directory: epath.Path, w: float) -> epath.Path:
    return directory / 'rows' / f'w_{w!r}.json'


def _is_measured(directory: epath.Path, w: float, config: ConfigDict) -> bool:
    """Whether the row of `w` is kept, and its influences, where it has errors."""
    row = _kept_row(_row_path(directory, w), config)
    if row is None or not config.sweep.bootstrap or 'images_not_finite' in row:
        return row is not None
    return differences.is_kept(directory, w)


def _how(config: ConfigDict) -> Row:
    """What decides a row beside its samples."""
    return {'is_splits': config.sweep.is_splits, 'bootstrap': config.sweep.bootstrap}


def floor_directory(root: epath.Path, config: ConfigDict) -> epath.Path:
    """Where the rows of real images lie, as SPLIT.json."""
    return root / 'sweep' / f'real_images-n{config.sweep.num_samples}'


def metrics_of(samples: Samples, references: References, config: ConfigDict) -> rows_lib.Evaluation:
    """`against` the training split, and both distances to the validation split as
    `KEY_validation`, with `KEY_validation_se`."""
    row, influences = against(samples, references.train, config)
    other = _distances(
        samples, references.validation, _inputs(samples, references.validation, config)
    ).row
    for key, value in other.items():
        name, error, _ = key.partition('_se')
        row[f'{name}_validation{error}'] = value
    return rows_lib.Evaluation(row, influences)


def against(samples: Samples, real_images: RealImages, config: ConfigDict) -> rows_lib.Evaluation:
    """FD-768, sFID, precision, recall; IS (GoogLeNet) over its 1,000 classes and the share of
    images that it finds likeliest to be of their label, out of the data set's; errors as `KEY_se`.
    The same two of the judge, where there is one, as `is_judge` and `class_agreement_judge`.
    Influences are those on FD-768.

    All are NaN if images are not finite.
    """
    logits = samples.features.logits
    inputs = _inputs(samples, real_images, config)
    metrics = ('is', 'precision', 'recall', 'class_agreement')
    row, influences = _distances(samples, real_images, inputs)
    row |= _measured(samples, inputs, metrics).row
    row |= _agreement_error(row, inputs)
    if logits.shape[1] <= googlenet.CLASSES:
        return rows_lib.Evaluation(row, influences)
    judged = samples.features._replace(logits=logits[:, googlenet.CLASSES :])
    found = _measured(samples, inputs._replace(samples=judged), JUDGED).row
    found |= _agreement_error(found, inputs)
    row |= {_of_judge(key): value for key, value in found.items()}
    return rows_lib.Evaluation(row, influences)


def _inputs(samples: Samples, real_images: RealImages, config: ConfigDict) -> Inputs:
    """With GoogLeNet's logits alone."""
    settings, labels = config.sweep, samples.condition
    logits = samples.features.logits[:, : googlenet.CLASSES]
    return Inputs(
        samples.features._replace(logits=logits),
        real_images.statistics,
        labels=labels,
        num_classes=config.data.num_classes,
        splits=settings.is_splits,
        replicates=settings.bootstrap,
        strata=labels if settings.labels == 'balanced' else None,
    )


def _agreement_error(row: Row, inputs: Inputs) -> Row:
    """The binomial standard error of a share, sqrt(p (1 - p) / N)."""
    share = row['class_agreement']
    return {'class_agreement_se': float(np.sqrt(share * (1.0 - share) / len(inputs.labels)))}


def _of_judge(key: str) -> str:
    """'is_se' -> 'is_judge_se'."""
    for metric in JUDGED:
        if key.startswith(metric):
            return key.replace(metric, f'{metric}_judge', 1)
    return key


def _distances(samples: Samples, real_images: RealImages, inputs: Inputs) -> rows_lib.Evaluation:
    """FD-768, and sFID without a standard error, which takes longer than the distance itself."""
    row, influences = _measured(samples, inputs, ('fid',))
    if 'images_not_finite' in row:
        return rows_lib.Evaluation({'fd768': row['fd768'], 'sfid': float('nan')}, {})
    spatial = Moments.of_many(samples.features.spatial).gaussian()
    row |= {'sfid': real_images.spatial_distance(spatial)}
    return rows_lib.Evaluation(row, influences)


def _measured(samples: Samples, inputs: Inputs, metrics: Sequence[str]) -> rows_lib.Evaluation:
    distance, not_finite = RealExtractor.distance, samples.not_finite
    return rows_lib.compute_metrics(inputs, metrics, distance=distance, not_finite=not_finite)
