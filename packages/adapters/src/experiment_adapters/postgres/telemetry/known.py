"""The headers of the series that were looked at last, kept in memory: only those of chunks that came since are read.

Whoever looks at a chart again, or moves or zooms it, asks for the same headers, and to read those of 10,000 chunks
takes longer than all the rest of an envelope. What a chunk holds does not change: chunks are received by transactions
that they name, and they are merged into others, which leaves its trace in the row of their series.
"""

import time
from collections import OrderedDict
from datetime import datetime

import numpy as np
from attrs import evolve, field, frozen

from experiment_adapters.postgres.statements import Answer, Statements
from experiment_adapters.postgres.telemetry.headers import Headers, Stored, TransactionId, headers

ROOM = 1 << 17
"""How many headers are kept, in about 10 MB; the series that was looked at longest ago goes first."""
_EACH = 32
"""What a series takes besides, 2.5 KB, in headers."""

_STATE = """
SELECT pg_postmaster_start_time(), (SELECT oid FROM pg_database WHERE datname = current_database()), series.xmin::text,
    pg_snapshot_xmin(pg_current_snapshot())::text, (
        SELECT count(*) FROM telemetry_chunks AS chunk
        WHERE chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id {since}
    )
FROM telemetry_series AS series WHERE capture_session_id = %s AND sensor_id = %s AND signal = %s
"""
_SINCE = "AND chunk.transaction_id >= %s::xid8"


@frozen
class Version:
    """Of the row of a series: which transaction wrote it, in which database, and in which life of the server.

    Of a database that was restored from a backup, transactions are numbered once more from there.
    """

    server_started_at: datetime
    database: int
    written_by: str


@frozen(kw_only=True)
class Known:
    """The headers of a whole series, at one moment: all transactions before `horizon` had ended."""

    version: Version
    horizon: TransactionId
    headers: Headers
    is_complete: bool
    """Whether all chunks that were received have this layer: the others may get it without a trace."""
    read_at: float = field(factory=time.monotonic)
    """When they had been read, by the monotonic clock: after the moment that they are of."""

    def is_before(self, statements: Statements) -> bool:
        """Whether these statements see all that is known: to those that have held still since before, it is to come."""
        return statements.began_at is None or self.read_at < statements.began_at


class KnownHeaders:
    """The headers of whole series that were read last."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._taken = 0
        self._series: OrderedDict[Stored, Known] = OrderedDict()

    def __contains__(self, stored: Stored) -> bool:
        return stored in self._series

    async def read(self, statements: Statements, stored: Stored) -> Headers | None:
        """All headers of a series; None where there are none. The statements have to hold still."""
        if not statements.only_reads:
            # Chunks of its own may be rolled back, and those of others come or go between its statements.
            return await headers(statements, stored)
        before = self._series.get(stored)
        known = await _later(statements, before) if before is not None and before.is_before(statements) else None
        if known is None:
            known = await _read(statements, stored)
        self._forget(stored)
        if known is None:
            return None
        if known.is_complete and _size(known) <= self._room:
            self._keep(stored, known)
        return known.headers

    def _keep(self, stored: Stored, known: Known) -> None:
        self._series[stored] = known
        self._taken += _size(known)
        while self._taken > self._room:
            self._forget(next(iter(self._series)))

    def _forget(self, stored: Stored) -> None:
        known = self._series.pop(stored, None)
        if known is not None:
            self._taken -= _size(known)


def _size(known: Known) -> int:
    return len(known.headers.positions) + _EACH


async def _read(statements: Statements, stored: Stored) -> Known | None:
    answer = _ask_state(statements, stored)
    found = await headers(statements, stored)
    row = await answer.row()
    if row is None or found is None:
        return None
    *version, horizon, count = row
    is_complete = len(found.positions) == count
    return Known(version=Version(*version), horizon=horizon, headers=found, is_complete=is_complete)


async def _later(statements: Statements, known: Known) -> Known | None:
    """What is known and what came since; None where more may have changed than that."""
    stored = known.headers.stored
    row = await _ask_state(statements, stored, known.horizon).row()
    if row is None:
        return None
    *version, horizon, count = row
    if Version(*version) != known.version:
        return None
    if not count:
        return evolve(known, horizon=horizon, read_at=time.monotonic())
    if count >= len(known.headers.positions):
        # Of a database that was copied as SQL, the chunks name transactions that are yet to come: all, each time.
        return None
    came = await headers(statements, stored, received_since=known.horizon)
    if came is None:
        return None
    # Of transactions from the horizon on, some had ended, and their chunks are known.
    new = np.flatnonzero(~np.isin(came.positions, known.headers.positions))
    together = known.headers.and_those(came.taken(new)) if len(new) else known.headers
    is_complete = len(came.positions) == count
    return Known(version=known.version, horizon=horizon, headers=together, is_complete=is_complete)


def _ask_state(statements: Statements, stored: Stored, since: TransactionId | None = None) -> Answer:
    """Of a series: its version, the horizon, and how many chunks there are, or came by this transaction and later."""
    names = [stored.capture_session_id, stored.sensor_id, stored.signal]
    if since is None:
        return statements.ask(_STATE.format(since=""), names)
    return statements.ask(_STATE.format(since=_SINCE), [since, *names])
