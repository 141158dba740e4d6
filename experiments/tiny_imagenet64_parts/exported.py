"""The model that is measured: EMA weights in bfloat16, a file that any machine measures again."""

import re

from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, loading
from cfg_jax.errors import UserError
from cfg_jax.training import export, starting

OF_IMAGES = r'data\.(image_size|channels|num_classes)'
OF_TRAINING = rf'{OF_IMAGES}|target|p_uncond|condition|diffusion\..*'


def of_workdir(workdir: epath.Path, directory: epath.Path) -> epath.Path:
    """DIRECTORY/model-STEP.safetensors of the newest checkpoint, written anew.

    Raises:
      UserError: no complete checkpoint.
    """
    params, config, provenance = loading.load_params(workdir)
    step = provenance['checkpoint_step']
    path = directory / f'model-{step}{export.SUFFIX}'
    starts, names = starting.starts_of(workdir), loading.class_names_of(workdir)
    export.write_model(path, params, config, step, 'bfloat16', starts, class_names=names)
    return path


def check(path: epath.PathLike, found: ConfigDict, asked: ConfigDict, fields: str) -> None:
    """Raises UserError where the config of a model in `path` is another than is asked for.

    Args:
      path: for people.
      found: its config.
      asked: of what is measured.
      fields: a pattern of the names that must agree, such as 'data.image_size'.
    """
    values = dict(config_lib.flatten(found))
    for name, value in config_lib.flatten(asked):
        if re.fullmatch(fields, name) and values.get(name) != value:
            raise UserError(
                f'{path} was trained with {name}={values.get(name)}, what is measured has {value}'
            )
