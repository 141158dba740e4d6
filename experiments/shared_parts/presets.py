"""The sizes at which an experiment on the paper's tables runs: the paper's, or a laptop's."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from cfg_jax import cli, config_files
from cfg_jax.errors import UserError

if TYPE_CHECKING:
    from cfg_jax.metrics.features import FeatureExtractor

PRESETS = ('paper', 'digits', 'tiny')
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def add_options(parser: cli.Parser) -> None:
    """--preset and what the presets need."""
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='paper',
        help='paper: full size on ImageNet; digits: minutes on a laptop; tiny: any prepared 64x64'
        ' data set, --data',
    )
    parser.add_argument('--data', default='', help='tiny: directory of a prepared TFDS data set')
    parser.add_argument('--inception', default='', help="paper, tiny: the FID Inception's weights")


def refuse(overrides: Sequence[str], fields: Mapping[str, str]) -> None:
    """Raises UserError for an override that the experiment would pass over.

    Args:
      overrides: '--config.FIELD=VALUE' of the user.
      fields: FIELD -> why it may not be given.
    """
    for override in overrides:
        field = config_files.field_of(override)
        if field in fields:
            raise UserError(f'{override} is passed over: {fields[field]}')


def check_count(parser: cli.Parser, count: int) -> None:
    """Ends where --count images are too few for precision and recall."""
    from cfg_jax.metrics import precision_recall  # imports JAX, which --help does not need

    least = precision_recall.NEIGHBOURS + 1
    if count < least:
        parser.error(f'--count is at least {least}, which precision and recall need')


def check_metrics(config: ConfigDict) -> None:
    """Raises UserError where a sweep of `config` measures no FID or no IS, which are compared."""
    missing = [name for name in ('fid', 'is') if name not in config.sweep.metrics]
    if missing:
        raise UserError(
            f'sweep.metrics={tuple(config.sweep.metrics)} lacks {" and ".join(missing)}, which this'
            ' experiment compares'
        )


def check_labels(extractor: 'FeatureExtractor') -> None:
    """Raises UserError where an extractor does not know the data set's classes, so that nothing
    says whether samples are of theirs, which is compared."""
    if not extractor.logits_are_labels:
        raise UserError(
            f'the features {extractor.name!r} do not know the classes of the data set, and this'
            ' experiment compares how many samples are of theirs; leave sweep.features=classifier'
        )


def digits(overrides: Sequence[str] = ()) -> ConfigDict:
    """The digits preset; `overrides` win."""
    return config_files.load_config(CONFIGS / 'digits.py:table', overrides)


def load(options: Namespace, paper_config: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a preset.

    Args:
      options: of a parser with `add_options`.
      paper_config: name of the paper's config; the tiny preset is that of imagenet64.py for all.
      overrides: '--config.FIELD=VALUE' of the user, which win.

    Raises:
      UserError: the tiny preset without a data set, or overrides that do not fit.
    """
    if options.preset == 'digits':
        return digits(overrides)
    weights = [f'--config.sweep.inception={options.inception}'] if options.inception else []
    if options.preset == 'tiny':
        tiny = CONFIGS / 'imagenet64.py:tiny'
        return config_files.load_config(tiny, [*_data(options), *weights, *overrides])
    return config_files.load_config(CONFIGS / paper_config, [*weights, *overrides])


def load_classifier(options: Namespace, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of the noisy classifier that belongs to `load(options, 'imagenet64.py')`.

    Arguments and errors as there.
    """
    name = {
        'paper': 'imagenet64.py:classifier',
        'digits': 'digits.py:table_classifier',
        'tiny': 'imagenet64.py:tiny_classifier',
    }[options.preset]
    data = _data(options) if options.preset == 'tiny' else []
    return config_files.load_config(CONFIGS / name, [*data, *overrides])


def _data(options: Namespace) -> list[str]:
    if not options.data:
        raise UserError('--preset=tiny needs --data, the directory of a prepared TFDS data set')
    from cfg_jax.data import sources  # imports TFDS, which --help does not need

    count = len(sources.label_names(options.data))
    return [f'--config.data.name={options.data}', f'--config.data.num_classes={count}']
