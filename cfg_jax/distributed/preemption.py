"""Machines that are taken away: the first SIGTERM asks to stop, the second one kills."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Watches for SIGTERM inside a `with` block.

    Where a step is one of many processes, all of them must stop at the same one. JAX's preemption
    service sees to that: it hears the signal (and the platform's notice) on any of them and agrees
    on a step; `together` uses it. Elsewhere each process listens for itself.

    Args:
      together: whether the processes work in step.
    """

    def __init__(self, together: bool = False):
        # Signals reach the main thread alone; elsewhere (tests, notebooks) nothing is watched.
        self._synced = together and jax.distributed.is_initialized()
        self._watches = threading.current_thread() is threading.main_thread()
        self._asked = False
        self._before = None

    def __enter__(self) -> 'Preemption':
        if self._watches and not self._synced:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def asked(self, step: int = 0) -> bool:
        """Whether to stop after this step; with `together`, to be called at every step."""
        if self._synced and multihost_utils.reached_preemption_sync_point(step):
            self._kill_next_time()
            self._asked = True
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True
        self._kill_next_time()

    def _kill_next_time(self) -> None:
        if self._watches:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
