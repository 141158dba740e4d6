"""Metrics of sets of images on disk, ours or anyone's, against a reference on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from cfg_jax import files, progress
from cfg_jax.errors import UserError
from cfg_jax.evaluation import image_sets, reference as reference_lib, rows
from cfg_jax.evaluation.image_sets import ImageSet
from cfg_jax.metrics import METRICS, Inputs
from cfg_jax.metrics.features import FeatureExtractor, Features, extraction
from cfg_jax.metrics.statistics import Gaussian, Reference


def compare(
    paths: Sequence[epath.PathLike],
    reference_path: epath.PathLike,
    extractor: FeatureExtractor,
    *,
    metrics: Sequence[str] = (),
    batch_size: int = 64,
    is_splits: int = 10,
    replicates: int = 0,
) -> dict[str, Any]:
    """Compares each set of samples with one reference.

    Args:
      paths: sets of samples; see `image_sets.open_images`.
      reference_path: images likewise, or statistics (`mu`, `sigma`), or both in one `.npz` as in
        ADM's reference batches: then FID is against the statistics, precision and KID against
        the images.
      extractor: of the features.
      metrics: names out of METRICS; () for all default ones that are available.
      batch_size: images extracted at once.
      is_splits: parts of the Inception Score.
      replicates: see `metrics.Inputs`.

    Returns:
      `rows`, their `summary` over several sets, `reference`, `features`, `notes`.

    Raises:
      UserError: a wrong path or image, sets of images of different sizes, or a metric asked for
        that is not available.
    """
    sets = [image_sets.open_images(path) for path in paths]  # a wrong path must not wait for work
    size = _common_size(paths, sets)
    expected = _expected_reference(reference_path, extractor)
    planned = [
        Inputs(_shapes(images, extractor), expected, splits=is_splits, replicates=replicates)
        for images in sets
    ]
    chosen, notes = _choose(metrics, planned)
    reference = open_reference(reference_path, extractor, batch_size, size)
    inputs, records = [], []
    for path, found in zip(paths, sets, strict=True):
        features, record = _measure(path, found, extractor, batch_size)
        inputs.append(Inputs(features, reference, splits=is_splits, replicates=replicates))
        records.append(record | {'image_size': size})
    fewest = min(record['num_images'] for record in records)
    notes += rows.notes(fewest, extractor.distance, reference)
    measured = []
    for each, record in zip(inputs, records, strict=True):
        logging.info('computing the metrics of %s', record['images'])
        row = rows.compute_metrics(each, chosen, distance=extractor.distance).row
        notes += [f'{record["images"]}: {note}' for note in row.get('notes', ())]
        measured.append(row)
    for line in notes:
        logging.info('note: %s', line)
    return {
        'rows': [record | row for record, row in zip(records, measured, strict=True)],
        'summary': rows.over_seeds(measured),
        'reference': reference.record,
        'features': extractor.provenance(),
        'notes': notes,
    }


def open_reference(
    path: epath.PathLike, extractor: FeatureExtractor, batch_size: int, size: int | list[int]
) -> Reference:
    """Statistics, images, or both in one `.npz` as in ADM's reference batches: see `compare`.

    Raises:
      UserError: see `compare`; or its images are not of `size`, see `reference.size_of`.
    """
    path = files.as_path(path)
    if not image_sets.has_images(path):
        found = reference_lib.load(path, extractor)
        reference_lib.check_size(found.record, size, path)
        return found
    images = image_sets.open_images(path)
    record = {'images': str(path), 'image_size': _size(images)}
    reference_lib.check_size(record, size, path)
    digest = hashlib.sha256()
    parts = _features(path, images, extractor, batch_size, digest)
    of_images = reference_lib.of_parts(parts, len(images), record)
    of_images.record['pixels_sha256'] = digest.hexdigest()
    if not path.is_dir() and reference_lib.has_statistics(path):
        published = reference_lib.load(path, extractor)
        record = {'image_size': record['image_size']} | published.record
        return published._replace(
            features=of_images.features, record=record | {'images': of_images.record}
        )
    return of_images


def _expected_reference(path: epath.PathLike, extractor: FeatureExtractor) -> Reference:
    """What `open_reference` will give, with shapes alone of what takes work: the features."""
    path = files.as_path(path)
    if not image_sets.has_images(path):
        return reference_lib.load(path, extractor)
    images = image_sets.open_images(path)
    shapes = _shapes(images, extractor)
    features: Any = shapes.pooled
    if not path.is_dir() and reference_lib.has_statistics(path):
        return reference_lib.load(path, extractor)._replace(features=features)
    spatial = None if shapes.spatial is None else _of_length(shapes.spatial.shape[1])
    record = {'num_images': len(images)}
    return Reference(_of_length(shapes.pooled.shape[1]), spatial, features, record)


def _of_length(dim: int) -> Gaussian:
    """A stand-in for statistics of so many features."""
    return Gaussian(np.empty(dim), np.empty(0))


def _shapes(images: ImageSet, extractor: FeatureExtractor) -> Features:
    return extraction.shapes(extractor, next(images.batches(1)).shape[1:], len(images))


def _size(images: ImageSet) -> int | list[int]:
    return reference_lib.size_of(next(images.batches(1)).shape[1:3])


def _common_size(paths: Sequence[epath.PathLike], sets: Sequence[ImageSet]) -> int | list[int]:
    first, *others = [_size(images) for images in sets]
    for path, size in zip(paths[1:], others, strict=True):
        reference_lib.check_size({'image_size': size}, first, path)
    return first


def _measure(
    path: epath.PathLike, found: ImageSet, extractor: FeatureExtractor, batch_size: int
) -> tuple[Features, dict[str, Any]]:
    """Features of all images of a set, and what identifies it."""
    digest = hashlib.sha256()
    parts = list(_features(path, found, extractor, batch_size, digest))
    record = {
        'images': str(path),
        'num_images': len(found),
        'pixels_sha256': digest.hexdigest(),
    }
    return extraction.concatenate(parts), record


def _features(
    path: epath.PathLike,
    found: ImageSet,
    extractor: FeatureExtractor,
    batch_size: int,
    digest: 'hashlib._Hash',
) -> Iterator[Features]:
    """Features batch by batch; `digest` takes in the pixels."""

    def hashed() -> Iterator[np.ndarray]:
        for batch in found.batches(batch_size):
            digest.update(batch.tobytes())
            yield batch

    logging.info('%s: %s', path, found.describe())
    with progress.bar(len(found), 'images') as bar:
        for part in extraction.extract_all(extractor, hashed(), batch_size):
            bar.update(len(part.pooled))
            yield part


def _choose(wanted: Sequence[str], sets: Sequence[Inputs]) -> tuple[list[str], list[str]]:
    """Metrics that are available for all sets, and notes: what is left out, or singular, and why.

    Only the shapes of the features are used, see `rows.unavailable_metrics`.
    What was asked for by name must be available.
    """
    reasons: dict[str, str] = {}
    singular: dict[str, str] = {}
    for inputs in sets:
        reasons |= rows.unavailable_metrics(inputs)
        singular |= rows.notes_on_singular_covariances(inputs)
    impossible = [f'{metric}: {reasons[metric]}' for metric in wanted if metric in reasons]
    if impossible:
        raise UserError(f'{impossible[0]}; choose other --metrics')
    default = [name for name, metric in METRICS.items() if metric.default]
    chosen = [metric for metric in wanted or default if metric not in reasons]
    if not chosen:
        raise UserError(f'no metric is available: {"; ".join(reasons.values())}')
    notes = [
        f'{metric} is left out: {reasons[metric]}'
        for metric in default
        if metric in reasons and not wanted
    ]
    notes += [f'{metric}: {singular[metric]}' for metric in chosen if metric in singular]
    return chosen, notes
