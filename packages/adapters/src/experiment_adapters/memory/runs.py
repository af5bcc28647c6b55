"""Runs in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from experiment_adapters.memory.paging import any_of, has_words, one_of, page_of, within
from experiment_adapters.memory.repository import MemoryRepository
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.runs import Run, RunFilter, RunRepository, RunSensor, RunStatus, values_meant


class MemoryRuns(MemoryRepository[Run], RunRepository):
    """Runs and the sensors bound to them."""

    rows = attrgetter("runs")
    noun = "run"

    def add(self, run: Run) -> None:
        self._transaction.refers(self._store.experiments, run.experiment_id, "experiment")
        self._transaction.insert(self._store.runs, run.id, run, "run")

    async def several(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Mapping[UUID, Run]:
        self._transaction.settle()
        return {run_id: self._store.runs[run_id] for run_id in sorted(run_ids) if run_id in self._store.runs}

    def remove(self, run: Run) -> None:
        sessions = (session for session in self._store.captures.values() if session.run_id == run.id)
        artifacts = (artifact for artifact in self._store.artifacts.values() if artifact.run_id == run.id)
        metrics = self._store.scalars.get(run.id, ())
        self._transaction.refers_not([*sessions, *artifacts, *metrics], "run")
        self._transaction.remove(self._store.runs, run, "run")
        for key in [key for key in self._store.run_sensors if key[0] == run.id]:
            self._transaction.drop(self._store.run_sensors, key)
        self._transaction.drop(self._store.vigils, run.id)

    async def page(self, which: RunFilter, *, sort: str, limit: int, after: Position | None) -> Page[Run]:
        self._transaction.settle()
        found = [run for run in self._store.runs.values() if self._matches(which, run)]
        return page_of(found, sort, limit, after)

    async def running_in(self, experiment_id: UUID) -> Sequence[UUID]:
        self._transaction.settle()
        return sorted(
            run.id
            for run in self._store.runs.values()
            if run.experiment_id == experiment_id and run.status is RunStatus.RUNNING
        )

    async def any_in(self, experiment_id: UUID) -> bool:
        self._transaction.settle()
        return any(run.experiment_id == experiment_id for run in self._store.runs.values())

    async def sensors_of(self, run_id: UUID) -> Sequence[RunSensor]:
        self._transaction.settle()
        bound = [binding for binding in self._store.run_sensors.values() if binding.run_id == run_id]
        return sorted(bound, key=lambda binding: (binding.bound_at, binding.sensor_id))

    async def bound_to(self, sensor_id: UUID) -> Sequence[Run]:
        self._transaction.settle()
        return [self._store.runs[run_id] for run_id, bound in sorted(self._store.run_sensors) if bound == sensor_id]

    def bind(self, binding: RunSensor) -> None:
        self._transaction.refers(self._store.runs, binding.run_id, "run")
        self._transaction.refers(self._store.sensors, binding.sensor_id, "sensor")
        key = (binding.run_id, binding.sensor_id)
        if key not in self._store.run_sensors:
            self._transaction.put(self._store.run_sensors, key, binding)

    def unbind(self, run_id: UUID, sensor_id: UUID) -> None:
        self._transaction.drop(self._store.run_sensors, (run_id, sensor_id))

    def _matches(self, which: RunFilter, run: Run) -> bool:
        return (
            run.project_id in which.project_ids
            and one_of(run.id, which.ids)
            and one_of(run.experiment_id, which.experiment_ids)
            and one_of(run.status, which.statuses)
            and set(which.tags) <= set(run.tags)
            and any_of(run.tags, which.any_tags)
            and _has_prefix(run.git_sha, which.git_shas)
            and any_of(run.participants, which.participants)
            and any_of(
                [sensor_id for run_id, sensor_id in self._store.run_sensors if run_id == run.id], which.sensor_ids
            )
            and any_of(self._profiles_of(run.id), which.profile_ids)
            and within(run.created_at, which.created_after, which.created_before)
            and within(run.started_at, which.started_after, which.started_before)
            and _has_params(run.params, which.params)
            and has_words(which.words, run.name, run.notes)
        )

    def _profiles_of(self, run_id: UUID) -> set[UUID | None]:
        return {
            pin.profile_id
            for session in self._store.captures.values()
            if session.run_id == run_id and session.deleted_at is None
            for pin in session.pins
        }


def _has_prefix(git_sha: str | None, prefixes: Collection[str]) -> bool:
    return not prefixes or (git_sha is not None and git_sha.startswith(tuple(prefixes)))


def _has_params(params: Mapping[str, Any], wanted: Collection[tuple[str, str]]) -> bool:
    # Each key narrows; several values of one key are alternatives.
    return all(
        key in params
        and any(_equal(params[key], value) for other, text in wanted if other == key for value in values_meant(text))
        for key in {key for key, _ in wanted}
    )


def _equal(one: Any, other: Any) -> bool:
    """JSON's equality: 1 and 1.0 are one number, and neither is true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
