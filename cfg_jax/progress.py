"""Progress of long work: tqdm's bar on a terminal, a line of the log now and then elsewhere."""

import io
import sys

from absl import logging
from tqdm import tqdm

from cfg_jax.distributed import multihost

_SECONDS = 10.0  # before the first line of a log, and between lines
_DELAY = 2.0  # before a bar appears: short work stays silent
_LINE = '{desc}{n:,}/{total:,}{unit}  {rate_noinv_fmt}  {remaining} left'


class Bar(tqdm):
    """tqdm without its thread, which would make forking unsafe."""

    monitor_interval = 0


def bar(total: int, unit: str, *, done: int = 0, name: str = '', lines: bool = True) -> Bar:
    """Shows count, rate and time left: `with progress.bar(n, 'images') as bar: bar.update(k)`.

    Where standard error is not a terminal it is a line of the log every 10 s, and one at the end of
    work that took longer. Process 0 alone shows it.

    Args:
      total: units in all.
      unit: their name.
      done: units that an earlier run has done; they do not count in the rate.
      name: stands before the count.
      lines: whether to log where there is no terminal; False for work that logs by itself.
    """
    terminal = sys.stderr.isatty()
    return Bar(
        total=total,
        initial=done,
        desc=name or None,
        unit=f' {unit}',
        disable=not multihost.is_process_zero() or not (terminal or lines),
        file=None if terminal else _Log(),
        delay=_DELAY if terminal else _SECONDS,
        mininterval=0.1 if terminal else _SECONDS,
        miniters=1,
        dynamic_ncols=terminal,
        bar_format=None if terminal else _LINE,
    )


def format_seconds(seconds: float) -> str:
    """'00:41', '03:05' or '2:07:00', as the bars write it."""
    return Bar.format_interval(seconds)


class _Log(io.StringIO):
    """The stream of a bar without a terminal: each redrawing is a line of the log.

    Closing a bar draws it again, the same where its last update was shown.
    """

    _last = ''

    def write(self, text: str) -> int:
        line = text.strip('\r\n\t ')
        if line and line != self._last:
            logging.info('%s', line)
        self._last = line or self._last
        return len(text)
