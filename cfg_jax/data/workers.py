"""Grain's worker processes: deaf to signals that are meant for the run, and missed if they die."""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import TypeVar

import grain
from absl import flags

from cfg_jax.errors import WorkerDied

_AHEAD = 4  # batches; Grain's default of 500 is meant for examples
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEATH = re.compile(r'terminated unexpectedly with exit code (-?\d+)')  # Grain's message
_ADVICE = {
    signal.SIGKILL: (
        'most likely the machine ran out of memory; lower data.num_workers or give it more memory'
    ),
    signal.SIGBUS: 'most likely /dev/shm is full; lower data.num_workers or enlarge it',
}

_T = TypeVar('_T')


class WorkerIterator(Iterator[_T]):
    """The elements of a dataset in order, made ahead in worker processes; 0 makes them in this one.

    A signal to the whole process group, as schedulers and Ctrl-C send it, is for the process that
    trains: it ends or saves, and stops its workers itself with `close`.

    Args:
      dataset: of batches. Each process makes a few of them ahead, each in a thread of its own: they
        take memory, and a process cannot end before they are made.
      num_workers: processes.

    Raises:
      WorkerDied: a worker was killed or crashed, from `next`.
    """

    def __init__(self, dataset: grain.MapDataset, num_workers: int):
        options = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
        self._dataset = dataset.to_iter_dataset(options)
        if num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags of Grain's own
            processes = grain.MultiprocessingOptions(num_workers=num_workers)
            self._dataset = self._dataset.mp_prefetch(processes, worker_init_fn=_start_worker)
        self._num_workers = num_workers
        self._iterator = None

    def __next__(self) -> _T:
        try:
            if self._iterator is not None:
                return next(self._iterator)
            with _signals_blocked() if self._num_workers else contextlib.nullcontext():
                self._iterator = iter(self._dataset)
                return next(self._iterator)
        except RuntimeError as error:
            death = _DEATH.search(str(error))
            if death is None:
                raise
            raise WorkerDied(_obituary(int(death[1]), self._num_workers)) from error

    def close(self) -> None:
        """Stops the reading threads and worker processes."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside inherit the block, until they ignore these signals themselves."""
    _start_resource_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_resource_tracker() -> None:
    """Starts the process in which Python removes shared memory that nobody else did.

    It would start with the first worker, and unblock signals then. Of what a killed worker left it
    would warn at the end of the run, although it removes it.
    """
    sys.warnoptions.append('ignore:resource_tracker:UserWarning')  # the process inherits these
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def _start_worker(index: int, count: int) -> None:
    del index, count
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings('ignore', module='PIL')  # of odd EXIF data, in every worker again
    # Nothing but `close` and this ends a worker whose parent was killed.
    threading.Thread(target=_end_with_parent, name='parent-watch', daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _obituary(exit_code: int, num_workers: int) -> str:
    if exit_code >= 0:
        how, advice = f'ended with status {exit_code}', 'its output above may say why'
    else:
        number = signal.Signals(-exit_code)
        how = f'was killed by {number.name}'
        advice = _ADVICE.get(number, 'data.num_workers=0 reads without workers')
    return f'one of data.num_workers={num_workers} data workers {how}: {advice}'
