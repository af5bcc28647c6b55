"""Sensors in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import JSON, NAMES, Order, Table, enum, page
from experiment_adapters.postgres.statements import Statements
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.sensors import Sensor, SensorFilter, SensorRepository, SensorStatus

SENSORS = Table(Sensor, "sensors", {"signals": NAMES, "metadata": JSON, "status": enum(SensorStatus)})

HAS_TOKEN = "(sensors.token_hash = %s OR (sensors.previous_token_hash = %s AND sensors.previous_token_dies_at > %s))"  # noqa: S105


class PostgresSensors(SensorRepository):
    """Keeps sensors in `sensors`, shares in `sensor_projects`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def get(self, sensor_id: UUID, lock: Lock = Lock.NONE) -> Sensor | None:
        return await SENSORS.one(self._statements.ask(SENSORS.select("id = %s", lock), [sensor_id]))

    async def by_token(self, token_hash: bytes, at: datetime, lock: Lock = Lock.NONE) -> Sensor | None:
        return await SENSORS.one(self._statements.ask(SENSORS.select(HAS_TOKEN, lock), [token_hash, token_hash, at]))

    def add(self, sensor: Sensor) -> None:
        SENSORS.add(self._statements, sensor)

    def save(self, sensor: Sensor) -> None:
        SENSORS.save(self._statements, sensor)

    def remove(self, sensor: Sensor) -> None:
        for table in ("run_sensors", "sensor_projects", "conversion_profiles"):
            self._statements.write(f"DELETE FROM {table} WHERE sensor_id = %s", [sensor.id])
        SENSORS.remove(self._statements, sensor.id)

    def renew_sign_of_life(self, sensor_id: UUID, at: datetime) -> None:
        self._statements.write(
            "UPDATE sensors SET last_seen_at = greatest(last_seen_at, %s) WHERE id = %s", [at, sensor_id]
        )

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
        conditions.words(("name",), which.words)
        return await page(
            self._statements,
            SENSORS,
            conditions,
            order=Order.by("-created_at"),
            limit=limit,
            after=after,
        )

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
