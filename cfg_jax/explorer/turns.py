"""One at a time, and one in waiting: the newest, whose predecessor is told that it is not drawn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Superseded(Exception):
    """A newer request took the place in waiting."""


class Turns:
    """A queue of one, for the tasks of one event loop."""

    def __init__(self) -> None:
        self._busy = False
        self._newest = 0
        self._change = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for its turn and holds it inside the block, however that ends.

        Raises:
          Superseded: a newer one came while it waited.
        """
        self._newest += 1
        number = self._newest
        self._announce()
        while self._busy:
            await self._change.wait()
            if number != self._newest:
                raise Superseded
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._announce()

    def _announce(self) -> None:
        """Wakes all who wait, each of which looks for itself what has changed."""
        self._change.set()
        self._change = asyncio.Event()
