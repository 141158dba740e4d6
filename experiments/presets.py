"""The sizes at which an experiment on the paper's tables runs: the paper's, or a laptop's."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from cfg_jax import (
    cli,
    config as config_lib,
)
from cfg_jax.data import sources
from cfg_jax.errors import UserError

PRESETS = ('paper', 'digits', 'tiny')
_WEIGHTS = '(0.0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0,2.0,3.0,4.0)'

# minutes on two CPU cores
_DIGITS = ('train.steps=450', 'sweep.num_samples=500', 'sampler.num_steps=12')
# 64x64 images of any data set, to see everything move: nothing is learned in so few steps
_TINY = (
    'model.width=32',
    'model.channel_mult=(1,2,2)',
    'model.num_res_blocks=1',
    'model.attention_resolutions=(16,)',
    'model.head_channels=32',
    'model.dropout=0.0',
    'model.norm_groups=8',
    'model.dtype=float32',
    'data.num_workers=0',
    'data.split=train[:512]',  # whose features take minutes on a CPU
    'train.steps=40',
    'train.batch_size=16',
    'train.warmup_steps=10',
    'train.log_every=10',
    'train.checkpoint_every=20',
    'train.sample_every=40',
    'sampler.num_steps=8',
    'sweep.features=inception768',
    "sweep.metrics=('fid','sfid','is')",
    'sweep.num_samples=64',
    'sweep.batch_size=32',
    'sweep.shard_size=64',
    'sweep.is_splits=2',
    'sweep.bootstrap=0',
)


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


def digits(overrides: Sequence[str] = ()) -> ConfigDict:
    """The digits preset; `overrides` win."""
    changes = [*_DIGITS, f'sweep.w={_WEIGHTS}']
    return cli.load_config(
        'configs/digits.py', [*(f'--config.{change}' for change in changes), *overrides]
    )


def load_classifier(options, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of the noisy classifier that belongs to `load(options, imagenet64.py)`.

    Arguments and errors as there.
    """
    path, changes = 'configs/imagenet64_classifier.py', []
    if options.preset == 'digits':
        path = 'configs/digits_classifier.py'
        changes = ['train.steps=450', 'train.anneal_steps=450']
    if options.preset == 'tiny':
        known = config_lib.fields('classifier')
        changes = [change for change in _tiny(options) if change.partition('=')[0] in known]
    return cli.load_config(path, [*(f'--config.{change}' for change in changes), *overrides])


def load(options, paper_config: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a preset.

    Args:
      options: of a parser with `add_options`.
      paper_config: the file of the paper's config.
      overrides: '--config.FIELD=VALUE' of the user, which win.

    Raises:
      UserError: the tiny preset without a data set.
    """
    path, changes = paper_config, []
    if options.preset == 'digits':
        return digits(overrides)
    if options.preset == 'tiny':
        changes = _tiny(options)
    if options.inception:
        changes.append(f'sweep.inception={options.inception}')
    return cli.load_config(path, [*(f'--config.{change}' for change in changes), *overrides])


def _tiny(options) -> list[str]:
    if not options.data:
        raise UserError('--preset=tiny needs --data, the directory of a prepared TFDS data set')
    names = sources.label_names(options.data)
    return [*_TINY, f'data.name={options.data}', f'data.num_classes={len(names)}']
