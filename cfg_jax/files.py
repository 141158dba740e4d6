"""Paths as users write them; files written whole or not at all; damage as one sentence."""

import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import os
import re
import struct
import tokenize
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from typing import IO, Any, TypeVar, cast

import numpy as np
from absl import logging
from etils import epath

from cfg_jax.errors import UserError

_T = TypeVar('_T')

# What NumPy, zipfile and json raise over bytes of another kind, or cut or changed anywhere.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)
_ADVICE = 'copy it again, or remove it and run again'

# Storage that etils reaches, and the package that it needs for that where TensorFlow is missing.
_REMOTE = {'gs': 'gcsfs', 's3': 's3fs', 'az': 'adlfs'}


# TensorStore's words where a store does not answer, or not us.
_NO_ANSWER = re.compile(r'(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|RESOURCE_EXHAUSTED|CANCELLED)\b')
_FORBIDDEN = re.compile(r'(Forbidden|Unauthorized|Invalid Credentials|PERMISSION_DENIED|UNAUTHENT)')


class Damaged(UserError):
    """A file that is not what its name promises."""


def as_path(path: epath.PathLike) -> epath.Path:
    """The path that a user wrote: `~` is expanded, gs:// stays as it is.

    Everything that opens a file comes through here.

    Raises:
      UserError: storage of an unknown kind, or a package that is missing for it.
    """
    text = os.fspath(path)
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*):/', text)
    if scheme is None:
        return epath.Path(text).expanduser()
    package = _REMOTE.get(scheme[1])
    if package is None:
        raise UserError(f'{text}: paths are local or begin with gs://, s3:// or az://')
    if not text.startswith(f'{scheme[1]}://'):
        raise UserError(f'{text}: write {scheme[1]}:// with two slashes')
    if not any(importlib.util.find_spec(name) for name in (package, 'tensorflow')):
        raise UserError(f'{text} needs the package {package}; install it: pip install {package}')
    return epath.Path(text)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on an object store."""
    return '://' in os.fspath(path)


def refusal(error: BaseException) -> str | None:
    """The sentence of an error by which an object store refuses this account, or None.

    gcsfs raises an OSError without a number, TensorStore a ValueError that begins with a status.
    """
    text = str(error)
    known = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno is None)
    if not known or not _FORBIDDEN.match(text):
        return None
    reason = ' '.join(text.splitlines()[1:]).strip() or text.splitlines()[0]
    return (
        f'{_object_of(text)}: no permission ({reason[:200]}); see who is logged in, and its roles'
    )


def outage(error: BaseException) -> str | None:
    """The sentence of an error of an object store that does not answer, or None.

    Its clients have tried again for half a minute before they raise it.
    """
    of_client = type(error).__module__.partition('.')[0] in ('aiohttp', 'gcsfs')
    if of_client or (isinstance(error, ValueError) and _NO_ANSWER.match(str(error))):
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return f'the storage does not answer ({reason})'
    return None


@contextlib.contextmanager
def warned_of(what: str, then: str = '') -> Iterator[None]:
    """Where storage fails the block, a warning that `what` could not be written is all that comes.

    For what is worth less than the work that it is written in.

    Args:
      what: is written.
      then: what happens now, in a clause.
    """
    try:
        yield
    except Exception as error:
        reason = outage(error)
        if isinstance(error, OSError):
            reason = error.strerror or (str(error).strip() or type(error).__name__).splitlines()[0]
        if reason is None:
            raise
        logging.warning(f'{what} could not be written ({reason}){then and f"; {then}"}')


def missing(error: FileNotFoundError) -> str | None:
    """The sentence of an object or bucket that is not there; None for a local file."""
    text = str(error)
    place = _object_of(text)
    if error.errno is not None or not place.startswith('gs://'):
        return None
    if '/upload/' in text:  # where something is written, only the bucket can be missing
        return f'there is no bucket {place[len("gs://") :].partition("/")[0]!r}; make it first'
    return f'{place}: no such object'


def _object_of(text: str) -> str:
    """gs://BUCKET/NAME from the address of a request, or 'the storage'."""
    found = re.search(r'\bb/([^/?\s]+)/o(?:(?:/|\?name=)([^&\s]*))?', text)
    if found is None:
        return 'the storage'
    return f'gs://{found[1]}/{urllib.parse.unquote(found[2] or "")}'


