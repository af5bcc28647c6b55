"""Capture sessions and their pins in PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_adapters.postgres.statements import Row
from experiment_domain.captures import CaptureSession, CaptureSessionRepository, CaptureStatus, Pin
from experiment_domain.kernel.entity import Change, Lock, Page, Position

PINS = """, ARRAY(
    SELECT ROW(sensor_id, profile_id, profile_version) FROM capture_session_pins
    WHERE capture_session_id = capture_sessions.id ORDER BY place
)"""


class _CaptureSessions(Table[CaptureSession]):
    """Sessions are read with their pins, and a change of them waits for the batches that are being kept."""

    def select(self, where: str, lock: Lock = Lock.NONE) -> str:
        return super().select(where, lock).replace(" FROM capture_sessions", f"{PINS} FROM capture_sessions", 1)

    def entity(self, row: Row, **others: object) -> CaptureSession:
        pins = tuple(
            Pin(sensor_id=sensor_id, profile_id=profile_id, profile_version=profile_version)
            for sensor_id, profile_id, profile_version in row[self.width]
        )
        return super().entity(row, pins=pins, **others)


CAPTURE_SESSIONS = _CaptureSessions(
    CaptureSession, "capture_sessions", {"status": enum(CaptureStatus)}, without=["pins"]
)

_ACTIVE = (
    "SELECT id, run_id FROM capture_sessions WHERE status = 'running'"
    " UNION SELECT capture_session_id, run_id FROM backfills WHERE status IN ('queued', 'running')"
)
"""The sessions that are active; each half has a partial index of its own."""

LOCK_KEY = "('x' || right(replace(id::text, '-', ''), 16))::bit(64)::bigint"
"""`lock_key` of a session's `id`, as SQL."""


def lock_key(session_id: UUID) -> int:
    """The advisory lock of a session: shared by batches on their way in, exclusive for who changes its status.

    A row lock would do the same, but writes to the row, and so to disk, for every batch.
    """
    return int.from_bytes(session_id.bytes[8:], signed=True)


# Running sessions are few, and have an index of their own.
_LEFT_RUNNING = """
SELECT session.id FROM capture_sessions AS session JOIN runs ON runs.id = session.run_id
WHERE session.status = 'running' AND runs.status IN ('finished', 'failed', 'archived')
ORDER BY session.id LIMIT %s
"""


