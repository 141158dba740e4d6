"""The sizes of the real-images experiment: half hours of a large GPU, or minutes on a CPU."""

from argparse import Namespace
from collections.abc import Sequence

from ml_collections import ConfigDict

from cfg_jax import (
    cli,
    config as config_lib,
)
from cfg_jax.data import sources

PRESETS = ('gpu', 'toy')
CONFIG = 'configs/tiny_imagenet64.py'

# Every path of the code on two CPU cores, where features take most of the time: nothing is learned
# in so few steps, and a covariance of so few images is singular.
_TOY = (
    'data.num_workers=0',
    'model.width=16',
    'model.channel_mult=(1,2,2)',
    'model.num_res_blocks=1',
    'model.attention_resolutions=(16,)',
    'model.head_channels=16',
    'model.norm_groups=4',
    'model.dtype=float32',
    'train.steps=24',
    'train.batch_size=16',
    'train.warmup_steps=10',
    'train.log_every=4',
    'train.checkpoint_every=8',
    'train.keep_period=8',
    'train.sample_every=1000',
    'sampler.num_steps=8',
    'sweep.num_samples=20',
    'sweep.batch_size=20',
    'sweep.shard_size=20',
    'sweep.is_splits=1',
    'sweep.bootstrap=2',
)
_TOY_REFERENCE = 256  # images of each split
_GUIDE_SHARE = 8  # the guide is trained for one step in so many


def load(options: Namespace, path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config in `path` at the size of --preset, for the data set --data.

    Args:
      options: of the command: `preset` and `data`.
      path: the config's file.
      overrides: '--config.FIELD=VALUE' of the user, which win.

    Raises:
      UserError: no such data set, or an override that does not fit.
    """
    num_classes = len(sources.label_names(options.data))
    changes = [f'data.name={options.data}', f'data.num_classes={num_classes}']
    changes += _TOY if options.preset == 'toy' else ()
    config = cli.load_config(path)
    known = config_lib.fields(config.model.kind)
    changes = [change for change in changes if change.partition('=')[0] in known]
    return cli.load_config(path, [*(f'--config.{change}' for change in changes), *overrides])


def reference_count(options: Namespace) -> int:
    """Images of each split in the references; 0 for all."""
    if options.real is not None:
        return options.real
    return _TOY_REFERENCE if options.preset == 'toy' else 0


def guide_steps(main_steps: int) -> int:
    """Steps of the guide of autoguidance, which is to be trained less than the main model."""
    return max(1, main_steps // _GUIDE_SHARE)
