"""Machines that are taken away: the first SIGTERM or Ctrl-C asks to stop, the second one kills.

What comes within half a second of the first belongs to it.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, ClassVar

import jax
from jax.experimental import multihost_utils

from cfg_jax.distributed import multihost
from cfg_jax.errors import Interrupted, Preempted

# `timeout` and some launchers send one request twice, to the process and to its group.
_SAME_REQUEST_SECONDS = 0.5
_NOTICE = b'stopping after this step; Ctrl-C again stops at once\n'

# `signal` does not see handlers that C code sets, as JAX's of SIGTERM, and would not put them back.
_c_handler, _set_c_handler = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
_c_handler.restype = _set_c_handler.restype = ctypes.c_void_p
_c_handler.argtypes, _set_c_handler.argtypes = [ctypes.c_int], [ctypes.c_int, ctypes.c_void_p]


class Preemption:
    """Watches for SIGTERM and a lost terminal (SIGHUP, unless `nohup` ignores it) inside a `with`
    block, and with `together` for Ctrl-C.

    Where a step is one of many processes, all of them must stop at the same one. JAX's preemption
    service does that: it receives the signal (and the platform's notice) on any of them and agrees
    on a step; `together` uses it. Elsewhere each process listens for itself.

    Args:
      together: whether the processes work in step, and a step is worth finishing for Ctrl-C.
    """

    # Of the last step at which JAX's service, which is the process's, was asked.
    _number: ClassVar[int] = 0

    def __init__(self, together: bool = False):
        # Signals reach the main thread alone; elsewhere (tests, notebooks) nothing is watched.
        self._watches = threading.current_thread() is threading.main_thread()
        self._synced = together and jax.distributed.is_initialized()
        self._numbers = [] if self._synced else [signal.SIGTERM]  # JAX has SIGTERM when synced
        self._numbers += [signal.SIGINT] if together else []
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._numbers.append(signal.SIGHUP)
        self._asked = self._interrupted = False
        self._before: dict[int, Any] = {}
        self._before_in_c: dict[int, int | None] = {}

    def __enter__(self) -> 'Preemption':
        if self._watches:
            self._before_in_c = {number: _c_handler(number) for number in self._numbers}
            self._before = {number: signal.signal(number, self._ask) for number in self._numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            _set_c_handler(number, self._before_in_c[number])

    def asked(self, step: int = 0) -> bool:
        """Whether to stop after this step; with `together`, to be called at every step."""
        if self._synced and self._reached(step):
            self._stop_together()
        return self._asked

    def asked_between_steps(self) -> bool:
        """Whether to stop where no step is under way: before the first one, or after the last one.

        Every process of the run has to call this.

        Raises:
          Disconnected: as `multihost.all_agree`.
        """
        # JAX says yes at one number alone: that after the largest at which a process had asked when
        # the request came. Some may have asked at the first of these two by then, and wait here.
        for _ in range(2 if self._synced else 0):
            stop = self._reached(Preemption._number + 1) or self._interrupted
            if not multihost.all_agree('no request to stop', not stop):
                self._stop_together()
        return self._asked

    def stopped(self, message: str) -> Preempted:
        """The exception to raise once everything is saved: Interrupted after Ctrl-C."""
        error = Interrupted(message) if self._interrupted else Preempted(message)
        error.together = self._synced
        return error

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked:
            return  # within the half second that belongs to the first
        if number == signal.SIGINT:
            self._interrupted = True
            with contextlib.suppress(OSError):
                os.write(2, _NOTICE)  # print is not safe inside a signal handler
        if self._synced:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGTERM)  # JAX agrees with the other processes on a step
        else:
            self._asked = True
            time.sleep(_SAME_REQUEST_SECONDS)  # with this handler still there for the others
            self._kill_next_time()

    def _reached(self, number: int) -> bool:
        Preemption._number = number
        return multihost_utils.reached_preemption_sync_point(number)

    def _stop_together(self) -> None:
        self._kill_next_time()
        self._asked = True

    def _kill_next_time(self) -> None:
        if self._watches:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if signal.SIGINT in self._before:
                signal.signal(signal.SIGINT, signal.default_int_handler)
