"""Exports in PostgreSQL, their parts, and which worker works on which."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import NAMES, Codec, Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.exports.jobs import (
    PROGRESS,
    Export,
    ExportClaim,
    ExportPart,
    ExportPlace,
    ExportRepository,
    ExportStatus,
    FileFormat,
)
from experiment_domain.exports.scopes import ExportScope
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.telemetry.store import Layer


def _place(value: ExportPlace) -> Jsonb:
    profile = None if value.profile_id is None else str(value.profile_id)
    return Jsonb([str(value.sensor_id), value.signal, value.after, profile])


def _placed(value: list[Any]) -> ExportPlace:
    sensor, signal, after, profile = value
    profile_id = None if profile is None else UUID(profile)
    return ExportPlace(sensor_id=UUID(sensor), signal=signal, after=after, profile_id=profile_id)


_CODECS = {
    "scope": Codec(lambda scope: Jsonb(scope.facts()), ExportScope.of),
    "format": enum(FileFormat),
    "layer": enum(Layer),
    "claimed_role": enum(Role),
    "status": enum(ExportStatus),
    "sessions": NAMES,
    "place": Codec(_place, _placed),
}
EXPORTS = Table(Export, "exports", _CODECS)
LISTED = Table(Export, "exports", _CODECS, without=("sessions",))
"""The same for lists: there may be thousands of sessions to each."""

# Claims are told by the clock itself, not by the time at which their transaction began. Of one that was taken while
# this waited for its row, the conditions no longer hold, and the next one is tried.
_CLAIM = f"""
WITH due AS (
    SELECT id, claimed_by FROM exports
    WHERE status IN ('queued', 'running') AND coalesce(claimed_until <= clock_timestamp(), true)
    ORDER BY coalesce(claimed_until, queued_at), id LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE exports SET claimed_by = %s, claimed_until = clock_timestamp() + %s
FROM due WHERE exports.id = due.id
RETURNING {EXPORTS.columns}, due.claimed_by IS NOT NULL
"""
_RENEW = (
    f"UPDATE exports SET {', '.join(f'{name} = %s' for name in PROGRESS)}, claimed_until = clock_timestamp() + %s"
    " WHERE id = %s AND claimed_by = %s"
)


class PostgresExports(PostgresRepository[Export], ExportRepository):
    """Keeps exports in `exports`, their parts in `export_parts`."""

    table = EXPORTS

    async def page(
        self,
        project_ids: Collection[UUID],
        *,
        statuses: Collection[ExportStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Export]:
        conditions = Conditions()
        conditions.within("project_id", project_ids)
        conditions.one_of("status", [str(status) for status in statuses])
        order = Order.by("-created_at")
        return await page(self._statements, LISTED, conditions, order=order, limit=limit, after=after)

    async def under_way(self, project_id: UUID, user_id: str) -> int:
        return await self._statements.ask(
            "SELECT count(*) FROM exports"
            " WHERE project_id = %s AND created_by = %s AND status IN ('queued', 'running')",
            [project_id, user_id],
        ).value()

    async def claim(self, worker: UUID, lasting: timedelta) -> ExportClaim | None:
        self._statements.check_writes()
        row = await self._statements.ask(_CLAIM, [worker, lasting]).row()
        return None if row is None else ExportClaim(export=EXPORTS.entity(row), was_lost=row[-1])

    async def claimed(self, export_id: UUID, worker: UUID) -> Export | None:
        where = "id = %s AND claimed_by = %s AND status = 'running' FOR NO KEY UPDATE"
        return await EXPORTS.one(self._statements.ask(EXPORTS.select(where), [export_id, worker]))

    def plan(self, export: Export) -> None:
        sessions = None if export.sessions is None else list(export.sessions)
        self._statements.write("UPDATE exports SET sessions = %s WHERE id = %s", [sessions, export.id])

    def renew(self, export: Export, worker: UUID, lasting: timedelta) -> None:
        place = None if export.place is None else _place(export.place)
        progress = [place if name == "place" else getattr(export, name) for name in PROGRESS]
        self._statements.write(_RENEW, [*progress, lasting, export.id, worker])

    def add_part(self, export_id: UUID, part: ExportPart) -> None:
        self._statements.write(
            "INSERT INTO export_parts (export_id, number, name, size, note) VALUES (%s, %s, %s, %s, %s)",
            [export_id, part.number, part.name, part.size, part.note],
        )

    def release(self, export_id: UUID, pause: timedelta = timedelta()) -> None:
        self._statements.write(
            "UPDATE exports SET claimed_by = NULL, claimed_until = clock_timestamp() + %s WHERE id = %s",
            [pause, export_id],
        )

    async def parts(self, export_id: UUID) -> Sequence[ExportPart]:
        rows = await self._statements.ask(
            "SELECT number, name, size FROM export_parts WHERE export_id = %s ORDER BY number", [export_id]
        ).rows()
        return [ExportPart(number=number, name=name, size=size) for number, name, size in rows]

    async def notes(self, export_id: UUID) -> Sequence[bytes]:
        rows = await self._statements.ask(
            "SELECT note FROM export_parts WHERE export_id = %s AND note IS NOT NULL ORDER BY number", [export_id]
        ).rows()
        return [bytes(note) for (note,) in rows]

    async def outdated(self, at: datetime, *, most: int) -> Sequence[Export]:
        where = (
            "status = 'succeeded' AND expires_at <= %s ORDER BY expires_at, id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"
        )
        rows = await self._statements.ask(EXPORTS.select(where), [at, most]).rows()
        return [EXPORTS.entity(row) for row in rows]

    async def untidy(self, ended_before: datetime, *, most: int) -> Sequence[Export]:
        where = "NOT is_tidy AND finished_at < %s ORDER BY finished_at, id LIMIT %s"
        rows = await self._statements.ask(EXPORTS.select(where), [ended_before, most]).rows()
        return [EXPORTS.entity(row) for row in rows]

    def tidied(self, export: Export) -> None:
        self._statements.write(
            "WITH tidied AS (UPDATE exports SET is_tidy = true WHERE id = %s AND version = %s RETURNING id, status)"
            " DELETE FROM export_parts USING tidied WHERE export_id = tidied.id AND tidied.status <> 'succeeded'",
            [export.id, export.version],
        )
