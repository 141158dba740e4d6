"""Where a run's numbers go: metrics.jsonl always, TensorBoard where it is installed."""

import json
import os
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from cfg_jax import files

_INSTALL = 'metrics.jsonl has every number; for TensorBoard: pip install tensorboard'


class MetricWriter:
    """Appends one JSON object per row to WORKDIR/metrics.jsonl, and mirrors it to TensorBoard.

    A disk without room costs a warning; the rows are written later, if there is room by then.

    Rows after `resume_step` are dropped first: a resumed run writes them again. A file with lines
    that are not rows is kept as metrics.jsonl.damaged. TensorBoard is left out, with a line that
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
        self._behind = False  # whether the file lacks rows, or ends in a torn line
        self._tensorboard = _tensorboard_writer(workdir)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; it is on disk when this returns, unless there was no room for it."""
        self._rows.append({'step': step} | dict(values))
        self._write(f'the row of step {step} in {self._path}', 'training continues')
        if self._tensorboard is not None:
            self._mirror(self._tensorboard, step, values)

    def close(self) -> None:
        """Writes rows that found no room before; flushes TensorBoard's files."""
        if self._behind:
            self._write(f'the last rows of {self._path}')
        writer, self._tensorboard = self._tensorboard, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:  # whatever it is, the training is worth more
                _report(error)

    def _write(self, what: str, then: str = '') -> None:
        """The last row, or all of them where an object store or a torn line cannot be added to."""
        whole = self._behind or files.is_remote(self._path)
        self._behind = True
        with files.warned_of(what, then):
            if whole:
                self._rewrite()
            else:
                with self._path.open('a') as file:
                    file.write(json.dumps(self._rows[-1]) + '\n')
            self._behind = False

    def _mirror(self, writer: Any, step: int, values: Mapping[str, float]) -> None:
        try:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()
        except Exception as error:  # whatever it is, the training is worth more
            self._tensorboard = None
            _report(error)

    def _rewrite(self) -> None:
        text = ''.join(json.dumps(row) + '\n' for row in self._rows)
        files.write_bytes(self._path, text.encode())


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
    """The rows of a work directory's metrics.jsonl; lines that are not rows are left out."""
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


def _tensorboard_writer(workdir: epath.PathLike) -> Any:
    try:
        from tensorboard.summary import Writer  # needs no TensorFlow

        return Writer(os.fspath(files.as_path(workdir) / 'tensorboard'))
    except Exception as error:  # a broken TensorFlow next to it raises anything
        _report(error)
        return None


def _report(error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    logging.info(f'TensorBoard is left out ({reason}); {_INSTALL}')