class PostgresCaptures(PostgresRepository[CaptureSession], CaptureSessionRepository):
    """Keeps sessions in `capture_sessions`, pins in `capture_session_pins`."""

    table = CAPTURE_SESSIONS

    async def get(self, session_id: UUID, lock: Lock = Lock.NONE, *, deleted: bool = False) -> CaptureSession | None:
        if lock is Lock.UPDATE:
            self._statements.write("SELECT pg_advisory_xact_lock(%s)", [lock_key(session_id)])
        where = "id = %s" if deleted else "id = %s AND deleted_at IS NULL"
        return await CAPTURE_SESSIONS.one(self._statements.ask(CAPTURE_SESSIONS.select(where, lock), [session_id]))

    def add(self, session: CaptureSession) -> None:
        CAPTURE_SESSIONS.add(self._statements, session)
        self._pin(session)

    def save(self, session: CaptureSession) -> None:
        CAPTURE_SESSIONS.save(self._statements, session)
        self._pin(session)

    def save_all(self, changes: Sequence[Change[CaptureSession]]) -> None:
        CAPTURE_SESSIONS.save_all(self._statements, changes)
        for change in changes:
            if change.before is None or change.before.pins != change.result.pins:
                self._pin(change.result)

    def remove(self, session: CaptureSession) -> None:
        CAPTURE_SESSIONS.remove(self._statements, session.id)

    async def page(
        self,
        run_id: UUID,
        *,
        statuses: Collection[CaptureStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[CaptureSession]:
        conditions = Conditions()
        conditions.within("run_id", [run_id])
        conditions.add("deleted_at IS NULL")
        conditions.one_of("status", [str(status) for status in statuses])
        return await page(
            self._statements,
            CAPTURE_SESSIONS,
            conditions,
            order=Order.by("-ordinal"),
            limit=limit,
            after=after,
        )

    async def of_runs(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Sequence[CaptureSession]:
        where = "run_id = ANY(%s) AND deleted_at IS NULL ORDER BY run_id, ordinal"
        if lock is Lock.UPDATE:
            self._statements.write(
                f"SELECT pg_advisory_xact_lock({LOCK_KEY})"
                f" FROM (SELECT id FROM capture_sessions WHERE {where}) AS found",
                [list(run_ids)],
            )
        query = CAPTURE_SESSIONS.select(where, lock)
        return [CAPTURE_SESSIONS.entity(row) for row in await self._statements.ask(query, [list(run_ids)]).rows()]

    async def any_in(self, run_id: UUID) -> bool:
        return await self._statements.ask(
            "SELECT EXISTS (SELECT FROM capture_sessions WHERE run_id = %s)", [run_id]
        ).value()

    async def running_in(self, run_id: UUID) -> Sequence[UUID]:
        answer = self._statements.ask(
            "SELECT id FROM capture_sessions WHERE run_id = %s AND status = 'running'", [run_id]
        )
        return [session_id for (session_id,) in await answer.rows()]

    async def left_running(self, limit: int) -> Sequence[UUID]:
        answer = self._statements.ask(_LEFT_RUNNING, [limit])
        return [session_id for (session_id,) in await answer.rows()]

    async def active_in(self, run_ids: Collection[UUID]) -> Mapping[UUID, Sequence[UUID]]:
        answer = self._statements.ask(
            f"SELECT run_id, array_agg(id ORDER BY id) FROM ({_ACTIVE}) AS active"
            " WHERE run_id = ANY(%s) GROUP BY run_id",
            [list(run_ids)],
        )
        return dict(await answer.rows())

    async def active_with(self, sensor_id: UUID, run_id: UUID | None = None) -> Sequence[UUID]:
        answer = self._statements.ask(
            f"SELECT id FROM capture_session_pins JOIN ({_ACTIVE}) AS active ON id = capture_session_id"
            " WHERE sensor_id = %s AND run_id = coalesce(%s, run_id) ORDER BY id",
            [sensor_id, run_id],
        )
        return [session_id for (session_id,) in await answer.rows()]

    async def any_with(self, sensor_id: UUID) -> bool:
        return await self._statements.ask(
            "SELECT EXISTS (SELECT FROM capture_session_pins WHERE sensor_id = %s)", [sensor_id]
        ).value()

    async def pins_for(self, run_id: UUID) -> Sequence[Pin]:
        # Two statements, so that the second sees what was committed before the sensors were held.
        self._statements.write(
            "SELECT FROM sensors WHERE id IN (SELECT sensor_id FROM run_sensors WHERE run_id = %s)"
            " ORDER BY id FOR SHARE",
            [run_id],
        )
        answer = self._statements.ask(
            "SELECT run_sensors.sensor_id, profiles.id, profiles.profile_version FROM run_sensors"
            " JOIN runs ON runs.id = run_sensors.run_id"
            " JOIN sensors ON sensors.id = run_sensors.sensor_id AND sensors.status <> 'retired'"
            " AND (sensors.project_id = runs.project_id OR EXISTS (SELECT FROM sensor_projects AS shared"
            " WHERE shared.sensor_id = sensors.id AND shared.project_id = runs.project_id))"
            " LEFT JOIN conversion_profiles AS profiles"
            " ON profiles.sensor_id = sensors.id AND profiles.status = 'published'"
            " WHERE run_id = %s ORDER BY bound_at, run_sensors.sensor_id",
            [run_id],
        )
        return [
            Pin(sensor_id=sensor_id, profile_id=profile_id, profile_version=profile_version)
            for sensor_id, profile_id, profile_version in await answer.rows()
        ]

    async def next_ordinal(self, run_id: UUID) -> int:
        return await self._statements.ask(
            "SELECT coalesce(max(ordinal), 0) + 1 FROM capture_sessions WHERE run_id = %s", [run_id]
        ).value()

    def _pin(self, session: CaptureSession) -> None:
        """Pins are set once, when the session starts, and never change."""
        if session.pins:
            self._statements.write(
                "INSERT INTO capture_session_pins (capture_session_id, sensor_id, place, profile_id, profile_version)"
                " SELECT %s, * FROM unnest(%s::uuid[], %s::integer[], %s::uuid[], %s::integer[])"
                " ON CONFLICT DO NOTHING",
                [
                    session.id,
                    [pin.sensor_id for pin in session.pins],
                    list(range(len(session.pins))),
                    [pin.profile_id for pin in session.pins],
                    [pin.profile_version for pin in session.pins],
                ],
            )
