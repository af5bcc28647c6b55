"""The port of compaction: few sorted chunks in the place of many small ones, and marks in the place of receipts.

Nothing that is read changes by it. What is merged are chunks that follow each other in the order of reception, so that
the merged ones take their place in that order. A reading that was overridden among them stays stored, aside.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from attrs import frozen

FULL = 16_384
"""How many readings a merged chunk has, about. Each keeps a page of every index to itself: smaller ones take more."""
SMALL = 800
"""Only where there is a chunk of fewer readings than this, it is worth moving those that follow each other."""
RUN = 32
"""So many small chunks at the end of a series are merged before there is enough for a full one."""


@frozen(kw_only=True)
class Pile:
    """A sensor's batches in a session that have come to lie there; those up to `position` have been there a while.

    `is_settled`: none has come for long, so that no more of them are waited for.
    """

    capture_session_id: UUID
    sensor_id: UUID
    position: int
    is_settled: bool


@frozen
class ChunkHeader:
    """A chunk as far as the choice needs to know it; chunks of different `layers` are not merged."""

    position: int
    count: int
    layers: frozenset[UUID]


@frozen(kw_only=True)
class Choice:
    """The chunks to merge next, perhaps none. Up to the position `done`, nothing is to be merged any more."""

    chunks: Sequence[ChunkHeader]
    done: int


def choose(headers: Sequence[ChunkHeader], done: int, *, is_settled: bool) -> Choice:
    """Choose among a series' chunks in the order of their positions, all those behind `done`.

    The first group that makes a full chunk is merged once and for all, if that is worth it. Of what is left at the
    end, the newest small chunks are merged with what is not much larger before them, so that each reading is moved a
    few times only; all of it is merged once the series is settled.
    """
    start = 0
    while start < len(headers):
        group = _group(headers, start)
        is_closed = start + len(group) < len(headers) or sum(chunk.count for chunk in group) >= FULL
        if not is_closed:
            break
        done = group[-1].position
        if len(group) > 1 and any(chunk.count < SMALL for chunk in group):
            return Choice(chunks=group, done=done)
        start += len(group)
    tail = headers[start:]
    if is_settled:
        return Choice(chunks=tail if len(tail) > 1 else (), done=done)
    first, total = len(tail), 0
    while first and tail[first - 1].count <= max(2 * total, FULL // RUN):
        first -= 1
        total += tail[first].count
    return Choice(chunks=tail[first:] if len(tail) - first >= RUN else (), done=done)


def _group(headers: Sequence[ChunkHeader], start: int) -> Sequence[ChunkHeader]:
    """Chunks from `start` on that have the same layers, until they make a full one; a large one is alone."""
    end, total = start, 0
    while end < len(headers) and total < FULL and headers[end].layers == headers[start].layers:
        if end > start and headers[end].count >= FULL // 2:
            break
        total += headers[end].count
        end += 1
    return headers[start:end]


def mark(key: str, digest: bytes) -> int:
    """What a batch is known by once its receipt is gone: 32 bits of its identity and its content together.

    It is looked for only among the marks of batches of the same sensor that began at about the same time. Another
    batch may have the same by chance: where one is found, the readings are looked for as well.
    """
    found = hashlib.sha256(len(key).to_bytes(4) + key.encode() + digest).digest()
    return int.from_bytes(found[:4], signed=True)


class Compaction(Protocol):
    """Merges chunks and receipts. What it does is one transaction at a time, safe beside batches and backfills."""

    @abstractmethod
    async def piles(self, *, before: datetime, settled: datetime, least: int, limit: int) -> Sequence[Pile]:
        """The largest piles: with at least so many batches received `before`, or all of them before `settled`."""

    @abstractmethod
    async def hold(self, pile: Pile) -> Pile:
        """Wait for the batches that are under way to the session, and hold off others until the unit of work ends.

        So that, from now on, what is to come takes positions behind all that are there. Tells the pile as it is.
        """

    @abstractmethod
    async def merge(self, pile: Pile) -> int:
        """Merge one group of chunks of each of the pile's series that nobody else works on; how many are gone."""

    @abstractmethod
    async def put_away(self, pile: Pile, *, before: datetime, most: int) -> int:
        """Keep marks in the place of so many receipts of batches received `before` at most; how many there were."""
