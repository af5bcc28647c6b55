"""Experiments in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Collection, Mapping
from operator import attrgetter
from uuid import UUID

from experiment_adapters.memory.paging import any_of, has_words, one_of, page_of, within
from experiment_adapters.memory.repository import MemoryRepository
from experiment_domain.experiments import Experiment, ExperimentFilter, ExperimentRepository
from experiment_domain.kernel.entity import Lock, Page, Position


class MemoryExperiments(MemoryRepository[Experiment], ExperimentRepository):
    """Experiments."""

    rows = attrgetter("experiments")
    noun = "experiment"

    async def of_run(self, run_id: UUID, lock: Lock = Lock.NONE) -> Experiment | None:
        self._transaction.settle()
        run = self._store.runs.get(run_id)
        return None if run is None else self._store.experiments.get(run.experiment_id)

    def add(self, experiment: Experiment) -> None:
        self._transaction.refers(self._store.projects, experiment.project_id, "project")
        self._transaction.insert(self._store.experiments, experiment.id, experiment, "experiment")

    async def of_runs(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Mapping[UUID, Experiment]:
        self._transaction.settle()
        ids = {self._store.runs[run_id].experiment_id for run_id in run_ids if run_id in self._store.runs}
        return {experiment_id: self._store.experiments[experiment_id] for experiment_id in sorted(ids)}

    def remove(self, experiment: Experiment) -> None:
        runs = (run for run in self._store.runs.values() if run.experiment_id == experiment.id)
        self._transaction.refers_not(runs, "experiment")
        self._transaction.remove(self._store.experiments, experiment, "experiment")

    async def page(self, which: ExperimentFilter, *, sort: str, limit: int, after: Position | None) -> Page[Experiment]:
        self._transaction.settle()
        found = [experiment for experiment in self._store.experiments.values() if _matches(which, experiment)]
        return page_of(found, sort, limit, after)


def _matches(which: ExperimentFilter, experiment: Experiment) -> bool:
    return (
        experiment.project_id in which.project_ids
        and one_of(experiment.status, which.statuses)
        and set(which.tags) <= set(experiment.tags)
        and any_of(experiment.tags, which.any_tags)
        and one_of(experiment.experiment_type, which.experiment_types)
        and within(experiment.created_at, which.created_after, which.created_before)
        and has_words(which.words, experiment.name, experiment.description)
    )
