"""The model that is measured: EMA weights in bfloat16, a file that any machine measures again."""

from etils import epath
from ml_collections import ConfigDict

from cfg_jax import loading
from cfg_jax.errors import UserError
from cfg_jax.training import export


def of_workdir(workdir: epath.Path, directory: epath.Path) -> epath.Path:
    """DIRECTORY/model-STEP.safetensors of the newest checkpoint, written anew.

    Raises:
      UserError: no complete checkpoint.
    """
    params, config, provenance = loading.load_params(workdir)
    path = directory / f'model-{provenance["checkpoint_step"]}{export.SUFFIX}'
    export.write_model(path, params, config, provenance['checkpoint_step'], 'bfloat16')
    return path


_MUST_AGREE = ('target', 'p_uncond', 'condition')
_OF_DATA = ('image_size', 'channels', 'num_classes')


def check(path: epath.PathLike, config: ConfigDict) -> None:
    """Raises UserError where a model was trained for something else than `config` measures."""
    found = loading.read_config(path)
    pairs = {name: (found[name], config[name]) for name in _MUST_AGREE}
    pairs |= {f'data.{name}': (found.data[name], config.data[name]) for name in _OF_DATA}
    ours = config.diffusion.to_dict()
    pairs |= {f'diffusion.{k}': (found.diffusion.get(k), ours[k]) for k in ours}
    for name, (theirs, asked) in pairs.items():
        if theirs != asked:
            raise UserError(f'{path} was trained with {name}={theirs}, the config has {asked}')
