"""News between processes, by LISTEN and NOTIFY.

NOTIFY makes transactions commit one after the other, so none that does anything sends one: after its commit, the topics
wait for the next notification of the process, of which there are twenty in a second at most, each a transaction
of its own that writes nothing. Everybody who waits in a process shares its one connection that listens.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection, Notify

from experiment_adapters.news import Bell
from experiment_adapters.postgres.statements import Pool
from experiment_domain.kernel.news import Hints, News

CHANNEL = "experiment_news"
APPLICATION_NAME = "experiment-service listener"
PAUSE = 0.05
"""Seconds between two notifications of one process."""
TOPICS = 100
"""How many topics a notification names at most: it has room for 8,000 bytes."""
CHECK_EVERY = 2.0
"""Seconds after which a silent connection is asked whether it is still there."""
AGAIN_AFTER = 1.0
"""Seconds after which a connection that was lost is made anew."""

log = structlog.get_logger("experiment_adapters.news")


class PostgresNews(News):
    """Tells other processes what this one has committed, and hears what they have."""

    def __init__(self, pool: Pool, url: str, parameters: Mapping[str, Any], patience: float) -> None:
        self._pool = pool
        self._url = url
        self._parameters = {**parameters, "application_name": APPLICATION_NAME}
        self._patience = patience
        self._bell = Bell()
        self._name = os.urandom(6).hex()
        self._untold: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def of(self, topic: str) -> Iterator[Hints]:
        # Who never waits needs no connection for it.
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        with self._bell.of(topic) as hints:
            yield hints

    def tell(self, topics: Collection[str]) -> None:
        """There is something new of these topics: here at once, elsewhere in a moment."""
        if not topics:
            return
        self._bell.ring(topics)
        self._untold.update(topics)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    @asynccontextmanager
    async def lasting(self) -> AsyncGenerator["PostgresNews"]:
        """Tell and hear until the block ends."""
        try:
            yield self
        finally:
            tasks = [task for task in (self._telling, self._listening) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell(self) -> None:
        while self._untold:
            topics = [self._untold.pop() for _ in range(min(TOPICS, len(self._untold)))]
            # Who does not hear of it looks again by itself.
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(self._patience), self._pool.connection() as connection:
                    await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, " ".join([self._name, *topics])])
            await asyncio.sleep(PAUSE)
        self._telling = None

    async def _listen(self) -> None:
        while True:
            try:
                connection = await AsyncConnection.connect(self._url, **self._parameters)
                async with connection:
                    await self._hear(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("news_interrupted", error=str(error).strip())
            await asyncio.sleep(AGAIN_AFTER)

    async def _hear(self, connection: AsyncConnection[Any]) -> None:
        await connection.execute(f"LISTEN {CHANNEL}".encode())
        self._bell.ring()  # of what was told in between, nobody has heard
        while True:
            async for notification in connection.notifies(timeout=CHECK_EVERY):
                self._heard(notification)
            async with asyncio.timeout(self._patience):
                await connection.execute("SELECT 1")

    def _heard(self, notification: Notify) -> None:
        name, *topics = notification.payload.split(" ")
        if name != self._name:  # here, it was heard when it was told
            self._bell.ring(topics)
