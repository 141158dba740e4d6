"""Scores of sets of images on disk, ours or anyone's, against a reference on disk."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.evaluation import (
    image_sets,
    reference as reference_lib,
    scoring,
)
from cfg_jax.evaluation.image_sets import ImageSet
from cfg_jax.evaluation.reference import Reference
from cfg_jax.metrics.features import (
    FeatureExtractor,
    Features,
    extraction,
)
from cfg_jax.training import writers

Report = Callable[[str], None]


def compare(
    paths: Sequence[epath.PathLike],
    reference_path: epath.PathLike,
    extractor: FeatureExtractor,
    *,
    metrics: Sequence[str] = (),
    batch_size: int = 64,
    is_splits: int = 10,
    replicates: int = 0,
    report: Report = print,
) -> dict[str, Any]:
    """Scores each set of samples against one reference.

    Args:
      paths: sets of samples; see `image_sets.open_images`.
      reference_path: images likewise, or statistics (`mu`, `sigma`), or both in one `.npz` as in
        ADM's reference batches: then FID is against the statistics, precision and KID against
        the images.
      extractor: of the features.
      metrics: names out of `evaluation.METRICS`; () for all that can be had.
      batch_size: images extracted at once.
      is_splits: parts of the Inception Score.
      replicates: see `evaluation.score`.
      report: receives lines of progress, and what is left out and why.

    Returns:
      `rows`, their `summary` over several sets, `reference`, `features`, `notes`.

    Raises:
      UserError: a wrong path or image, or a metric asked for that cannot be had.
    """
    sets = [image_sets.open_images(path) for path in paths]  # a wrong path must not wait for work
    reference = open_reference(reference_path, extractor, batch_size, report)
    measured = [
        _measure(path, found, extractor, batch_size, report)
        for path, found in zip(paths, sets, strict=True)
    ]
    chosen, notes = _choose(metrics, [features for features, _ in measured], reference, is_splits)
    fewest = min(record['num_images'] for _, record in measured)
    notes += scoring.notes(fewest, extractor.distance, reference)
    for line in notes:
        report(f'note: {line}')
    rows, records = [], [record for _, record in measured]
    for features, record in measured:
        report(f'computing the scores of {record["images"]}')
        rows.append(
            scoring.score(
                features,
                reference,
                chosen,
                distance=extractor.distance,
                is_splits=is_splits,
                replicates=replicates,
            )
        )
    return {
        'rows': [record | row for record, row in zip(records, rows, strict=True)],
        'summary': scoring.over_seeds(rows),
        'reference': reference.record,
        'features': extractor.provenance(),
        'notes': notes,
    }


def open_reference(
    path: epath.PathLike, extractor: FeatureExtractor, batch_size: int, report: Report
) -> Reference:
    """Statistics, images, or both in one `.npz` as in ADM's reference batches: see `compare`.

    Raises:
      UserError: see `compare`.
    """
    path = files.as_path(path)
    if not image_sets.has_images(path):
        return reference_lib.load(path, extractor)
    found = image_sets.open_images(path)
    digest = hashlib.sha256()
    parts = _features(path, found, extractor, batch_size, digest, report)
    of_images = reference_lib.of_parts(parts, len(found), {'images': str(path)})
    of_images.record['pixels_sha256'] = digest.hexdigest()
    if not path.is_dir() and reference_lib.has_statistics(path):
        published = reference_lib.load(path, extractor)
        record = published.record | {'images': of_images.record}
        return published._replace(features=of_images.features, record=record)
    return of_images


def _measure(
    path: epath.PathLike,
    found: ImageSet,
    extractor: FeatureExtractor,
    batch_size: int,
    report: Report,
) -> tuple[Features, dict[str, Any]]:
    """Features of all images of a set, and what identifies it."""
    digest = hashlib.sha256()
    parts = list(_features(path, found, extractor, batch_size, digest, report))
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
    report: Report,
) -> Iterator[Features]:
    """Features batch by batch; `digest` takes in the pixels."""

    def hashed() -> Iterator[np.ndarray]:
        for batch in found.batches(batch_size):
            digest.update(batch.tobytes())
            yield batch

    report(f'{path}: {len(found):,} images')
    progress, done = writers.ImageReport(len(found), report), 0
    for part in extraction.extract_all(extractor, hashed(), batch_size):
        done += len(part.pooled)
        progress.tell(done)
        yield part


def _choose(
    wanted: Sequence[str], sets: Sequence[Features], reference: Reference, is_splits: int
) -> tuple[list[str], list[str]]:
    """Metrics that all sets can have, and what is left out and why.

    What was asked for by name must be had.
    """
    reasons: dict[str, str] = {}
    for features in sets:
        reasons |= scoring.singular(features, reference)
        reasons |= scoring.obstacles(features, reference, is_splits)
    impossible = [f'{metric}: {reasons[metric]}' for metric in wanted if metric in reasons]
    if impossible:
        raise UserError(f'{impossible[0]}; choose other --metrics or give more images')
    chosen = [metric for metric in wanted or scoring.STANDARD if metric not in reasons]
    if not chosen:
        raise UserError(f'no metric can be had: {"; ".join(reasons.values())}')
    left_out = [
        f'{metric} is left out: {reasons[metric]}'
        for metric in scoring.STANDARD
        if metric in reasons and not wanted
    ]
    return chosen, left_out
