"""A watch over work that may hang: says so while it hangs."""

import contextlib
import threading
import time
from collections.abc import Iterator

from absl import logging

PATIENCE = 60.0


class StallWatchdog:
    """Warns of waits that last longer than they should, again and again while they last.

    Args:
      patience: seconds before the first warning, which another thread logs, and between warnings.
    """

    def __init__(self, patience: float = PATIENCE):
        self._patience = patience
        self._lock = threading.Lock()
        self._what: str | None = None
        self._since = self._last = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Watches the work inside; `what` says in a report what is waited for."""
        with self._lock:
            self._what = what
            self._since = self._last = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._what = None

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._patience / 4)):
            with self._lock:
                what, since, now = self._what, self._since, time.monotonic()
                late = what is not None and now - self._last >= self._patience
                if late:
                    self._last = now
            if late:
                logging.warning(f'still waiting for {what}, {now - since:.0f} s by now')
