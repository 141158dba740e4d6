"""The feature extractors that a config can name."""

import functools
from collections.abc import Callable

from etils import epath
from ml_collections import ConfigDict

from cfg_jax.distributed import multihost
from cfg_jax.errors import UserError
from cfg_jax.metrics.features import (
    FeatureExtractor,
    classifier,
    inception_extractor,
)

EXTRACTORS = ('classifier', *inception_extractor.NAMES)


def load_extractor(
    config: ConfigDict, workdir: epath.Path, report: Callable[[str], None]
) -> FeatureExtractor:
    """The extractor that `config.sweep.features` names, made ready in the work directory.

    Raises:
      UserError: no extractor has that name, or its weights are missing.
    """
    sweep = config.sweep
    if sweep.features == 'classifier':
        directory = workdir / 'classifier'
        load = functools.partial(classifier.load_or_train, config, directory, report)
        return multihost.run_on_process_zero('classifier', load) or load()
    if sweep.features in inception_extractor.NAMES:
        if config.data.channels != 3:
            raise UserError(
                f'sweep.features={sweep.features!r} needs RGB images; {config.data.name} is grey'
                " (data.channels=1): use 'classifier'"
            )
        return inception_extractor.load(sweep.inception, sweep.features, sweep.dtype)
    raise UserError(
        f'sweep.features={sweep.features!r} is no feature extractor; there are:'
        f' {", ".join(EXTRACTORS)}'
    )
