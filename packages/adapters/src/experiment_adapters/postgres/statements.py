"""The statements of one unit of work: queued as they come, sent together in psycopg's pipeline mode."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, LiteralString, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool

from experiment_adapters.postgres.errors import refusals

Row = tuple[Any, ...]
Connection = AsyncConnection[Row]
TRIAL_LASTS = 1.0
"""Seconds within which an idle connection answers, or is parted with."""
_Queued = tuple[str, Sequence[Any], "Answer | None", bool]


class Pool(AsyncConnectionPool[Connection]):
    """Connections to one database."""

    _trial: "asyncio.Task[None] | None" = None

    async def try_out(self) -> None:
        """Part with those of the idle connections that are broken, as one was that is in use.

        After a restart of the database, each of them would otherwise fail somebody.
        """
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(self.check())
            await asyncio.sleep(0)  # after which nobody is given any that has not been tried out

    @staticmethod
    async def check_connection(conn: Connection) -> None:
        """Raise where a connection does not answer, in bounded time: the others wait to be tried out as well."""
        hang_up = asyncio.get_running_loop().call_later(TRIAL_LASTS, _hang_up, conn.fileno())
        try:
            await AsyncConnectionPool.check_connection(conn)
        finally:
            hang_up.cancel()


class Answer:
    """The rows of a query that is queued; asking for them sends the queue."""

    def __init__(self, statements: "Statements") -> None:
        self._statements = statements
        self.cursor: AsyncCursor[Row] | None = None

    async def rows(self) -> list[Row]:
        """All rows."""
        with refusals():
            if self.cursor is None:
                await self._statements.send()
            assert self.cursor is not None  # noqa: S101 - sending gives every queued answer its cursor
            return await self.cursor.fetchall()

    async def row(self) -> Row | None:
        """The first row, or None."""
        rows = await self.rows()
        return rows[0] if rows else None

    async def value(self) -> Any:
        """The first column of the first row."""
        row = await self.row()
        assert row is not None  # noqa: S101 - asked only of queries that always have one
        return row[0]


class Statements:
    """One transaction as a queue. A connection is taken with the first statement that is sent.

    A write waits for the next read, or for `commit`; what was queued by then goes out in one round trip, whose answer
    is waited for `patience` seconds.
    """

    def __init__(self, pool: Pool, *, in_transaction: bool, patience: float) -> None:
        self._pool = pool
        self._patience = patience
        self._in_transaction = in_transaction
        self._begin: LiteralString = "BEGIN" if in_transaction else ""
        self._queue: list[_Queued] = []
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._open = False
        self._failure: psycopg.Error | None = None
        self._gave_up = False
        self._topics: set[str] = set()
        self.began_at: float | None = None
        """When the transaction began, by the monotonic clock: what it reads is of no earlier moment."""
        self.news: set[str] = set()

    def write(self, sql: str, parameters: Sequence[Any]) -> None:
        """Queue a statement whose rows do not matter. A unit of work that only reads has no transaction for it."""
        self.check_writes()
        self._queue.append((sql, parameters, None, True))

    def check_writes(self) -> None:
        """Refuse what changes something where nothing would hold it together."""
        if not self._in_transaction:
            raise RuntimeError("this unit of work only reads: begin one for commands")

    @property
    def only_reads(self) -> bool:
        """Whether all that it reads is committed, and, where it holds still, of one moment."""
        return not self._in_transaction

    def tell(self, *topics: str) -> None:
        """There is `news` of these topics, once what was written is committed."""
        self._topics.update(topics)

    def ask(self, sql: str, parameters: Sequence[Any], *, prepare: bool = True) -> Answer:
        """Queue a query; one whose plan depends on its parameters is not to be prepared."""
        answer = Answer(self)
        self._queue.append((sql, parameters, answer, prepare))
        return answer

    def hold_still(self) -> None:
        """Let what is read from now on be of one moment, in a unit of work that only reads.

        Between the statements of one answer chunks may be merged, which changes nothing but where readings are.
        """
        self._begin = self._begin or "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    async def send(self, *, commit: bool = False) -> None:
        """Send the queue, in order. The first of it begins the transaction, unless one statement is all of it."""
        if self._failure is not None:
            # The transaction is over, whoever passed over that: a COMMIT would be answered by a silent ROLLBACK.
            raise self._failure
        connection = self._connection or await self._connect()
        queue, self._queue = self._queue, []
        # The server's own time limits are of no use where it does not answer at all.
        hang_up = asyncio.get_running_loop().call_later(self._patience, self._give_up, connection.fileno())
        try:
            await self._send(connection, queue, commit=commit)
        except psycopg.Error as error:
            self._failure = error
            # The others would not answer either, where this one was given up.
            if connection.broken and not self._gave_up:
                await self._pool.try_out()
            raise
        except BaseException:
            # Broken off half way, by a client that left: what the server has yet to say belongs to nobody.
            await connection.close()
            raise
        finally:
            hang_up.cancel()

    async def _send(self, connection: Connection, queue: Sequence[_Queued], *, commit: bool) -> None:
        if commit and not self._open and len(queue) == 1:
            await self._execute(connection, queue[0])  # by itself, it is a transaction of its own
            return
        # Leaving the pipeline is the one round trip; it raises the first error of what was sent.
        async with connection.pipeline():
            if self._begin and not self._open:
                self.began_at = time.monotonic()
                await connection.execute(self._begin, prepare=False)
                self._open = True
            for queued in queue:
                await self._execute(connection, queued)
            if commit:
                await connection.execute("COMMIT", prepare=False)

    async def _execute(self, connection: Connection, queued: _Queued) -> None:
        sql, parameters, answer, prepare = queued
        cursor = connection.cursor(binary=True)
        # Prepared from the first use on, or never: of a statement that psycopg prepares at a later use, it does not
        # notice that the pipeline was aborted before it, and takes it for prepared ever after.
        await cursor.execute(cast("LiteralString", sql), parameters, prepare=prepare)
        if answer is not None:
            answer.cursor = cursor

    async def commit(self) -> None:
        """Send what is queued and commit; nothing to do where nothing was ever queued."""
        with refusals():
            if self._queue or self._open:
                await self.send(commit=True)
                self._open = False
            self.news |= self._topics

    async def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        self._queue.clear()
        try:
            if self._open and self._connection is not None:
                await self._roll_back(self._connection)
        finally:
            await self._stack.aclose()

    async def _connect(self) -> Connection:
        self._connection = await self._stack.enter_async_context(self._pool.connection())
        return self._connection

    async def _roll_back(self, connection: Connection) -> None:
        self._open = False
        try:
            await connection.execute("ROLLBACK", prepare=False)
        except psycopg.Error:
            # A broken connection rolls back by itself; the pool replaces it.
            await connection.close()

    def _give_up(self, descriptor: int) -> None:
        self._gave_up = True
        _hang_up(descriptor)


def _hang_up(descriptor: int) -> None:
    """End a connection from outside: whoever waits for its answer is told at once that there will be none."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
