"""The model that is measured: EMA weights in bfloat16, a file that any machine measures again."""

from etils import epath

from cfg_jax import loading
from cfg_jax.training import export


def of_workdir(workdir: epath.Path, directory: epath.Path) -> epath.Path:
    """DIRECTORY/model-STEP.safetensors of the newest checkpoint, written where it is missing.

    Raises:
      UserError: no complete checkpoint.
    """
    params, config, provenance = loading.load_params(workdir)
    path = directory / f'model-{provenance["checkpoint_step"]}{export.SUFFIX}'
    if not path.exists():
        export.write_model(path, params, config, provenance['checkpoint_step'], 'bfloat16')
    return path
