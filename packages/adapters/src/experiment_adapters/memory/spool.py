"""A spool in memory: the plain model of what every other one has to do."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from attrs import evolve

from experiment_domain.kernel.errors import Refusal
from experiment_domain.spool import MOMENT, Draining, Promise, Spool, SpoolFull, SpoolStatus, WaitingBatch


class MemorySpool(Spool):
    """Batches in a list, which ends with the process."""

    def __init__(self, most: int = 1_000) -> None:
        self.waiting: list[WaitingBatch] = []
        self.refused: list[tuple[WaitingBatch, Refusal]] = []
        self._most = most
        self._kept = 0
        self._is_drained = False
        self._moved_at = -MOMENT

    async def keep(self, waiting: WaitingBatch) -> Promise | None:
        if waiting.promise is not None:
            for earlier in self.waiting:
                if earlier.promise is not None and earlier.promise.key == waiting.promise.key:
                    earlier.promise.answer.check_same_request(waiting.promise.answer.fingerprint)
                    return earlier.promise
        if len(self.waiting) >= self._most:
            raise SpoolFull("its spool is full")
        self._kept += 1
        self.waiting.append(evolve(waiting, number=self._kept))
        return None

    def let_go(self, count: int) -> None:
        """Let go of the first ones."""
        del self.waiting[:count]
        self._moved_at = time.monotonic()

    def holds(self, sensor_id: UUID) -> bool:
        return any(waiting.sensor_id == sensor_id for waiting in self.waiting)

    def sensor_of(self, token_hash: bytes) -> UUID | None:
        return next((waiting.sensor_id for waiting in self.waiting if waiting.token_hash == token_hash), None)

    @asynccontextmanager
    async def draining(self) -> AsyncGenerator[Draining | None]:
        if self._is_drained:
            yield None
            return
        self._is_drained = True
        try:
            yield MemoryDraining(self)
        finally:
            self._is_drained = False

    @property
    def is_empty(self) -> bool:
        return not self.waiting

    @property
    def is_moving(self) -> bool:
        return time.monotonic() - self._moved_at < MOMENT

    def status(self, at: datetime) -> SpoolStatus:  # noqa: ARG002 - its room alone is bounded
        return SpoolStatus(
            batches=len(self.waiting),
            oldest_at=self.waiting[0].received_at if self.waiting else None,
            refused=len(self.refused),
            is_full=len(self.waiting) >= self._most,
        )


class MemoryDraining(Draining):
    """Takes batches from the beginning of the list."""

    def __init__(self, spool: MemorySpool) -> None:
        self._spool = spool
        self._count = 0

    async def oldest(self, most: int) -> Sequence[WaitingBatch]:
        found = self._spool.waiting[:most]
        self._count = len(found)
        return found

    async def set_aside(self, waiting: WaitingBatch, refusal: Refusal, at: datetime) -> None:  # noqa: ARG002 - only files say when
        self._spool.refused.append((waiting, refusal))

    async def done(self) -> None:
        self._spool.let_go(self._count)
        self._count = 0
