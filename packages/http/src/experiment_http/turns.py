"""Turns at what takes long: each caller has one at a time, and all together have a few."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Turns:
    """Gives turns, so that what takes long leaves connections to others; nobody waits for another's next turn."""

    def __init__(self, most: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncGenerator[None]:
        """Wait for a turn of the caller of this name, and keep it while the block lasts."""
        own = self._of.setdefault(name, asyncio.Lock())
        async with own, self._all:
            yield
