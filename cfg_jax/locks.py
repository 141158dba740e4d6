"""One holder at a time for a directory that several commands could write.

A lock is a small file that names its holder: host, process, and when that process began. The
holder writes it again every few seconds, so that another host can see that it is alive; on the
same host the process itself is looked for, so that a lock left by `kill -9` blocks nobody.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from cfg_jax import files
from cfg_jax.errors import UserError

_BEAT_SECONDS = 20.0
_PATIENCE = 65.0  # without a beat: three of them may be late
_SETTLE_SECONDS = 0.5  # two that take over a lock at once: the last one to write has it


class Held:
    """A lock while it is held; a thread beats.

    A process that stood still for longer than others wait, as on a machine that was suspended, may
    have lost it.

    Args: as of `hold`, and what the lock says of this process.
    """

    def __init__(self, path: epath.Path, busy: str, mine: dict[str, Any]):
        self._path, self._busy, self._mine = path, busy, mine
        self._one_at_a_time = threading.Lock()
        self._looked = self._beaten = time.time()
        self._lost = ''
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='lock', daemon=True)
        self._thread.start()

    def check(self) -> None:
        """To be called before each piece of work, however small.

        Raises:
          UserError: another process has taken the lock over.
        """
        # Of a process that wakes up, this thread may be the first to run.
        if abs(time.time() - self._looked) > _PATIENCE / 2:
            self._beat()
        if self._lost:
            raise UserError(self._lost)

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_BEAT_SECONDS) and not self._lost:
            self._beat()

    def _beat(self) -> None:
        """Says that this process is alive, unless another one has the lock."""
        with self._one_at_a_time:
            self._looked = time.time()
            try:
                holder = _read(self._path)
                # It may have been removed by hand; after a silence, by one that came and is gone.
                missed = holder is None and abs(self._looked - self._beaten) > _PATIENCE
                if missed or (holder is not None and not _same(holder, self._mine)):
                    self._lost = self._sentence(holder)
                    return
                self._mine['beat'] += 1
                files.write_json(self._path, self._mine)
                self._beaten = self._looked
            except Exception as error:  # the work itself reports a full or lost disk
                if not isinstance(error, OSError) and files.outage(error) is None:
                    raise

    def _sentence(self, holder: dict[str, Any] | None) -> str:
        other = 'another process' if holder is None else _named(holder)
        return (
            f'{self._busy} by {other}, which took over while this process stood still; this one'
            ' has stopped; wait for the other to end before you run it again'
        )


@contextlib.contextmanager
def hold(path: epath.PathLike, busy: str) -> Iterator[Held]:
    """Holds the lock `path` while the block runs, which calls `check` of it now and then.

    Args:
      path: of the lock file; its directory is made.
      busy: what is being done there, for the message: 'runs/digits is being trained'.

    Raises:
      UserError: another process holds it; names its host and process.
    """
    path = files.as_path(path)
    mine = _this_process()
    _acquire(path, mine, busy)
    held = Held(path, busy, mine)
    try:
        yield held
    finally:
        held.close()
        with contextlib.suppress(OSError):
            if _same(_read(path), mine):
                path.unlink()


def _acquire(path: epath.Path, mine: dict[str, Any], busy: str) -> None:
    if _create(path, mine):
        return
    holder = _read(path)
    if holder is None:  # one that made it this moment may not have written yet
        time.sleep(_SETTLE_SECONDS)
        holder = _read(path)
    if holder is not None and not _is_gone(path, holder, busy):
        raise UserError(f'{busy} by {_named(holder)}; wait for it to end, or stop it first')
    files.write_json(path, mine)
    time.sleep(_SETTLE_SECONDS)
    if not _same(_read(path), mine):
        raise UserError(f'{busy} by another process, which began at the same moment')


def _create(path: epath.Path, mine: dict[str, Any]) -> bool:
    """Whether the lock was free; then it is ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if files.is_remote(path):
        return False  # an object store has no exclusive creation that etils knows
    try:
        with Path(path).open('x') as file:
            json.dump(mine, file)
    except FileExistsError:
        return False
    return True


def _read(path: epath.Path) -> dict[str, Any] | None:
    """The holder; None where there is none, or the file says nothing."""
    try:
        return files.read_json(path)
    except (files.Damaged, FileNotFoundError):
        return None


def _is_gone(path: epath.Path, holder: dict[str, Any], busy: str) -> bool:
    here = _this_process()
    if holder.get('machine') == here['machine']:
        return _began(holder.get('pid')) != holder.get('began')
    logging.info(
        f'{busy} on {holder.get("host")}; waiting up to {_PATIENCE:.0f} s for a sign of it'
    )
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        time.sleep(_BEAT_SECONDS / 10)
        now = _read(path)
        if now is None:
            return True
        if now != holder:
            return False
    return True


def _named(holder: dict[str, Any]) -> str:
    since = holder.get('since', 'an unknown time')
    return f'process {holder.get("pid")} on {holder.get("host")} since {since}'


def _same(holder: dict[str, Any] | None, mine: dict[str, Any]) -> bool:
    return holder is not None and all(holder.get(key) == mine[key] for key in ('machine', 'pid'))


def _this_process() -> dict[str, Any]:
    return {
        'host': socket.gethostname(),
        'machine': _machine(),
        'pid': os.getpid(),
        'began': _began(os.getpid()),
        'since': time.strftime('%Y-%m-%d %H:%M:%S'),
        'beat': 0,
    }


def _machine() -> str:
    """Where a process number means something: a boot of a host, or a container on it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
        parts.append(str(Path('/proc/self/ns/pid').readlink()))
    return ' '.join(parts)


def _began(pid: Any) -> str | None:
    """When the process `pid` of this machine began; None if it has ended.

    A number may have been given to another process since.
    """
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        # Fields 3 (state) and 22 (ticks since the boot); the second one may hold spaces.
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        return None if fields[0] in 'ZX' else fields[19]
    except OSError:
        if Path('/proc/self/stat').exists():
            return None
    try:  # no /proc on this system: whether it is there at all
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 'unknown'
