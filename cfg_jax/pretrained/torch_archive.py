"""Tensors of a PyTorch state dict, read without PyTorch and without running what the file names.

A pickle can name any function and have it called. The unpickler here knows four names besides the
storage types, calls nothing of PyTorch, and refuses the file at any other name.
"""

import collections
import contextlib
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

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


class Storage(NamedTuple):
    """A flat array elsewhere in the file."""

    dtype: str
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


Flat = Callable[[Storage], np.ndarray]  # the elements of a storage


class StateDict(Mapping[str, np.ndarray]):
    """Tensors by name, each read when it is asked for: memory holds what the caller keeps.

    The file stays open as long as this lives. Reading a tensor raises UserError where the file is
    cut off or damaged there.

    Attributes:
      attributes: what the file says of the network besides its tensors; empty for PyTorch's own.
    """

    def __init__(
        self,
        path: epath.Path,
        tensors: Mapping[str, Tensor],
        flat: Flat,
        attributes: Mapping[str, Any] | None = None,
    ):
        for tensor in tensors.values():
            check_view(tensor)
        self._path, self._tensors, self._flat = path, tensors, flat
        self.attributes = dict(attributes or {})

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        with damage_reported(self._path):
            return _array(tensor, self._flat(tensor.storage))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, which is not read for it."""
        return self._tensors[name].shape


def open_state_dict(path: epath.PathLike) -> StateDict:
    """The state dict of a file; entries that are not tensors are left out.

    Raises:
      UserError: the file is cut off, damaged, not a state dict, or asks for code to be run; or it
        holds state dicts by name, or tensors of a type that is not known.
    """
    path = epath.Path(path)
    file = path.open('rb')
    with damage_reported(path):
        is_zip = file.read(2) == b'PK'
        file.seek(0)
        state, flat = (_read_zip if is_zip else read_legacy)(path, file)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if not tensors:
            _check_not_inside(path, state)
        return StateDict(path, tensors, flat)


def _check_not_inside(path: epath.Path, state: Mapping[str, Any]) -> None:
    """UserError where tensors lie one deeper, as in the files that trainings write."""
    inside = [
        name
        for name, value in state.items()
        if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values())
    ]
    if inside:
        raise UserError(
            f'{path} holds state dicts under {", ".join(map(repr, inside))}; save one of them alone'
            f' with PyTorch: torch.save(torch.load(FILE)[{inside[0]!r}], OTHER)'
        )


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """All tensors by name, in memory; see `open_state_dict`."""
    return dict(open_state_dict(path))


@contextlib.contextmanager
def damage_reported(path: epath.Path) -> Iterator[None]:
    """Turns whatever a damaged pickle or archive raises, nearly anything, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'{path} is cut off or no PyTorch state dict; give the file as it was published'
        ) from error


class Unpickler(pickle.Unpickler):
    """Builds containers, numbers, strings and `Tensor`s, nothing else.

    Args:
      path: of the file, for messages.
      file: at the pickle.
      more: what further names stand for, by (module, name).
    """

    def __init__(
        self, path: epath.Path, file: IO[bytes], more: Mapping[tuple[str, str], Any] | None = None
    ):
        super().__init__(file, encoding='utf-8')
        self._path = path
        self._allowed = _ALLOWED | _STORAGES | dict(more or {})
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for; UserError if it is not one of the known ones.

        A storage of another type is no code, though it is asked for by name as code is.
        """
        if (module, name) not in self._allowed:
            if module == 'torch' and name.endswith('Storage'):
                kind = name.removesuffix('Storage').lower()
                raise UserError(
                    f'{self._path} holds tensors of {kind}; get the file in float32, or save it so'
                )
            raise UserError(
                f'{self._path} asks to run the code {module}.{name} and was refused; give a state'
                ' dict, which holds tensors alone'
            )
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a tensor is a view of."""
        kind, dtype, key, _, size, *view = pid
        if kind != 'storage' or dtype not in _STORAGES.values() or any(view):
            raise pickle.UnpicklingError(f'no storage: {pid!r}')
        return self.storages.setdefault(key, Storage(dtype, key, size))


def _rebuild_tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Tensor:
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


_ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
}


def _read_zip(path: epath.Path, file: IO[bytes]) -> tuple[dict[str, Any], Flat]:
    """The state dict and what finds a storage: ROOT/data.pkl and ROOT/data/KEY of a zip file."""
    archive = zipfile.ZipFile(file)
    (pickled,) = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    root = pickled.removesuffix('/data.pkl')
    if f'{root}/byteorder' in archive.namelist():
        _check_byte_order(path, archive.read(_stored(archive, f'{root}/byteorder')) == b'little')

    def entry(storage: Storage) -> zipfile.ZipInfo:
        found = _stored(archive, f'{root}/data/{storage.key}')
        if found.file_size != storage.size * np.dtype(storage.dtype).itemsize:
            raise ValueError(f'storage {storage.key} has {found.file_size} bytes')
        return found

    unpickler = Unpickler(path, io.BytesIO(archive.read(_stored(archive, pickled))))
    state = unpickler.load()
    for storage in unpickler.storages.values():
        entry(storage)
    return state, lambda storage: np.frombuffer(archive.read(entry(storage)), storage.dtype)


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """An entry that is stored, as PyTorch writes all: a packed one could unfold to any size."""
    found = archive.getinfo(name)
    if found.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f'{name} is packed')
    return found


def read_legacy(path: epath.Path, file: IO[bytes]) -> tuple[Any, Flat]:
    """As `_read_zip`, of five pickles, then for each storage its int64 size and its bytes."""
    if [Unpickler(path, file).load() for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise ValueError('not the magic numbers of PyTorch')
    _check_byte_order(path, Unpickler(path, file).load()['little_endian'])
    unpickler = Unpickler(path, file)
    state = unpickler.load()
    starts = {}
    keys = Unpickler(path, file).load()
    start = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(start)
    for key in keys:
        storage = unpickler.storages[key]
        size = int.from_bytes(file.read(8), 'little')
        if size != storage.size:
            raise ValueError(f'storage {key} has {size} elements')
        starts[key] = file.tell()
        if file.seek(size * np.dtype(storage.dtype).itemsize, io.SEEK_CUR) > end:
            raise ValueError(f'storage {key} is cut off')

    def flat(storage: Storage) -> np.ndarray:
        file.seek(starts[storage.key])
        content = file.read(storage.size * np.dtype(storage.dtype).itemsize)
        return np.frombuffer(content, storage.dtype, storage.size)

    return state, flat


def _check_byte_order(path: epath.Path, little_endian: bool) -> None:
    if not little_endian:
        raise UserError(f'{path} was written on a big-endian machine; save it on another')


def check_view(tensor: Tensor) -> None:
    """ValueError if the view leaves its storage."""
    count = math.prod(tensor.shape)
    steps = list(zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or count > tensor.storage.size:
        raise ValueError(f'impossible view {tensor}')
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    if count and last >= tensor.storage.size:
        raise ValueError(f'view past the end {tensor}')


def _array(tensor: Tensor, flat: np.ndarray) -> np.ndarray:
    """The view as a contiguous array: a copy, unless it is the whole storage as it lies there."""
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    if view.size != flat.size or not view.flags.c_contiguous:
        view = view.copy()
    return view.reshape(tensor.shape)
