"""Exported models: EMA weights as one safetensors file, with config, step and hashes inside.

Tensors are named by their path in the parameters, such as 'params/down_0_0/conv_in/kernel', and
keep Flax's layouts (convolutions HWIO, dense layers [in, out]). The metadata holds `format`,
`config` (JSON), `step`, `weights_sha256`, `versions` (JSON), `source` (JSON, imported models),
`weights` (which average, where it is not the one that training made), `starts` (JSON, trainings
that began with weights of others, see `training.starting`), and `class_names` (JSON, the data
set's, where it was there to ask).
"""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files
from cfg_jax.data import sources
from cfg_jax.errors import UserError
from cfg_jax.provenance import describe_environment

_T = TypeVar('_T')

FORMAT = 'cfg_jax/1'
SUFFIX = '.safetensors'
EMA = 'ema'  # what a model's provenance calls the average that training made
_ADVICE = 'export or import the model again'
_DTYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16', 'int32': 'I32'}
_ALIGNMENT = 8


def is_export(path: epath.PathLike) -> bool:
    """Whether `path` names an exported file rather than a work directory."""
    return str(path).endswith(SUFFIX)


def is_published(path: epath.PathLike) -> bool:
    """Whether `path` is a file of a model in another format, as its authors published it."""
    path = files.as_path(path)
    return not (is_export(path) or files.is_remote(path)) and path.is_file()


def is_foreign(path: epath.PathLike) -> bool:
    """Whether `path` is a readable safetensors file that `write`, of any edition, did not write."""
    try:
        with _opened(path) as file:
            return not (file.metadata() or {}).get('format', '').startswith('cfg_jax/')
    except UserError:
        return False


def check_suffix(path: epath.PathLike) -> None:
    """Raises UserError unless `path` can name an exported file."""
    if not is_export(path):
        raise UserError(f'{path} must end in {SUFFIX}')


def sha256_of_params(params: Any) -> str:
    """Hash of every parameter's path, shape, dtype and values."""
    leaves = jax.tree.leaves_with_path(jax.device_get(params))
    return files.sha256_of_arrays({jax.tree_util.keystr(p): leaf for p, leaf in leaves})


def write(path: epath.PathLike, params: Any, metadata: dict[str, Any]) -> None:
    """Writes parameters, a nested dict of arrays, and metadata in one atomic step.

    Args:
      path: ends in '.safetensors'.
      params: nested dict of arrays.
      metadata: `config` (a nested dict), `step`, `weights_sha256`, `versions`.

    Raises:
      UserError: another ending.
    """
    check_suffix(path)
    tensors: dict[str, Any] = flatten_dict(jax.device_get(params), sep='/')
    text = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    # Tensor by tensor: the library's own writer makes a second copy of all of them.
    with files.replacing(path) as file:
        header = json.dumps(_header(tensors, {'format': FORMAT} | text)).encode()
        header += b' ' * (-len(header) % _ALIGNMENT)
        file.write(len(header).to_bytes(8, 'little') + header)
        for array in tensors.values():
            file.write(array.tobytes())


def write_model(
    path: epath.PathLike,
    params: Any,
    config: ConfigDict,
    step: int,
    dtype: str = 'float32',
    starts: Sequence[dict[str, Any]] = (),
    source: dict[str, Any] | None = None,
    class_names: Sequence[str] = (),
    weights: str = EMA,
) -> dict[str, Any]:
    """`write` of parameters rounded to `dtype`, with all that identifies them; returns that.

    The hash is of the rounded values in the types of `params`, as which they are read.

    Args:
      path, params, config, step: see `write`.
      dtype: of the numbers in the file.
      starts: see `training.starting.starts_of`.
      source: of a published model, see `read_source`.
      class_names: those that the model's own file holds; by default the data set's.
      weights: which average they are, see `read_weights`.
    """

    def values(leaf: Any) -> np.ndarray:
        return np.asarray(leaf).astype(jnp.dtype(dtype), copy=False)

    rounded = jax.tree.map(lambda leaf: values(leaf).astype(leaf.dtype, copy=False), params)
    metadata = {
        'config': config_lib.to_json(config),
        'step': step,
        'weights_sha256': sha256_of_params(rounded),
        'versions': describe_environment()['versions'],
    }
    if starts:
        metadata['starts'] = list(starts)
    if source:
        metadata['source'] = source
    elif weights != EMA:
        metadata['weights'] = weights
    names = list(class_names)
    if not names and 'data' in config:  # a decoder knows none
        names = sources.names_if_known(config.data)
    if names:
        metadata['class_names'] = names
    write(path, jax.tree.map(values, params), metadata)
    return metadata


