"""Backfills in memory."""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import newest_first, one_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_adapters.memory.store import StoredClaim
from experiment_domain.backfills import PROGRESS, Backfill, BackfillRepository, BackfillStatus, Claim
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.kernel.errors import Conflict


class MemoryBackfills(MemoryRepository[Backfill], BackfillRepository):
    """Backfills, and who works on them."""

    rows = attrgetter("backfills")
    noun = "backfill"

    def add(self, backfill: Backfill) -> None:
        self._transaction.refers(self._store.captures, backfill.capture_session_id, "capture session")
        self._transaction.refers(self._store.profiles, backfill.profile_id, "conversion profile")
        self._transaction.insert(self._store.backfills, backfill.id, backfill, "backfill")
        self._check_others(backfill)

    def save(self, backfill: Backfill) -> None:
        super().save(backfill)
        self._check_others(backfill)

    async def page(
        self,
        session_id: UUID,
        *,
        statuses: Collection[BackfillStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Backfill]:
        self._transaction.settle()
        found = [
            backfill
            for backfill in self._store.backfills.values()
            if backfill.capture_session_id == session_id and one_of(backfill.status, statuses)
        ]
        return newest_first(found, limit, after)

    async def latest(self, session_id: UUID, sensor_id: UUID, profile_id: UUID) -> Backfill | None:
        self._transaction.settle()
        found = [backfill for backfill in self._of(session_id, sensor_id) if backfill.profile_id == profile_id]
        return max(found, key=lambda backfill: (backfill.is_active, backfill.created_at, backfill.id), default=None)

    async def active_of(self, session_id: UUID) -> Sequence[UUID]:
        self._transaction.settle()
        return sorted(
            backfill.id
            for backfill in self._store.backfills.values()
            if backfill.capture_session_id == session_id and backfill.is_active
        )

    async def claim(self, worker: UUID, lasting: timedelta) -> Claim | None:
        self._transaction.settle()
        now = _now()
        due = [backfill for backfill in self._store.backfills.values() if self._is_due(backfill, now)]
        backfill = min(due, key=self._waits_since, default=None)
        if backfill is None:
            return None
        before = self._store.claims.get(backfill.id)
        self._transaction.put(self._store.claims, backfill.id, StoredClaim(worker=worker, until=now + lasting))
        return Claim(backfill=backfill, was_lost=before is not None and before.worker is not None)

    async def claimed(self, backfill_id: UUID, worker: UUID) -> Backfill | None:
        self._transaction.settle()
        claim, backfill = self._store.claims.get(backfill_id), self._store.backfills.get(backfill_id)
        if claim is None or backfill is None or claim.worker != worker:
            return None
        return backfill if backfill.status is BackfillStatus.RUNNING else None

    def renew(self, backfill: Backfill, worker: UUID, lasting: timedelta) -> None:
        kept = self._store.backfills[backfill.id]
        progress = {name: getattr(backfill, name) for name in PROGRESS}
        self._transaction.put(self._store.backfills, backfill.id, evolve(kept, **progress))
        self._transaction.put(self._store.claims, backfill.id, StoredClaim(worker=worker, until=_now() + lasting))

    def release(self, backfill_id: UUID, pause: timedelta = timedelta()) -> None:
        self._transaction.put(self._store.claims, backfill_id, StoredClaim(worker=None, until=_now() + pause))

    def _is_due(self, backfill: Backfill, now: datetime) -> bool:
        claim = self._store.claims.get(backfill.id)
        return (
            backfill.is_active
            and (claim is None or claim.until <= now)
            and not any(
                other.is_active and _turn(other) < _turn(backfill)
                for other in self._of(backfill.capture_session_id, backfill.sensor_id)
            )
        )

    def _waits_since(self, backfill: Backfill) -> tuple[datetime, UUID]:
        claim = self._store.claims.get(backfill.id)
        return backfill.queued_at if claim is None else claim.until, backfill.id

    def _of(self, session_id: UUID, sensor_id: UUID) -> Iterator[Backfill]:
        for backfill in self._store.backfills.values():
            if (backfill.capture_session_id, backfill.sensor_id) == (session_id, sensor_id):
                yield backfill

    def _check_others(self, backfill: Backfill) -> None:
        others = (
            other
            for other in self._of(backfill.capture_session_id, backfill.sensor_id)
            if other.id != backfill.id and other.profile_id == backfill.profile_id
        )
        self._transaction.check(
            not (backfill.is_active and any(other.is_active for other in others)),
            Conflict("active_backfills", "Another backfill does the same."),
        )


def _turn(backfill: Backfill) -> tuple[datetime, UUID]:
    return backfill.queued_at, backfill.id


def _now() -> datetime:
    return datetime.now(UTC)
