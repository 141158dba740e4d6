"""Where a run's numbers go: metrics.jsonl always, TensorBoard where TensorFlow can be imported."""

import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping

from etils import epath

from cfg_jax import files

_REPORT_SECONDS = 10.0


class MetricWriter:
    """Appends one JSON object per row to WORKDIR/metrics.jsonl, and mirrors it to TensorBoard.

    Rows after `resume_step` are dropped first: a resumed run writes them again.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int = 0):
        self._path = files.as_path(workdir) / 'metrics.jsonl'
        self._rows = [row for row in read_metrics(workdir) if row['step'] <= resume_step]
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
            self._tensorboard.write_scalars(step, dict(values))

    def close(self) -> None:
        """Flushes TensorBoard's files."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _rewrite(self) -> None:
        text = ''.join(json.dumps(row) + '\n' for row in self._rows)
        files.write_bytes(self._path, text.encode())


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
    """The rows of a work directory's metrics.jsonl; a line torn by a killed process is left out."""
    path = files.as_path(workdir) / 'metrics.jsonl'
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _tensorboard_writer(workdir: epath.PathLike):
    if importlib.util.find_spec('tensorflow') is None:
        return None
    from clu import metric_writers  # imports TensorFlow

    return metric_writers.SummaryWriter(os.fspath(files.as_path(workdir) / 'tensorboard'))


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
