"""What can be done with experiments."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from attrs import evolve

from experiment_domain.experiments import Experiment, ExperimentFilter, ExperimentStatus, check_sort
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.usecases.permits import Permit, UseCases, requires


class ExperimentUseCases(UseCases):
    """Experiments."""

    @requires(Permission.EDIT)
    async def create(self, permit: Permit, *, project_id: UUID, **values: Any) -> Experiment:
        """A new experiment, in draft."""
        await permit.holds(await self.uow.projects.get(project_id), "project")
        change = Experiment.create(
            experiment_id=self.recorder.ids.new(),
            project_id=project_id,
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            **values,
        )
        return await self.recorder.keep(self.uow.experiments, change, "experiment", "create")

    @requires(Permission.READ)
    async def get(self, permit: Permit, experiment_id: UUID) -> Experiment:
        """One experiment."""
        return await permit.holds(await self.uow.experiments.get(experiment_id), "experiment")

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        which: ExperimentFilter,
        *,
        sort: str = "-created_at",
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[Experiment]:
        """Experiments of the projects the caller may read; of those that `which` names, if it names any."""
        check_sort(sort)
        readable = await permit.projects()
        wanted = readable & frozenset(which.project_ids) if which.project_ids else readable
        if not wanted:
            return Page(())
        return await self.uow.experiments.page(evolve(which, project_ids=wanted), sort=sort, limit=limit, after=after)

    @requires(Permission.EDIT)
    async def edit(
        self, permit: Permit, experiment_id: UUID, *, if_version: int | None = None, **values: Any
    ) -> Experiment:
        """Change what a person wrote."""
        experiment = await self._locked(permit, experiment_id, if_version)
        change = experiment.edit(at=self.recorder.now, **values)
        return await self.recorder.keep(self.uow.experiments, change, "experiment", "update")

    @requires(Permission.OWN)
    async def delete(self, permit: Permit, experiment_id: UUID, *, if_version: int | None = None) -> None:
        """Remove a draft without runs."""
        experiment = await self._locked(permit, experiment_id, if_version)
        change = experiment.remove(has_runs=await self.uow.runs.any_in(experiment_id))
        await self.recorder.keep(self.uow.experiments, change, "experiment", "delete")

    @requires(Permission.EDIT)
    async def start(
        self, permit: Permit, experiment_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Experiment:
        """draft → running."""
        experiment = await self._locked(permit, experiment_id, if_version)
        change = experiment.start(at=self.recorder.now, reason=reason)
        return await self.recorder.keep(self.uow.experiments, change, "experiment", "start", reason=reason)

    @requires(Permission.EDIT)
    async def finish(
        self, permit: Permit, experiment_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Experiment:
        """running → finished."""
        return await self._end(permit, experiment_id, ExperimentStatus.FINISHED, "finish", reason, if_version)

    @requires(Permission.EDIT)
    async def fail(
        self, permit: Permit, experiment_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Experiment:
        """running → failed."""
        return await self._end(permit, experiment_id, ExperimentStatus.FAILED, "fail", reason, if_version)

    @requires(Permission.OWN)
    async def archive(
        self, permit: Permit, experiment_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Experiment:
        """→ archived, for good."""
        return await self._end(permit, experiment_id, ExperimentStatus.ARCHIVED, "archive", reason, if_version)

    @requires(Permission.READ)
    async def history(self, permit: Permit, experiment_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.experiments.get(experiment_id), "experiment")
        return await self.uow.history.of("experiment", experiment_id)

    async def _locked(self, permit: Permit, experiment_id: UUID, if_version: int | None) -> Experiment:
        return await permit.holds(await self.uow.experiments.get(experiment_id, Lock.UPDATE), "experiment", if_version)

    async def _end(
        self,
        permit: Permit,
        experiment_id: UUID,
        target: ExperimentStatus,
        action: str,
        reason: str | None,
        if_version: int | None,
    ) -> Experiment:
        experiment = await self._locked(permit, experiment_id, if_version)
        change = experiment.end(
            target,
            running_runs=await self.uow.runs.running_in(experiment_id),
            at=self.recorder.now,
            reason=reason,
        )
        return await self.recorder.keep(self.uow.experiments, change, "experiment", action, reason=reason)
