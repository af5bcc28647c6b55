"""Exports in memory."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import newest_first, one_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_adapters.memory.store import StoredClaim
from experiment_domain.exports.jobs import (
    PROGRESS,
    Export,
    ExportClaim,
    ExportPart,
    ExportRepository,
    ExportStatus,
)
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.kernel.errors import Conflict


class MemoryExports(MemoryRepository[Export], ExportRepository):
    """Exports, their parts, and who works on them."""

    rows = attrgetter("exports")
    noun = "export"

    def add(self, export: Export) -> None:
        self._transaction.refers(self._store.projects, export.project_id, "project")
        self._transaction.insert(self._store.exports, export.id, export, "export")

    async def page(
        self,
        project_ids: Collection[UUID],
        *,
        statuses: Collection[ExportStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Export]:
        self._transaction.settle()
        found = [
            export
            for export in self._store.exports.values()
            if export.project_id in project_ids and one_of(export.status, statuses)
        ]
        return newest_first(found, limit, after)

    async def under_way(self, project_id: UUID, user_id: str) -> int:
        self._transaction.settle()
        return sum(
            export.is_active and (export.project_id, export.created_by) == (project_id, user_id)
            for export in self._store.exports.values()
        )

    async def claim(self, worker: UUID, lasting: timedelta) -> ExportClaim | None:
        self._transaction.settle()
        now = _now()
        due = [export for export in self._store.exports.values() if export.is_active and self._is_free(export, now)]
        export = min(due, key=self._waits_since, default=None)
        if export is None:
            return None
        before = self._store.claims.get(export.id)
        self._transaction.put(self._store.claims, export.id, StoredClaim(worker=worker, until=now + lasting))
        return ExportClaim(export=export, was_lost=before is not None and before.worker is not None)

    async def claimed(self, export_id: UUID, worker: UUID) -> Export | None:
        self._transaction.settle()
        claim, export = self._store.claims.get(export_id), self._store.exports.get(export_id)
        if claim is None or export is None or claim.worker != worker:
            return None
        return export if export.status is ExportStatus.RUNNING else None

    def plan(self, export: Export) -> None:
        kept = self._store.exports[export.id]
        self._transaction.put(self._store.exports, export.id, evolve(kept, sessions=export.sessions))

    def renew(self, export: Export, worker: UUID, lasting: timedelta) -> None:
        kept = self._store.exports[export.id]
        progress = {name: getattr(export, name) for name in PROGRESS}
        self._transaction.put(self._store.exports, export.id, evolve(kept, **progress))
        self._transaction.put(self._store.claims, export.id, StoredClaim(worker=worker, until=_now() + lasting))

    def add_part(self, export_id: UUID, part: ExportPart) -> None:
        parts = self._store.export_parts.get(export_id, ())
        self._transaction.check(
            all(other.number != part.number for other in parts),
            Conflict("already_exists", "There is one already."),
        )
        self._transaction.put(self._store.export_parts, export_id, (*parts, part))

    def release(self, export_id: UUID, pause: timedelta = timedelta()) -> None:
        self._transaction.put(self._store.claims, export_id, StoredClaim(worker=None, until=_now() + pause))

    async def parts(self, export_id: UUID) -> Sequence[ExportPart]:
        return [evolve(part, note=None) for part in self._parts(export_id)]

    async def notes(self, export_id: UUID) -> Sequence[bytes]:
        return [part.note for part in self._parts(export_id) if part.note is not None]

    async def outdated(self, at: datetime, *, most: int) -> Sequence[Export]:
        self._transaction.settle()
        found = [
            export
            for export in self._store.exports.values()
            if export.status is ExportStatus.SUCCEEDED and export.expires_at is not None and export.expires_at <= at
        ]
        return sorted(found, key=lambda export: (export.expires_at, export.id))[:most]

    async def untidy(self, ended_before: datetime, *, most: int) -> Sequence[Export]:
        self._transaction.settle()
        found = [
            export
            for export in self._store.exports.values()
            if not export.is_tidy and export.finished_at is not None and export.finished_at < ended_before
        ]
        return sorted(found, key=lambda export: (export.finished_at, export.id))[:most]

    def tidied(self, export: Export) -> None:
        kept = self._store.exports[export.id]
        if kept.version != export.version:
            return
        self._transaction.put(self._store.exports, export.id, evolve(kept, is_tidy=True))
        if kept.status is not ExportStatus.SUCCEEDED:
            self._transaction.drop(self._store.export_parts, export.id)

    def _parts(self, export_id: UUID) -> list[ExportPart]:
        self._transaction.settle()
        return sorted(self._store.export_parts.get(export_id, ()), key=attrgetter("number"))

    def _is_free(self, export: Export, now: datetime) -> bool:
        claim = self._store.claims.get(export.id)
        return claim is None or claim.until <= now

    def _waits_since(self, export: Export) -> tuple[datetime, UUID]:
        claim = self._store.claims.get(export.id)
        return export.queued_at if claim is None else claim.until, export.id


def _now() -> datetime:
    return datetime.now(UTC)
