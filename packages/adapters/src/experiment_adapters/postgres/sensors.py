"""Sensors in PostgreSQL."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions, lexemes
from experiment_adapters.postgres.mapping import JSON, NAMES, Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.sensors import (
    DELAYED_FOR,
    ONLINE_FOR,
    Sensor,
    SensorFilter,
    SensorRepository,
    SensorStatus,
    SignsOfLife,
    SignsWindow,
    StatusSummary,
    minute_of,
)

SENSORS = Table(
    Sensor,
    "sensors",
    {"signals": NAMES, "metadata": JSON, "status": enum(SensorStatus)},
    written={"words": lambda sensor: lexemes(sensor.name)},
)

HAS_TOKEN = "(sensors.token_hash = %s OR (sensors.previous_token_hash = %s AND sensors.previous_token_dies_at > %s))"  # noqa: S105

CONNECTION = "CASE WHEN last_seen_at > %s THEN 'online' WHEN last_seen_at > %s THEN 'delayed' ELSE 'offline' END"
"""The domain's `connection`, given the moments `_limits`: never seen is beyond none of them."""

# The sensor is held before the rows of its minute and its vigil, so that signs of one sensor, and who looks at it, wait
# for each other at one place.
_RENEW = """
WITH seen AS (
    UPDATE sensors SET last_seen_at = greatest(last_seen_at, %s)
    WHERE id = %s AND coalesce(last_seen_at <= %s, true)
    RETURNING id
), vigil AS (
    INSERT INTO sensor_vigils AS kept (sensor_id, look_at) SELECT id, %s FROM seen
    ON CONFLICT (sensor_id) DO UPDATE SET look_at = excluded.look_at WHERE kept.look_at IS NULL
)
INSERT INTO sensor_signs_of_life (sensor_id, minute, count) SELECT id, %s, 1 FROM seen
ON CONFLICT (sensor_id, minute) DO UPDATE SET count = sensor_signs_of_life.count + 1
"""

# Nobody waits for rows that another worker is forgetting already.
_FORGET = """
WITH forgotten AS (
    DELETE FROM sensor_signs_of_life WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sensor_signs_of_life WHERE minute < %s LIMIT %s FOR UPDATE SKIP LOCKED
    )) RETURNING 1
) SELECT count(*) FROM forgotten
"""

# In two parts, since no index answers an OR over two tables; a sensor that is of one of the projects and shared with
# another counts in the first alone.
_SUMMARY = f"""
SELECT {CONNECTION}, count(*) FROM (
    SELECT last_seen_at FROM sensors WHERE project_id = ANY(%s) AND status <> 'retired'
    UNION ALL
    SELECT last_seen_at FROM sensors WHERE project_id <> ALL(%s) AND status <> 'retired'
    AND id IN (SELECT sensor_id FROM sensor_projects WHERE project_id = ANY(%s))
) AS seen GROUP BY 1
"""


class PostgresSensors(PostgresRepository[Sensor], SensorRepository):
    """Keeps sensors in `sensors`, shares in `sensor_projects`, signs of life in `sensor_signs_of_life`."""

    table = SENSORS

    async def by_token(self, token_hash: bytes, at: datetime, lock: Lock = Lock.NONE) -> Sensor | None:
        return await SENSORS.one(self._statements.ask(SENSORS.select(HAS_TOKEN, lock), [token_hash, token_hash, at]))

    def remove(self, sensor: Sensor) -> None:
        for table in ("run_sensors", "sensor_projects", "sensor_signs_of_life", "sensor_vigils", "conversion_profiles"):
            self._statements.write(f"DELETE FROM {table} WHERE sensor_id = %s", [sensor.id])
        SENSORS.remove(self._statements, sensor.id)

    def renew_sign_of_life(self, sensor_id: UUID, at: datetime, *, unless_since: datetime | None = None) -> None:
        self._statements.write(_RENEW, [at, sensor_id, unless_since, at, minute_of(at)])

    async def signs_of_life(self, sensor_id: UUID, window: SignsWindow) -> Sequence[SignsOfLife]:
        answer = self._statements.ask(
            "SELECT floor(extract(epoch FROM minute - %s) / %s)::integer, sum(count)::integer FROM sensor_signs_of_life"
            " WHERE sensor_id = %s AND minute >= %s AND minute < %s GROUP BY 1",
            [window.start, int(window.bucket.total_seconds()), sensor_id, window.start, window.end],
        )
        return window.filled(dict(await answer.rows()))

    async def forget_signs_of_life(self, before: datetime, *, most: int) -> int:
        self._statements.check_writes()
        return await self._statements.ask(_FORGET, [before, most]).value()

    async def page(self, which: SensorFilter, *, limit: int, after: Position | None) -> Page[Sensor]:
        conditions = Conditions()
        projects = list(which.project_ids)
        conditions.add(
            "(project_id = ANY(%s) OR id IN (SELECT sensor_id FROM sensor_projects WHERE project_id = ANY(%s)))",
            projects,
            projects,
        )
        conditions.one_of("status", [str(status) for status in which.statuses])
        conditions.one_of("sensor_type", which.sensor_types)
        if which.connections:
            wanted = [str(connection) for connection in which.connections]
            conditions.add(f"{CONNECTION} = ANY(%s)", *_limits(which.moment), wanted)
        conditions.words(which.words)
        return await page(
            self._statements,
            SENSORS,
            conditions,
            order=Order.by("-created_at"),
            limit=limit,
            after=after,
            prepare=False,
        )

    async def status_summary(self, project_ids: Collection[UUID], now: datetime) -> StatusSummary:
        projects = list(project_ids)
        rows = await self._statements.ask(_SUMMARY, [*_limits(now), projects, projects, projects]).rows()
        return StatusSummary(**dict(rows))

    async def projects_of(self, sensor_id: UUID) -> Sequence[UUID]:
        answer = self._statements.ask(
            "SELECT project_id FROM (SELECT project_id, NULL AS shared_at FROM sensors WHERE id = %s UNION ALL"
            " SELECT project_id, shared_at FROM sensor_projects WHERE sensor_id = %s) AS projects"
            " ORDER BY shared_at NULLS FIRST, project_id",
            [sensor_id, sensor_id],
        )
        return [project_id for (project_id,) in await answer.rows()]

    def share(self, sensor_id: UUID, project_id: UUID, at: datetime, by: str) -> None:
        self._statements.write(
            "INSERT INTO sensor_projects (sensor_id, project_id, shared_at, shared_by) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [sensor_id, project_id, at, by],
        )

    def unshare(self, sensor_id: UUID, project_id: UUID) -> None:
        self._statements.write(
            "DELETE FROM sensor_projects WHERE sensor_id = %s AND project_id = %s", [sensor_id, project_id]
        )


def _limits(now: datetime) -> tuple[datetime, datetime]:
    """The moments after which a last sign of life means online, and delayed."""
    return now - ONLINE_FOR, now - DELAYED_FOR
