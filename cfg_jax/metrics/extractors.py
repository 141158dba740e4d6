"""The feature extractors that a config can name."""

from collections.abc import Callable

from etils import epath
from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.metrics import classifier
from cfg_jax.metrics.features import FeatureExtractor

EXTRACTORS = ('classifier',)


def load_extractor(
    config: ConfigDict, workdir: epath.Path, report: Callable[[str], None]
) -> FeatureExtractor:
    """The extractor that `config.sweep.features` names, made ready in the work directory.

    Raises:
      UserError: no extractor has that name.
    """
    if config.sweep.features != 'classifier':
        raise UserError(
            f'sweep.features={config.sweep.features!r} is no feature extractor of this version;'
            f' there is: {", ".join(EXTRACTORS)}'
        )
    return classifier.load_or_train(config, workdir / 'classifier', report)
