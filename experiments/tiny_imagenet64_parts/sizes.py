"""The sizes of the real-images experiment: half hours of a large GPU, or minutes on a CPU."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cfg_jax import config_files

PRESETS = ('gpu', 'toy')
CONFIG = str(Path(__file__).resolve().parents[2] / 'configs' / 'tiny_imagenet64.py')

_TOY_REFERENCE = 256  # images of each split
_GUIDE_SHARE = 8  # the guide is trained for one step in so many


def load(options: Namespace, path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config in `path` at the size of --preset, for the data set --data.

    Args:
      options: of the command: `preset` and `data`.
      path: the config's file, or FILE.py:VARIANT; `toy` selects its variant toy or toy_VARIANT,
        in place of cpu too.
      overrides: '--config.FIELD=VALUE' of the user, which win.

    Raises:
      UserError: no such data set, or an override that does not fit.
    """
    from cfg_jax.data import sources  # imports TFDS, which --help does not need

    num_classes = len(sources.label_names(options.data))
    data = [f'--config.data.name={options.data}', f'--config.data.num_classes={num_classes}']
    if options.preset == 'toy':
        file, _, variant = path.partition(':')
        variant = variant.removeprefix('cpu').removeprefix('_')
        path = f'{file}:toy_{variant}' if variant else f'{file}:toy'
    return config_files.load_config(path, [*data, *overrides])


def variant(path: str, name: str) -> str:
    """The config `name` that belongs to the main model's: FILE.py:cpu has FILE.py:cpu_guide."""
    file, _, size = path.partition(':')
    return f'{file}:cpu_{name}' if size == 'cpu' else f'{file}:{name}'


def reference_count(options: Namespace) -> int:
    """Images of each split in the references; 0 for all."""
    if options.real is not None:
        return options.real
    return _TOY_REFERENCE if options.preset == 'toy' else 0


def guide_steps(main_steps: int) -> int:
    """Steps of the guide of autoguidance, which is to be trained less than the main model."""
    return max(1, main_steps // _GUIDE_SHARE)
