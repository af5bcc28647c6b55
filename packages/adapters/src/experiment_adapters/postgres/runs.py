"""Runs and the sensors bound to them in PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions, lexemes
from experiment_adapters.postgres.mapping import JSON, NAMES, Order, Table, enum
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_adapters.postgres.search import Search, search_page
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.runs import Run, RunFilter, RunRepository, RunSensor, RunStatus, values_meant

RUNS = Table(
    Run,
    "runs",
    {
        "params": JSON,
        "tags": NAMES,
        "metadata": JSON,
        "env": JSON,
        "participants": NAMES,
        "status": enum(RunStatus),
    },
    written={"words": lambda run: lexemes(run.name, run.notes)},
)


class PostgresRuns(PostgresRepository[Run], RunRepository):
    """Keeps runs in `runs`, bindings in `run_sensors`."""

    table = RUNS

    async def several(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Mapping[UUID, Run]:
        query = RUNS.select("id = ANY(%s) ORDER BY id", lock)
        rows = await self._statements.ask(query, [list(run_ids)]).rows()
        return {run.id: run for run in map(RUNS.entity, rows)}

    def remove(self, run: Run) -> None:
        for table in ("run_sensors", "run_vigils"):
            self._statements.write(f"DELETE FROM {table} WHERE run_id = %s", [run.id])
        RUNS.remove(self._statements, run.id)

    async def page(self, which: RunFilter, *, sort: str, limit: int, after: Position | None) -> Page[Run]:
        order = Order.by(sort)
        return await search_page(self._statements, RUNS, _search(which, order), order=order, limit=limit, after=after)

    async def running_in(self, experiment_id: UUID) -> Sequence[UUID]:
        answer = self._statements.ask(
            "SELECT id FROM runs WHERE experiment_id = %s AND status = 'running' ORDER BY id", [experiment_id]
        )
        return [run_id for (run_id,) in await answer.rows()]

    async def any_in(self, experiment_id: UUID) -> bool:
        answer = self._statements.ask("SELECT EXISTS (SELECT FROM runs WHERE experiment_id = %s)", [experiment_id])
        return await answer.value()

    async def sensors_of(self, run_id: UUID) -> Sequence[RunSensor]:
        answer = self._statements.ask(
            "SELECT sensor_id, bound_at, bound_by FROM run_sensors WHERE run_id = %s ORDER BY bound_at, sensor_id",
            [run_id],
        )
        return [
            RunSensor(run_id=run_id, sensor_id=sensor_id, bound_at=bound_at, bound_by=bound_by)
            for sensor_id, bound_at, bound_by in await answer.rows()
        ]

    async def bound_to(self, sensor_id: UUID) -> Sequence[Run]:
        where = "id IN (SELECT run_id FROM run_sensors WHERE sensor_id = %s) ORDER BY id"
        rows = await self._statements.ask(RUNS.select(where), [sensor_id]).rows()
        return [RUNS.entity(row) for row in rows]

    def bind(self, binding: RunSensor) -> None:
        self._statements.write(
            "INSERT INTO run_sensors (run_id, sensor_id, bound_at, bound_by) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            [binding.run_id, binding.sensor_id, binding.bound_at, binding.bound_by],
        )

    def unbind(self, run_id: UUID, sensor_id: UUID) -> None:
        self._statements.write("DELETE FROM run_sensors WHERE run_id = %s AND sensor_id = %s", [run_id, sensor_id])


def _search(which: RunFilter, order: Order) -> Search:
    walked, filters = Conditions(), Conditions()
    walked.between("created_at", which.created_after, which.created_before)
    walked.between("started_at", which.started_after, which.started_before)
    # Of experiment and status, one can be a part of the index that gives the order of creation.
    alone = order.column == "created_at" and which.started_after is which.started_before is None
    of_one_experiment = alone and len(which.experiment_ids) == 1
    of_one_status = alone and len(which.statuses) == 1 and not of_one_experiment
    (walked if of_one_experiment else filters).one_of("experiment_id", which.experiment_ids)
    (walked if of_one_status else filters).one_of("status", [str(status) for status in which.statuses])
    filters.one_of("id", which.ids)
    filters.contains("tags", which.tags)
    filters.overlaps("tags", which.any_tags)
    filters.prefixed("git_sha", which.git_shas)
    filters.overlaps("participants", which.participants)
    if which.sensor_ids:
        filters.add("id IN (SELECT run_id FROM run_sensors WHERE sensor_id = ANY(%s))", list(which.sensor_ids))
    if which.profile_ids:
        filters.add(
            "id IN (SELECT run_id FROM capture_session_pins JOIN capture_sessions"
            " ON capture_sessions.id = capture_session_id WHERE profile_id = ANY(%s) AND deleted_at IS NULL)",
            list(which.profile_ids),
        )
    by_key: dict[str, list[str]] = {}
    for key, value in which.params:
        by_key.setdefault(key, []).append(value)
    for key, values in by_key.items():
        filters.objects("params", [{key: value} for text in values for value in values_meant(text)])
    filters.words(which.words)
    return Search(which.project_ids, walked, filters)