def read_config(path: epath.PathLike) -> ConfigDict:
    """The config of an exported file.

    Raises:
      UserError: no such file, or not one that `write` wrote.
    """
    metadata = _metadata(path)
    with files.damage_reported(path, _ADVICE):
        values = json.loads(metadata['config'])
        config = config_lib.from_json(values)
    config_lib.validate(config)
    return config


def read_source(path: epath.PathLike) -> dict[str, Any]:
    """What scripts/import_checkpoint.py recorded of a published file; nothing of our own models."""
    return _recorded(path, 'source', dict)


def read_weights(path: epath.PathLike) -> str:
    """Which average the parameters are: that of training, `EMA`, or 'ema of sigma_rel LENGTH'."""
    return _metadata(path).get('weights', EMA)


def read_starts(path: epath.PathLike) -> list[dict[str, Any]]:
    """`starts` of the metadata; none of a model whose training began at random."""
    return _recorded(path, 'starts', list)


def read_class_names(path: epath.PathLike) -> list[str]:
    """`class_names` of the metadata; none of files of earlier editions and without a data set."""
    return _recorded(path, 'class_names', list)


def read(path: epath.PathLike, like: Any) -> tuple[Any, int, str]:
    """Parameters of the structure of `like` (arrays or `jax.ShapeDtypeStruct`s), step and hash.

    The hash is the one that the file promises, see `sha256_of_params`.

    Raises:
      UserError: no such file, another format, or tensors that differ from `like` in name or shape.
    """
    metadata = _metadata(path)
    with files.damage_reported(path, _ADVICE):
        step, sha256 = int(metadata['step']), metadata['weights_sha256']
    with _opened(path) as file, files.damage_reported(path, _ADVICE):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    expected: dict[str, Any] = flatten_dict(like, sep='/')
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = 'lacks' if name in expected else 'has an unexpected'
        raise UserError(f'{path} {what} tensor {name!r}; it was written with another config')
    for name, leaf in expected.items():
        if tensors[name].shape != leaf.shape:
            raise UserError(
                f'{path}: {name!r} has the shape {tensors[name].shape}, the config asks for'
                f' {leaf.shape}'
            )
        tensors[name] = tensors[name].astype(leaf.dtype)
    return unflatten_dict(tensors, sep='/'), step, sha256


def _header(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> dict[str, Any]:
    """What stands before the bytes of the tensors in a safetensors file."""
    header: dict[str, Any] = {'__metadata__': metadata}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {
            'dtype': _DTYPES[array.dtype.name],
            'shape': list(array.shape),
            'data_offsets': [start, end],
        }
    return header


def _recorded(path: epath.PathLike, name: str, kind: type[_T]) -> _T:
    """The value of this type under a name of the metadata; an empty one where it is not there."""
    metadata = _metadata(path)
    with files.damage_reported(path, _ADVICE):
        value = json.loads(metadata[name]) if name in metadata else kind()
        if not isinstance(value, kind):
            raise TypeError(f'{name} is a {type(value).__name__}')
        return value


def _metadata(path: epath.PathLike) -> dict[str, str]:
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if metadata.get('format') != FORMAT:
        raise UserError(f'{path} was not written by scripts/export.py (no format {FORMAT!r})')
    return metadata


def _opened(path: epath.PathLike) -> Any:
    path = files.as_path(path)
    if files.is_remote(path):
        raise UserError(f'{path}: copy the file to this machine first')
    if not path.is_file():
        what = 'is a directory' if path.is_dir() else 'does not exist'
        raise UserError(f'{path} {what}; name a file of scripts/export.py or import_checkpoint.py')
    try:
        return safetensors.safe_open(path, framework='numpy')
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f'{path} is not a readable safetensors file ({error})') from error