def absolute(path: epath.PathLike) -> epath.Path:
    """`as_path`, a local one made absolute: Orbax takes no other."""
    path = as_path(path)
    return path if is_remote(path) else path.resolve()


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end, in one atomic rename.

    On object stores, a plain write. Directories above it are made. If the block raises, what was
    written is removed and `path` is as before.

    Raises:
      UserError: `path` is a directory.
      OSError: no room, no permission.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # an object store makes a finished upload visible at once
        with path.open('wb') as file:
            yield file
        return
    if path.is_dir():
        raise UserError(f'{path} is a directory; name a file')
    temporary = path.parent / f'.{path.name}.{os.getpid()}.tmp'
    try:
        with temporary.open('wb') as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: epath.PathLike, source: epath.PathLike | None = None) -> None:
    """Raises UserError where `replacing(path)` would fail at once; asked before long work.

    `source` is a file that the work reads: it is not replaced by what is made of it.
    """
    path = as_path(path)
    if is_remote(path):
        return
    if path.is_dir():
        raise UserError(f'{path} is a directory; name a file')
    if source is not None and os.path.realpath(path) == os.path.realpath(as_path(source)):
        raise UserError(f'{path} is what is read, and would be lost; write to another file')
    parent = absolute(path.parent)
    above = next(each for each in (parent, *parent.parents) if each.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        what = 'cannot be written in' if above.is_dir() else 'is a file'
        raise UserError(f'{path} cannot be written: {above} {what}; write to another place')


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Replaces `path` by `content`, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: epath.PathLike, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + '\n').encode())


def write_npz(path: epath.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """`write_bytes` of an uncompressed `.npz`."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def damage_reported(path: epath.PathLike, advice: str) -> Iterator[None]:
    """Turns whatever reading a damaged or foreign file inside raises into `Damaged`.

    `advice` ends its sentence: 'PATH is damaged or of another kind; ADVICE'.
    """
    try:
        yield
    except (*_DAMAGE, Damaged, OSError) as error:
        # zipfile seeks where a damaged directory sends it.
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EISDIR):
            raise
        raise Damaged(f'{os.fspath(path)} is damaged or of another kind; {advice}') from error


def read_json(
    path: epath.PathLike,
    kind: type[_T] = dict,
    keys: Iterable[str] = (),
    advice: str = _ADVICE,
) -> _T:
    """The value of a JSON file of ours.

    Args:
      path: of the file.
      kind: what it must hold.
      keys: that an object must have.
      advice: see `damage_reported`.

    Raises:
      Damaged: anything else than such a file.
      OSError: no file, or the storage fails.
    """
    with damage_reported(path, advice):
        value = json.loads(as_path(path).read_bytes())
        for key in keys:
            value[key]
        if not isinstance(value, kind):
            raise TypeError(f'{type(value).__name__} instead of {kind.__name__}')
        return value


def read_npz(
    path: epath.PathLike,
    only: Container[str] | None = None,
    keys: Iterable[str] = (),
    advice: str = _ADVICE,
) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, or those named in `only`; pickled objects are refused.

    Args:
      path: of the file.
      only: names of the arrays to read; by default all.
      keys: names that it must hold.
      advice: see `damage_reported`.

    Raises:
      Damaged: anything else than such a file.
      OSError: no file, or the storage fails.
    """
    with (
        damage_reported(path, advice),
        as_path(path).open('rb') as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        arrays = {name: archive[name] for name in archive.files if only is None or name in only}
        for key in keys:
            arrays[key]
        return arrays


def read_or_set_aside(path: epath.PathLike, read: Callable[[epath.Path], _T]) -> _T | None:
    """`read(path)` of a file that can be computed again; None where it is missing or damaged.

    A damaged one is renamed to NAME.damaged, with a warning.

    Args:
      path: of the file.
      read: raises `Damaged`, such as `read_json` and `read_npz`.
    """
    path = as_path(path)
    if not path.exists():
        return None
    try:
        return read(path)
    except Damaged:
        aside = set_aside(path)
        logging.warning(f'{path} is damaged; it is kept as {aside.name} and made again')
        return None


def set_aside(path: epath.Path) -> epath.Path:
    """Renames a file or directory to NAME.damaged, NAME.damaged_1, ...; returns its new path."""
    names = (f'{path.name}.damaged{"_" * bool(n)}{n or ""}' for n in range(10_000))
    aside = next(path.parent / name for name in names if not (path.parent / name).exists())
    return rename(path, aside)


def rename(path: epath.Path, target: epath.Path) -> epath.Path:
    """Renames a file or directory; on an object store, by copies there; returns `target`."""
    if not is_remote(path):
        return path.rename(target)
    if path.is_dir():
        for part in path.iterdir():
            rename(part, target / part.name)
        path.rmtree(missing_ok=True)
    else:
        path.copy(target)
        path.unlink()
    return target


def sha256_of_file(path: epath.PathLike) -> str:
    """Hash of a file's bytes."""
    with as_path(path).open('rb') as file:
        return hashlib.file_digest(cast(Any, file), 'sha256').hexdigest()


def sha256_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Hash of names, shapes, dtypes and values; independent of how a file stores them."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
