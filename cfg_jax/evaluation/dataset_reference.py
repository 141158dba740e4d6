"""The real images that a sweep's samples are compared with."""

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
    kept = files.read_or_set_aside(path, lambda path: _read_kept(path, extractor))
    if kept is not None:
        return kept
    logging.info('reference statistics of %s %s', config.data.name, config.data.split)
    compute(config.data, extractor, path, config.sweep.batch_size)
    return reference_lib.load(path, extractor)


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
    record: dict[str, Any] = {
        'dataset': config_data.name,
        'split': config_data.split,
        'image_size': config_data.image_size,
    }

    def batches_from(start: int) -> Iterator[np.ndarray]:
        epoch = pipeline.one_epoch(config_data, config_data.split, batch_size, start)
        return (batch['image'] for batch in epoch)

    reference_lib.compute(
        batches_from,
        len(sources.data_source(config_data, config_data.split)),
        extractor,
        path,
        batch_size=batch_size,
        record=record,
    )
