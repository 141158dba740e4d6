"""Tensors of a PyTorch state dict, read without PyTorch and without running what the file names.

A pickle can name any function and have it called. The unpickler here knows four names besides the
storage types, calls nothing of PyTorch, and refuses the file at any other name.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cfg_jax.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C  # begins the format from before PyTorch 1.6
_PROTOCOL = 1001
_STORAGES = {
    ('torch', 'HalfStorage'): '<f2',
    ('torch', 'FloatStorage'): '<f4',
    ('torch', 'DoubleStorage'): '<f8',
    ('torch', 'LongStorage'): '<i8',
}


class _Storage(NamedTuple):
    """A flat array elsewhere in the file."""

    dtype: str
    key: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Tensors by name; entries that are not tensors are left out.

    Raises:
      UserError: the file is cut off, damaged, no state dict, or asks for code to be run.
    """
    path = epath.Path(path)
    content = path.read_bytes()
    try:
        if content.startswith(b'PK'):
            state, flat = _read_zip(path, content)
        else:
            state, flat = _read_legacy(path, content)
        return {
            name: _array(value, flat(value.storage))
            for name, value in state.items()
            if isinstance(value, _Tensor)
        }
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f'{path} is cut off or no PyTorch state dict; get it again') from error


class _Unpickler(pickle.Unpickler):
    """Builds containers, numbers, strings and `_Tensor`s, nothing else."""

    def __init__(self, path: epath.Path, file: io.BytesIO):
        super().__init__(file, encoding='utf-8')
        self._path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED | _STORAGES
        if (module, name) not in allowed:
            raise UserError(
                f'{self._path} asks to run the code {module}.{name} and was refused; give a state'
                ' dict, which holds tensors alone'
            )
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != 'storage' or dtype not in _STORAGES.values() or any(view):
            raise pickle.UnpicklingError(f'no storage: {pid!r}')
        return self.storages.setdefault(key, _Storage(dtype, key, size))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
}


def _read_zip(
    path: epath.Path, content: bytes
) -> tuple[dict[str, Any], Callable[[_Storage], np.ndarray]]:
    """The state dict and what finds a storage: ROOT/data.pkl and ROOT/data/KEY of a zip file."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    (pickled,) = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    root = pickled.removesuffix('/data.pkl')
    if f'{root}/byteorder' in archive.namelist():
        _check_byte_order(path, archive.read(f'{root}/byteorder') == b'little')

    def flat(storage: _Storage) -> np.ndarray:
        entry = archive.getinfo(f'{root}/data/{storage.key}')
        if entry.file_size != storage.size * np.dtype(storage.dtype).itemsize:
            raise ValueError(f'storage {storage.key} has {entry.file_size} bytes')
        return np.frombuffer(archive.read(entry), storage.dtype)

    return _Unpickler(path, io.BytesIO(archive.read(pickled))).load(), flat


def _read_legacy(
    path: epath.Path, content: bytes
) -> tuple[dict[str, Any], Callable[[_Storage], np.ndarray]]:
    """As `_read_zip`, of five pickles, then for each storage its int64 size and its bytes."""
    file = io.BytesIO(content)
    if [_Unpickler(path, file).load() for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise ValueError('not the magic numbers of PyTorch')
    _check_byte_order(path, _Unpickler(path, file).load()['little_endian'])
    unpickler = _Unpickler(path, file)
    state = unpickler.load()
    flats = {}
    for key in _Unpickler(path, file).load():
        storage = unpickler.storages[key]
        size = int.from_bytes(file.read(8), 'little')
        if size != storage.size:
            raise ValueError(f'storage {key} has {size} elements')
        flats[key] = np.frombuffer(content, storage.dtype, size, file.tell())
        file.seek(flats[key].nbytes, io.SEEK_CUR)
    return state, lambda storage: flats[storage.key]


def _check_byte_order(path: epath.Path, little_endian: bool) -> None:
    if not little_endian:
        raise UserError(f'{path} was written on a big-endian machine; save it on another')


def _array(tensor: _Tensor, flat: np.ndarray) -> np.ndarray:
    """A contiguous copy of the view; ValueError if it leaves the storage."""
    count = math.prod(tensor.shape)
    steps = list(zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or count > flat.size:
        raise ValueError(f'impossible view {tensor}')
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    if count and last >= flat.size:
        raise ValueError(f'view past the end {tensor}')
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()
