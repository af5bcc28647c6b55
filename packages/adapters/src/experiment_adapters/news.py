"""Hints within one process."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from experiment_domain.kernel.news import Hints, News


class Waiter(Hints):
    """One who waits."""

    def __init__(self) -> None:
        self._hint = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hint.wait()
        except TimeoutError:
            return
        self._hint.clear()

    def give(self) -> None:
        self._hint.set()


class Bell(News):
    """Wakes those who wait in this process, all in the event loop in which it is rung."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}

    @contextmanager
    def of(self, topic: str) -> Iterator[Hints]:
        waiter = Waiter()
        self._waiters.setdefault(topic, set()).add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[topic].remove(waiter)
            if not self._waiters[topic]:
                del self._waiters[topic]

    def ring(self, topics: Iterable[str] | None = None) -> None:
        """Wake those who wait for one of these topics, or all."""
        for topic in list(self._waiters) if topics is None else topics:
            for waiter in self._waiters.get(topic, ()):
                waiter.give()
