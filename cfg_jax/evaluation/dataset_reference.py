"""The real images that a sweep's samples are compared with."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax.data import (
    pipeline,
    sources,
)
from cfg_jax.errors import UserError
from cfg_jax.evaluation import (
    comparison,
    reference as reference_lib,
)
from cfg_jax.evaluation.reference import Reference
from cfg_jax.metrics.features import FeatureExtractor


def reference(
    config: ConfigDict,
    workdir: epath.Path,
    extractor: FeatureExtractor,
    report: Callable[[str], None],
) -> Reference:
    """`config.sweep.reference`, statistics or images, or else that of `config.data.split`.

    The latter is computed once and kept in WORKDIR/reference.

    Raises:
      UserError: no such file or data set, or statistics made with other weights.
    """
    if config.sweep.reference:
        found = comparison.open_reference(
            config.sweep.reference, extractor, config.sweep.batch_size, report
        )
        size = found.record.get('image_size', config.data.image_size)
        if size != config.data.image_size:
            raise UserError(
                f'{config.sweep.reference} is of images of {size} pixels, the samples have'
                f' {config.data.image_size}; make statistics of the same size'
            )
        return found
    made_by = extractor.provenance()
    dtype = '-bfloat16' if made_by.get('dtype') == 'bfloat16' else ''
    name = f'{extractor.name}-{made_by["sha256"][:12]}{dtype}.npz'
    path = workdir / 'reference' / name
    if not path.exists():
        report(f'reference statistics of {config.data.name} {config.data.split}')
        compute(config.data, extractor, path, config.sweep.batch_size, report)
    return reference_lib.load(path, extractor)


def compute(
    config_data: ConfigDict,
    extractor: FeatureExtractor,
    path: epath.PathLike,
    batch_size: int,
    report: Callable[[str], None],
) -> None:
    """Writes the statistics of every image of `config_data.split`; goes on where it was killed.

    The images go through the training preprocessing (no flips) and the same rounding to uint8 as
    samples do.
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
        report=report,
    )
