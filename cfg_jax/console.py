"""What commands show of the log: our notices on standard output, warnings on standard error."""

import contextlib
import errno
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from absl import logging as absl_logging

_PACKAGE = Path(__file__).resolve().parent
DEBUG, PDF = 'CFG_JAX_DEBUG', 'CFG_JAX_PDF'  # the environment variables of --debug and --pdf
# Whose lines of the shared 'absl' logger are ours; Orbax and others log through it too.
_OURS = tuple(f'{_PACKAGE.parent / name}{os.sep}' for name in ('cfg_jax', 'scripts', 'experiments'))
_DEVICES = 'jax._src.xla_bridge'  # this logger warns of a GPU or TPU that is present but not used


def debugging() -> bool:
    """Whether the user asked for tracebacks: environment variable CFG_JAX_DEBUG, or --debug."""
    return os.environ.get(DEBUG, '') not in ('', '0')


def pdf_wanted() -> bool:
    """Whether the user asked for plots as PDF too: environment variable CFG_JAX_PDF, or --pdf."""
    return os.environ.get(PDF, '') not in ('', '0')


@contextlib.contextmanager
def log_shown() -> Iterator[None]:
    """Shows the log while the block runs; afterwards logging is as it was.

    Ours (cfg_jax, scripts, experiments): INFO as bare lines on standard output, from WARNING on as
    'warning: ...' on standard error. Of other libraries: errors, and JAX's warnings about devices,
    one line each; of Orbax, which logs through absl and asyncio, nothing, because the exceptions
    that it raises say it again. While `debugging`, all their warnings and tracebacks.
    """
    handler, verbosity, hook = _Lines(), absl_logging.get_verbosity(), sys.unraisablehook
    logging.root.addHandler(handler)
    absl_logging.set_verbosity(absl_logging.INFO)
    if not debugging():
        # A failed save leaves hundreds of coroutines, and Python reports each when it is collected.
        sys.unraisablehook = lambda unraisable: None
    try:
        yield
        gc.collect()
    finally:
        logging.root.removeHandler(handler)
        absl_logging.set_verbosity(verbosity)
        sys.unraisablehook = hook


class _Lines(logging.Handler):
    """Writes to the streams of the moment: tests and notebooks replace them."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _wanted(record):
            return
        message = record.getMessage()
        if record.levelno < logging.WARNING:
            _write(message, sys.stdout)
            return
        level = 'error' if record.levelno >= logging.ERROR else 'warning'
        _write(f'{level}: {" ".join(message.split())}', sys.stderr)
        if record.exc_info and debugging():
            traceback.print_exception(*record.exc_info)


def is_ours(record: logging.LogRecord) -> bool:
    """Whether our code logged it, through absl."""
    return record.name == 'absl' and record.pathname.startswith(_OURS)


def _wanted(record: logging.LogRecord) -> bool:
    if is_ours(record):
        return True
    if record.name == _DEVICES or debugging():
        return record.levelno >= logging.WARNING
    return record.levelno >= logging.ERROR and record.name not in ('absl', 'asyncio')


def _write(line: str, stream: TextIO) -> None:
    """Prints at once; a progress bar on the terminal is drawn again below the line.

    A line that cannot be written is lost: the work is worth more than what it says.
    """
    try:
        if 'tqdm' in sys.modules:
            from tqdm import tqdm

            with tqdm.external_write_mode(file=stream):
                print(line, file=stream, flush=True)
        else:
            print(line, file=stream, flush=True)
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):  # nobody reads any more: `| head`, a lost ssh
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
