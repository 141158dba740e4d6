"""Where a run's numbers go: metrics.jsonl always, TensorBoard where it is installed."""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
from etils import epath

from cfg_jax import files

_REPORT_SECONDS = 10.0
_INSTALL = 'metrics.jsonl has every number; for TensorBoard: pip install tensorboard'


class MetricWriter:
    """Appends one JSON object per row to WORKDIR/metrics.jsonl, and mirrors it to TensorBoard.

    Rows after `resume_step` are dropped first: a resumed run writes them again. A file with lines
    that are no rows is kept as metrics.jsonl.damaged. TensorBoard is left out, with a line that
    says so, where it is missing or fails.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int = 0):
        self._path = files.as_path(workdir) / 'metrics.jsonl'
        rows, whole = _read(self._path)
        if not whole:
            aside = files.set_aside(self._path)
            logging.warning(f'{self._path} is damaged in part; it is kept as {aside.name}')
        self._rows = [row for row in rows if row['step'] <= resume_step]
        self._rewrite()
        self._tensorboard = _tensorboard_writer(workdir)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; it is on disk when this returns."""
        self._rows.append({'step': step} | dict(values))
        if files.is_remote(self._path):
            self._rewrite()  # an object store cannot append
        else:
            with self._path.open('a') as file:
                file.write(json.dumps(self._rows[-1]) + '\n')
        if self._tensorboard is not None:
            self._mirror(step, values)

    def close(self) -> None:
        """Flushes TensorBoard's files."""
        writer, self._tensorboard = self._tensorboard, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:  # whatever it is, the training is worth more
                _report(error)

    def _mirror(self, step: int, values: Mapping[str, float]) -> None:
        try:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()
        except Exception as error:  # whatever it is, the training is worth more
            self._tensorboard = None
            _report(error)

    def _rewrite(self) -> None:
        text = ''.join(json.dumps(row) + '\n' for row in self._rows)
        files.write_bytes(self._path, text.encode())


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
    """The rows of a work directory's metrics.jsonl; lines that are no rows are left out."""
    return _read(files.as_path(workdir) / 'metrics.jsonl')[0]


def _read(path: epath.Path) -> tuple[list[dict[str, float]], bool]:
    """The rows of the file, and whether nothing else is in it but a last line torn by a kill."""
    if not path.exists():
        return [], True
    if path.is_dir():
        return [], False
    lines = path.read_bytes().splitlines()
    rows = [_row(line) for line in lines]
    return [row for row in rows if row is not None], None not in rows[:-1]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get('step'), int) else None


def _tensorboard_writer(workdir: epath.PathLike):
    try:
        from tensorboard.summary import Writer  # needs no TensorFlow

        return Writer(os.fspath(files.as_path(workdir) / 'tensorboard'))
    except Exception as error:  # a broken TensorFlow next to it raises anything
        _report(error)
        return None


def _report(error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    logging.info(f'TensorBoard is left out ({reason}); {_INSTALL}')


class Progress:
    """Rate and time left of a long job that counts units."""

    def __init__(self, total: int, done: int = 0):
        self._total = total
        self._last_done = done
        self._last_time = time.monotonic()
        self.rate = 0.0

    def update(self, done: int) -> float:
        """Takes note of `done` units so far; returns units per second since the last call."""
        now = time.monotonic()
        self.rate = (done - self._last_done) / max(now - self._last_time, 1e-9)
        self._last_done, self._last_time = done, now
        return self.rate

    def seconds_left(self) -> float:
        """Time left at the latest rate."""
        return (self._total - self._last_done) / max(self.rate, 1e-9)


class ImageReport:
    """Tells how far a pass over images is: every 10 s, and at its end if that took longer.

    Args:
      total: images in all.
      report: receives the lines.
      done: images that an earlier run has done.
    """

    def __init__(self, total: int, report: Callable[[str], None], done: int = 0):
        self._total, self._report = total, report
        self._progress = Progress(total, done)
        self._last = self._start = time.monotonic()

    def tell(self, done: int) -> None:
        """Takes note of `done` images so far."""
        now = time.monotonic()
        at_the_end = done == self._total and now - self._start > _REPORT_SECONDS
        if now - self._last < _REPORT_SECONDS and not at_the_end:
            return
        self._last = now
        rate = self._progress.update(done)
        left = format_duration(self._progress.seconds_left())
        self._report(f'{done:,}/{self._total:,} images  {rate:,.1f} images/s  {left} left')


def format_duration(seconds: float) -> str:
    """'41s', '3m 05s', '2h 07m' or '4d 03h'."""
    minutes, secs = divmod(round(seconds), 60)
    hours, mins = divmod(minutes, 60)
    if minutes < 1:
        return f'{secs}s'
    if hours < 1:
        return f'{mins}m {secs:02d}s'
    if hours < 24:
        return f'{hours}h {mins:02d}m'
    return f'{hours // 24}d {hours % 24:02d}h'
