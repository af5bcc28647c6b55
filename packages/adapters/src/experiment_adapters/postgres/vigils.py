"""The last signs of life of runs, and when sensors are looked at, in PostgreSQL."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from experiment_adapters.postgres.mapping import columns_of
from experiment_adapters.postgres.sensors import SENSORS
from experiment_adapters.postgres.statements import Statements
from experiment_domain import vigils
from experiment_domain.vigils import RunVigils, SensorVigil, SensorVigils

# Running runs are few, and have an index of their own. The clock itself is asked, not the time at which the transaction
# began: it may have waited for a lock.
_WATCHED = """
FROM runs JOIN projects ON projects.id = runs.project_id
JOIN run_vigils ON run_vigils.run_id = runs.id
CROSS JOIN LATERAL (SELECT coalesce(runs.auto_close_after, projects.auto_close_after) AS seconds) AS allowed
WHERE runs.status = 'running'
"""
_WARN = f"""
WITH silent AS (
    SELECT run_vigils.run_id {_WATCHED} AND warned_at IS NULL
        AND alive_at < clock_timestamp() - make_interval(secs => allowed.seconds) - %s
    ORDER BY run_vigils.run_id LIMIT %s FOR NO KEY UPDATE OF run_vigils SKIP LOCKED
)
UPDATE run_vigils SET warned_at = clock_timestamp() FROM silent WHERE run_vigils.run_id = silent.run_id
RETURNING run_vigils.run_id
"""
# Asked of both: the limit may have been raised since the warning.
_HUNG = f"""
SELECT run_vigils.run_id {_WATCHED}
    AND greatest(warned_at, alive_at + make_interval(secs => allowed.seconds))
        < clock_timestamp() - least(greatest(make_interval(secs => allowed.seconds), %s), %s)
    AND warned_at IS NOT NULL
"""

LIVING = f"""
warned_at IS NULL AND alive_at > clock_timestamp() - interval '{vigils.READINGS_COUNT_EVERY.total_seconds()} seconds'
"""
"""What is said of a run in `run_vigils` whose last sign of life need not be renewed by readings.

The function `batches_that_hold` says it once more.
"""


class PostgresVigils(RunVigils):
    """Keeps them in `run_vigils`, apart from the runs: they change often, and are nobody's edits."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def renew(self, run_ids: Collection[UUID]) -> None:
        self._statements.write(
            "INSERT INTO run_vigils (run_id, alive_at)"
            " SELECT id, clock_timestamp() FROM runs WHERE id = ANY(%s) ORDER BY id"
            " ON CONFLICT (run_id) DO UPDATE SET alive_at = excluded.alive_at, warned_at = NULL",
            [sorted(run_ids)],
        )

    async def warn(self, *, most: int) -> Sequence[UUID]:
        self._statements.check_writes()
        answer = self._statements.ask(_WARN, [vigils.READINGS_COUNT_EVERY, most])
        return [run_id for (run_id,) in await answer.rows()]

    async def hung(self, *, most: int) -> Sequence[UUID]:
        answer = self._statements.ask(f"{_HUNG} ORDER BY run_vigils.run_id LIMIT %s", [*_grace(), most])
        return [run_id for (run_id,) in await answer.rows()]

    async def is_hung(self, run_id: UUID) -> bool:
        answer = self._statements.ask(f"SELECT EXISTS ({_HUNG} AND runs.id = %s)", [*_grace(), run_id])
        return await answer.value()


def _grace() -> tuple[timedelta, timedelta]:
    return vigils.SHORTEST_GRACE, vigils.LONGEST_GRACE


_DUE = "SELECT sensor_id FROM sensor_vigils WHERE look_at <= %s ORDER BY look_at, sensor_id LIMIT %s"
_STILL_DUE = "SELECT sensor_id, look_at, is_told_offline FROM sensor_vigils WHERE sensor_id = ANY(%s) AND look_at <= %s"
_HELD = SENSORS.select("id = ANY(%s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")


class PostgresSensorVigils(SensorVigils):
    """Keeps them in `sensor_vigils`: an index over `last_seen_at` would have to follow every sign of life."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def due(self, at: datetime, *, most: int) -> Sequence[SensorVigil]:
        self._statements.check_writes()
        waiting = [sensor_id for (sensor_id,) in await self._statements.ask(_DUE, [at, most]).rows()]
        if not waiting:
            return ()
        # Sensors are held before their vigils, as signs of life do; what another one did before is seen only then.
        held = self._statements.ask(_HELD, [waiting])
        sensors = {sensor.id: sensor for sensor in map(SENSORS.entity, await held.rows())}
        still = await self._statements.ask(_STILL_DUE, [list(sensors), at]).rows()
        return [
            SensorVigil(sensor=sensors[sensor_id], look_at=look_at, is_told_offline=is_told_offline)
            for sensor_id, look_at, is_told_offline in still
        ]

    def keep(self, vigils: Sequence[SensorVigil]) -> None:
        if vigils:
            self._statements.write(
                "UPDATE sensor_vigils AS kept SET look_at = new.look_at, is_told_offline = new.is_told"
                " FROM unnest(%s::uuid[], %s::timestamptz[], %s::boolean[]) AS new (sensor_id, look_at, is_told)"
                " WHERE kept.sensor_id = new.sensor_id",
                columns_of((vigil.sensor.id, vigil.look_at, vigil.is_told_offline) for vigil in vigils),
            )
