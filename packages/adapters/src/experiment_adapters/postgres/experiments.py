"""Experiments in PostgreSQL."""

from collections.abc import Collection, Mapping
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions, lexemes
from experiment_adapters.postgres.mapping import JSON, NAMES, Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.experiments import Experiment, ExperimentFilter, ExperimentRepository, ExperimentStatus
from experiment_domain.kernel.entity import Lock, Page, Position

EXPERIMENTS = Table(
    Experiment,
    "experiments",
    {"tags": NAMES, "metadata": JSON, "status": enum(ExperimentStatus)},
    written={"words": lambda experiment: lexemes(experiment.name, experiment.description)},
)


class PostgresExperiments(PostgresRepository[Experiment], ExperimentRepository):
    """Keeps experiments in `experiments`."""

    table = EXPERIMENTS

    async def of_run(self, run_id: UUID, lock: Lock = Lock.NONE) -> Experiment | None:
        where = "id = (SELECT experiment_id FROM runs WHERE id = %s)"
        return await EXPERIMENTS.one(self._statements.ask(EXPERIMENTS.select(where, lock), [run_id]))

    async def of_runs(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Mapping[UUID, Experiment]:
        where = "id IN (SELECT experiment_id FROM runs WHERE id = ANY(%s)) ORDER BY id"
        rows = await self._statements.ask(EXPERIMENTS.select(where, lock), [list(run_ids)]).rows()
        return {experiment.id: experiment for experiment in map(EXPERIMENTS.entity, rows)}

    def remove(self, experiment: Experiment) -> None:
        EXPERIMENTS.remove(self._statements, experiment.id)

    async def page(self, which: ExperimentFilter, *, sort: str, limit: int, after: Position | None) -> Page[Experiment]:
        conditions = Conditions()
        conditions.within("project_id", which.project_ids)
        conditions.one_of("status", [str(status) for status in which.statuses])
        conditions.one_of("experiment_type", which.experiment_types)
        conditions.contains("tags", which.tags)
        conditions.overlaps("tags", which.any_tags)
        conditions.between("created_at", which.created_after, which.created_before)
        conditions.words(which.words)
        return await page(
            self._statements,
            EXPERIMENTS,
            conditions,
            order=Order.by(sort),
            limit=limit,
            after=after,
            prepare=False,
        )
