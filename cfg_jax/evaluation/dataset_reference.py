"""The real images that a sweep's samples are compared with."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files
from cfg_jax.data import pipeline, sources
from cfg_jax.errors import UserError
from cfg_jax.evaluation import comparison, reference as reference_lib
from cfg_jax.metrics.features import FeatureExtractor
from cfg_jax.metrics.statistics import Reference


def reference(config: ConfigDict, workdir: epath.Path, extractor: FeatureExtractor) -> Reference:
    """`config.sweep.reference`, statistics or images, or else that of `config.data.split`.

    The latter is computed once and kept in WORKDIR/reference; a damaged file is computed again.

    Raises:
      UserError: no such file or data set, statistics made with other weights, or images of another
        size than the samples.
    """
    if config.sweep.reference:
        return comparison.open_reference(
            config.sweep.reference, extractor, config.sweep.batch_size, config.data.image_size
        )
    made_by = extractor.provenance()
    dtype = '-bfloat16' if made_by.get('dtype') == 'bfloat16' else ''
    name = f'{extractor.name}-{made_by["sha256"][:12]}{dtype}.npz'
    path = workdir / 'reference' / name
    return kept_or_computed(config.data, extractor, path, config.sweep.batch_size)


def kept_or_computed(
    config_data: ConfigDict, extractor: FeatureExtractor, path: epath.Path, batch_size: int
) -> Reference:
    """The statistics of `config_data.split` in `path`, written there where they are missing.

    A damaged file is set aside. Statistics of other images, or of more or fewer, stay where they
    are, and those of these go beside them, into a file whose name ends in a hash.
    """
    record, count = _record(config_data), _count_if_here(config_data)
    for place in (path, path.with_name(f'{path.stem}-{_short_hash(record)}.npz')):
        kept = files.read_or_set_aside(place, lambda place: _read_kept(place, extractor))
        if kept is None:
            logging.info('reference statistics of %s %s', config_data.name, config_data.split)
            compute(config_data, extractor, place, batch_size)
            return reference_lib.load(place, extractor)
        same = all(kept.record.get(key, value) == value for key, value in record.items())
        if same and count in (None, kept.record.get('num_images', count)):
            return kept
    raise UserError(f'{place} is of other images than its name says; move it away')


def _count_if_here(config_data: ConfigDict) -> int | None:
    """Images of the split; None where the set is not here, as is often so beside an export."""
    try:
        return len(sources.data_source(config_data, config_data.split))
    except UserError:
        return None


def _record(config_data: ConfigDict) -> dict[str, Any]:
    return {
        'dataset': config_data.name,
        'split': config_data.split,
        'image_size': config_data.image_size,
    }


def _short_hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:8]


def _read_kept(path: epath.Path, extractor: FeatureExtractor) -> Reference:
    try:
        return reference_lib.load(path, extractor)
    except UserError as error:  # a file of ours cannot be of another kind
        raise files.Damaged(str(error)) from error


def compute(
    config_data: ConfigDict,
    extractor: FeatureExtractor,
    path: epath.PathLike,
    batch_size: int,
) -> None:
    """Writes the statistics of every image of `config_data.split`; continues a killed run.

    The images go through the training preprocessing (no flips) and are rounded half up to uint8.
    """

    def batches_from(start: int) -> Iterator[np.ndarray]:
        epoch = pipeline.one_epoch(config_data, config_data.split, batch_size, start)
        return (batch['image'] for batch in epoch)

    reference_lib.compute(
        batches_from,
        len(sources.data_source(config_data, config_data.split)),
        extractor,
        path,
        batch_size=batch_size,
        record=_record(config_data),
    )
