"""Writing files so that a killed process leaves the old content or the new, never half of it."""

import hashlib
import io
import json
import os
from typing import Any

import numpy as np
from etils import epath


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Replaces `path` by `content` in one atomic rename (a plain write on object stores)."""
    path = epath.Path(path)
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


def read_json(path: epath.PathLike) -> Any:
    """The value of a JSON file."""
    return json.loads(epath.Path(path).read_text())


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`; pickled objects are refused."""
    with np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def sha256_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Hash of names, shapes, dtypes and values; independent of how a file stores them."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
