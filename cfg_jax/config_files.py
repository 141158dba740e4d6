"""Config files: configs/NAME.py or configs/NAME.py:VARIANT, with --config.FIELD=VALUE applied."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from cfg_jax import config as config_lib
from cfg_jax.config_fields import FIELDS
from cfg_jax.errors import UserError
from cfg_jax.registry import suggestion

_WRAPPED = 'Error whilst parsing config file'


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file with overrides '--config.FIELD=VALUE' applied, validated.

    Args:
      path: of a file with `get_config()`; 'FILE.py:VARIANT' calls `get_config('VARIANT')`.
      overrides: of fields, as on a command line; names of the first edition are understood.

    Raises:
      UserError: a config that does not load, an unknown field, a value of the wrong type.
    """
    path = _existing(str(path))
    for override in overrides:
        if '=' not in override:
            raise UserError(f'{override} lacks a value; write {override}=VALUE')
    argv = ['config', f'--config={path}', *map(_renamed, overrides)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    try:
        values(argv)
        config = values['config'].value
    except (Exception, SystemExit) as error:  # a file may call sys.exit
        raise UserError(_reason(path, argv[2:], error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f'{path}: get_config() must return an ml_collections.ConfigDict')
    config_lib.validate(config)
    return config


def _existing(path: str) -> str:
    """The path if its file exists; files of the first edition that are variants today are found."""
    file, _, variant = path.partition(':')
    if Path(file).is_file():
        return path
    stem, _, last = file.removesuffix('.py').rpartition('_')
    if stem and Path(f'{stem}.py').is_file():
        return f'{stem}.py:{variant}_{last}'.replace(':_', ':')
    folder = Path(file).parent
    if (Path('configs') / file).is_file():
        raise UserError(f"no config file {file!r}; did you mean 'configs/{path}'?")
    names = sorted(found.name for found in folder.glob('*.py') if folder != Path())
    others = f'; {folder} has: {", ".join(names)}' if names else '; those of ours are in configs/'
    raise UserError(f'no config file {file!r}{others}')


def field_of(override: str) -> str:
    """The field that '--config.FIELD=VALUE' sets, by its name of today."""
    name = override.partition('=')[0]
    return config_lib.current_name(name.lstrip('-').removeprefix('config.'))


def _renamed(override: str) -> str:
    _, equals, value = override.partition('=')
    name = field_of(override)
    return f'--config.{name}{equals}{config_lib.current_value(name, value)}'


def _reason(path: str, overrides: Sequence[str], error: BaseException) -> str:
    """Why a config does not load: an override's field or value, or the file's own line."""
    for override in overrides:
        field = override.removeprefix('--config.').partition('=')[0]
        if field not in FIELDS:
            return f'the config has no field {field!r}{suggestion(field, FIELDS)}'
        if str(error).strip('"\'') in field.split('.'):
            return f'{path} has no field {field!r}'
        if str(error).startswith(f'flag {override}:'):
            value = override.partition('=')[2]
            return f'{field} must be {FIELDS[field].range.words}; got {value!r}'
    file = path.partition(':')[0]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(file)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    said = str(error).strip() or 'no message'
    if _WRAPPED in said:  # ml_collections hands on a traceback as text
        if found := re.search(r'\bno variant .*', said.splitlines()[-1]):
            return f'{file}: {found[0]}'
        lines = re.findall(rf'File "{re.escape(file)}", line (\d+)', said) or lines
        return f'{file}, line {lines[-1] if lines else "?"}: {said.splitlines()[-1]}'
    what = said.splitlines()[0]
    if not lines:
        return f'{path}: {what}'
    return f'{file}, line {lines[-1]}: {type(error).__name__}: {what}'
