"""One at a time, and one in waiting: the newest, whose predecessor is told that it is not drawn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Superseded(Exception):
    """A newer request took the place in waiting."""


class Turns:
    """A queue of one."""

    def __init__(self) -> None:
        self._running = asyncio.Lock()
        self._waiting: asyncio.Task | None = None

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for its turn and holds it inside the block.

        Raises:
          Superseded: a newer one came while it waited.
        """
        if self._waiting is not None:
            self._waiting.cancel()
        acquiring = self._waiting = asyncio.ensure_future(self._running.acquire())
        try:
            await acquiring
        except asyncio.CancelledError:
            newer = self._waiting is not acquiring
            if not newer:  # it is the caller that was cancelled
                acquiring.cancel()
                self._waiting = None
                raise
            raise Superseded from None
        if self._waiting is acquiring:
            self._waiting = None
        try:
            yield
        finally:
            self._running.release()
