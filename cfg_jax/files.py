"""Writing files so that a killed process leaves the old content or the new, never half of it."""

import contextlib
import hashlib
import io
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Container, Iterator
from typing import Any

import numpy as np
from etils import epath

from cfg_jax.errors import UserError

# What NumPy and zipfile raise over bytes that are no `.npz`, or one cut or changed anywhere.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    IsADirectoryError,
)


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Replaces `path` by `content` in one atomic rename (a plain write on object stores)."""
    path = epath.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if '://' in os.fspath(path):  # an object store makes a finished upload visible at once
        path.write_bytes(content)
        return
    temporary = path.parent / f'.{path.name}.{os.getpid()}.tmp'
    temporary.write_bytes(content)
    temporary.replace(path)


def write_json(path: epath.PathLike, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + '\n').encode())


def write_npz(path: epath.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """`write_bytes` of an uncompressed `.npz`."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def damage_reported(path: epath.PathLike, advice: str) -> Iterator[None]:
    """Turns whatever reading a damaged or foreign `.npz` inside raises into a UserError.

    `advice` ends its sentence: 'PATH is damaged or of another kind; ADVICE'.
    """
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f'{os.fspath(path)} is damaged or of another kind; {advice}') from error


def read_json(path: epath.PathLike) -> Any:
    """The value of a JSON file."""
    return json.loads(epath.Path(path).expanduser().read_text())


def read_npz(path: epath.PathLike, only: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, or those named in `only`; pickled objects are refused."""
    path = epath.Path(path).expanduser()
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if only is None or name in only}


def sha256_of_file(path: epath.PathLike) -> str:
    """Hash of a file's bytes."""
    with epath.Path(path).expanduser().open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def sha256_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Hash of names, shapes, dtypes and values; independent of how a file stores them."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
