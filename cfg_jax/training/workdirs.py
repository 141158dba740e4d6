"""The work directory of a run: whose it is, and the config it was trained with."""

from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files
from cfg_jax.data import sources
from cfg_jax.errors import UserError
from cfg_jax.training import checkpoints

CONFIG = 'config.json'
_CLASSES = 'classes.json'  # their names in the order of the ids, as training began


def create_or_validate_workdir(config: ConfigDict, workdir: epath.PathLike) -> epath.Path:
    """Prepares `workdir` for training with `config`, from scratch or from a checkpoint.

    Raises:
      UserError: as `validate_workdir`; or the data has other classes than training began with.
    """
    workdir = validate_workdir(config, workdir)
    names, before = sources.class_names(config.data), read_class_names(workdir)
    for number, (old, new) in enumerate(zip(before, names, strict=False)):
        if old != new:
            raise UserError(
                f'{workdir} was begun on data whose class {number} was {old!r}, where it is {new!r}'
                ' now: images would have the labels of other classes; give back the old names, or'
                ' choose another --workdir'
            )
    files.write_json(workdir / CONFIG, config_lib.to_json(config))
    files.write_json(workdir / _CLASSES, {'names': names})
    return workdir


def validate_workdir(config: ConfigDict, workdir: epath.PathLike) -> epath.Path:
    """The path of a work directory in which `config` can be trained; writes nothing.

    Raises:
      UserError: the directory belongs to something else, or to a run with another config.
    """
    workdir = files.as_path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f'{workdir} is a file; --workdir needs a directory')
    if is_workdir(workdir):
        trained = _read(workdir / CONFIG)
        differences = config_lib.contradictions(trained, config)
        if differences:
            raise UserError(
                f'{workdir} was trained with another config ({"; ".join(differences)}); give back'
                ' the old values, or choose another --workdir'
            )
    elif workdir.exists() and any(not p.name.startswith('.') for p in workdir.iterdir()):
        raise UserError(
            f'{workdir} is not empty and no work directory of cfg_jax (no {CONFIG}); choose'
            ' another --workdir'
        )
    return workdir


def is_workdir(path: epath.PathLike) -> bool:
    """Whether a training has begun in `path`."""
    return (files.as_path(path) / CONFIG).exists()


def is_trained(config: ConfigDict, workdir: epath.PathLike) -> bool:
    """Whether `workdir` holds a complete checkpoint of `config.train.steps`, or of later ones."""
    try:
        return checkpoints.kept_steps(workdir)[-1] >= config.train.steps
    except UserError:  # none yet
        return False


def read_config(workdir: epath.PathLike) -> ConfigDict:
    """The config that `workdir` was trained with.

    Raises:
      UserError: not a work directory.
    """
    workdir = files.as_path(workdir)
    if not is_workdir(workdir):
        exported = sorted(workdir.glob('*.safetensors')) if workdir.is_dir() else []
        if exported:
            raise UserError(f'{workdir} is no work directory; give the file in it: {exported[0]}')
        what = 'holds no config.json' if workdir.exists() else 'does not exist'
        raise UserError(
            f'{workdir} {what}: not a work directory; train one with: python scripts/train.py'
            f' --config=configs/NAME.py --workdir={workdir}'
        )
    config = _read(workdir / CONFIG)
    try:
        config_lib.validate(config)
    except UserError as error:
        raise UserError(f'{workdir / CONFIG}: {error}') from error
    return config


def read_class_names(workdir: epath.PathLike) -> list[str]:
    """The names of the classes as training began; none of a work directory of earlier editions."""
    found = files.read_or_set_aside(files.as_path(workdir) / _CLASSES, files.read_json)
    return found['names'] if found else []


def _read(path: epath.Path) -> ConfigDict:
    """The config in a file, not validated."""
    advice = 'give back the config.json of this training, or choose another --workdir'
    with files.damage_reported(path, advice):
        return config_lib.from_json(files.read_json(path))
