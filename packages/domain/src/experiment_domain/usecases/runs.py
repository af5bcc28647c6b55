"""What can be done with runs and the sensors bound to them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from attrs import evolve, frozen

from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.experiments import Experiment, check_sort
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Change, Lock, Page, Position, StatusChange
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Refusal
from experiment_domain.kernel.values import checked_ids
from experiment_domain.runs import TIMED_OUT, Run, RunFilter, RunSensor, RunStatus, Tagging
from experiment_domain.usecases.permits import Permit, UseCases, requires

BULK_RUNS = 500
"""How many runs one command takes at most."""

_ACTIONS = {
    RunStatus.DRAFT: "update",
    RunStatus.RUNNING: "start",
    RunStatus.FINISHED: "finish",
    RunStatus.FAILED: "fail",
    RunStatus.ARCHIVED: "archive",
}


@frozen(kw_only=True)
class RunOutcome:
    """What became of one of several runs: the run as it is now, or why it was refused."""

    run_id: UUID
    run: Run | None = None
    refusal: Refusal | None = None


class RunUseCases(UseCases):
    """Runs and their sensors. Locks nest experiment → run → session → sensor."""

    @requires(Permission.EDIT)
    async def create(self, permit: Permit, experiment_id: UUID, **values: Any) -> Run:
        """A new run, in draft."""
        experiment = await permit.holds(await self.uow.experiments.get(experiment_id, Lock.SHARE), "experiment")
        change = Run.create(
            run_id=self.recorder.ids.new(),
            experiment=experiment,
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            **values,
        )
        return await self.recorder.keep(self.uow.runs, change, "run", "create")

    @requires(Permission.READ)
    async def get(self, permit: Permit, run_id: UUID) -> Run:
        """One run."""
        return await permit.holds(await self.uow.runs.get(run_id), "run")

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        which: RunFilter,
        *,
        sort: str = "-created_at",
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[Run]:
        """Runs of the projects the caller may read; of those that `which` names, if it names any."""
        check_sort(sort)
        readable = await permit.projects()
        wanted = readable & frozenset(which.project_ids) if which.project_ids else readable
        if not wanted:
            return Page(())
        return await self.uow.runs.page(evolve(which, project_ids=wanted), sort=sort, limit=limit, after=after)

    @requires(Permission.READ)
    async def page_of_experiment(
        self,
        permit: Permit,
        experiment_id: UUID,
        which: RunFilter,
        *,
        sort: str = "-created_at",
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[Run]:
        """Runs of one experiment."""
        check_sort(sort)
        experiment = await permit.holds(await self.uow.experiments.get(experiment_id), "experiment")
        if which.project_ids and experiment.project_id not in which.project_ids:
            return Page(())
        if which.experiment_ids and experiment_id not in which.experiment_ids:
            return Page(())
        which = evolve(which, project_ids={experiment.project_id}, experiment_ids={experiment_id})
        return await self.uow.runs.page(which, sort=sort, limit=limit, after=after)

    @requires(Permission.EDIT)
    async def edit(self, permit: Permit, run_id: UUID, *, if_version: int | None = None, **values: Any) -> Run:
        """Change what a person wrote."""
        run = await self._locked(permit, run_id, if_version)
        change = run.edit(at=self.recorder.now, **values)
        return await self.recorder.keep(self.uow.runs, change, "run", "update")

    @requires(Permission.OWN)
    async def delete(self, permit: Permit, run_id: UUID, *, if_version: int | None = None) -> None:
        """Remove a draft without capture sessions and artifacts."""
        run = await self._locked(permit, run_id, if_version)
        change = run.remove(
            has_sessions=await self.uow.captures.any_in(run_id),
            has_artifacts=await self.uow.artifacts.any_in(run_id),
            has_metrics=await self.uow.scalars.any_in(run_id),
        )
        await self.recorder.keep(self.uow.runs, change, "run", "delete")

    @requires(Permission.EDIT)
    async def start(
        self, permit: Permit, run_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Run:
        """draft → running; a draft experiment is started with it."""
        experiment = await permit.holds(await self.uow.experiments.of_run(run_id, Lock.UPDATE), "run")
        run = await self._locked(permit, run_id, if_version)
        if run.status is RunStatus.DRAFT and experiment.status == "draft":
            started = experiment.start(at=self.recorder.now)
            experiment = await self.recorder.keep(
                self.uow.experiments, started, "experiment", "start", reason="its first run was started"
            )
        change = run.start(experiment=experiment, at=self.recorder.now, reason=reason)
        return await self.recorder.keep(self.uow.runs, change, "run", "start", reason=reason)

    @requires(Permission.EDIT)
    async def finish(
        self, permit: Permit, run_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Run:
        """running → finished."""
        return await self._end(await self._locked(permit, run_id, if_version), RunStatus.FINISHED, "finish", reason)

    @requires(Permission.EDIT)
    async def fail(
        self, permit: Permit, run_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Run:
        """running → failed."""
        return await self._end(await self._locked(permit, run_id, if_version), RunStatus.FAILED, "fail", reason)

    @requires(Permission.EDIT)
    async def heartbeat(self, permit: Permit, run_id: UUID) -> Run:
        """A sign of life of a running run, whoever gives it; nothing else changes."""
        # Held: whoever fails it for its silence has looked for signs of life before this one, or sees it.
        run = await permit.holds(await self.uow.runs.get(run_id, Lock.SHARE), "run")
        run.check_running()
        self.recorder.sign_of_life(run_id)
        return run

    @requires(Permission.WORK)
    async def warn_silent(self, permit: Permit, *, most: int = BULK_RUNS) -> Sequence[UUID]:
        """Warn about running runs that have been silent for too long: which."""
        permit.service()
        silent = await self.uow.vigils.warn(most=most)
        if silent:
            runs = await self.uow.runs.several(silent)
            await self.recorder.emit(*(run.warn_silent(at=self.recorder.now) for run in runs.values()))
        return silent

    @requires(Permission.WORK)
    async def hung(self, permit: Permit, *, most: int = BULK_RUNS) -> Sequence[UUID]:
        """Running runs that were warned about, and have been silent since."""
        permit.service()
        return await self.uow.vigils.hung(most=most)

    @requires(Permission.WORK)
    async def time_out(self, permit: Permit, run_id: UUID) -> Run | None:
        """running → failed, with its running session; None where it has given a sign of life meanwhile."""
        permit.service()
        run = await self.uow.runs.get(run_id, Lock.UPDATE)
        sessions = await self.uow.captures.of_runs([run_id], Lock.UPDATE)
        # With the sessions held, no batch is on its way any more: what came before has given its sign.
        if run is None or not await self.uow.vigils.is_hung(run_id):
            return None
        stopped = [
            session.stop(CaptureStatus.FAILED, at=self.recorder.now, reason=TIMED_OUT)
            for session in sessions
            if session.status is CaptureStatus.RUNNING
        ]
        await self.recorder.keep_all(self.uow.captures, stopped, "capture_session", "stop", reason=TIMED_OUT)
        active = (await self.uow.captures.active_in([run_id])).get(run_id, ())
        change = run.time_out(active_sessions=active, at=self.recorder.now)
        return await self.recorder.keep(self.uow.runs, change, "run", "time_out", reason=TIMED_OUT)

    @requires(Permission.OWN)
    async def archive(
        self, permit: Permit, run_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Run:
        """→ archived, for good, and with it its sessions."""
        run = await self._locked(permit, run_id, if_version)
        sessions = await self.uow.captures.of_runs([run_id], Lock.UPDATE)
        run = await self._end(run, RunStatus.ARCHIVED, "archive", reason)
        await self._archive(sessions, reason)
        return run

    @requires(Permission.EDIT)
    async def set_statuses(
        self,
        permit: Permit,
        run_ids: Sequence[UUID],
        status: RunStatus,
        *,
        reason: str | None = None,
        atomic: bool = False,
    ) -> Sequence[RunOutcome]:
        """Bring several runs to a status, each by its own rules; `atomic`: all of them or none (`not_all_possible`).

        To archive takes the permission to, in each run's project.
        """
        checked_ids("run_ids", run_ids, most=BULK_RUNS)
        await permit.user()
        starts, archives = status is RunStatus.RUNNING, status is RunStatus.ARCHIVED
        needed = Permission.OWN if archives else permit.permission
        experiments = dict(await self.uow.experiments.of_runs(run_ids, Lock.UPDATE)) if starts else {}
        runs = await self.uow.runs.several(run_ids, Lock.UPDATE)
        grants = await permit.grants()
        theirs = [run.id for run in runs.values() if archives and grants.allows(needed, run.project_id)]
        sessions: Sequence[CaptureSession] = await self.uow.captures.of_runs(theirs, Lock.UPDATE) if theirs else ()
        active: Mapping[UUID, Sequence[UUID]] = {} if starts else await self.uow.captures.active_in(run_ids)
        begun: list[Change[Experiment]] = []

        async def moved(run_id: UUID) -> Change[Run]:
            run = await permit.holds(runs.get(run_id), "run")
            grants.require(needed, run.project_id, "run")
            if not starts:
                return run.end(status, active_sessions=active.get(run_id, ()), at=self.recorder.now, reason=reason)
            experiment = experiments[run.experiment_id]
            if run.status is RunStatus.DRAFT and experiment.status == "draft":
                begun.append(experiment.start(at=self.recorder.now))
                experiments[experiment.id] = experiment = begun[-1].result
            return run.start(experiment=experiment, at=self.recorder.now, reason=reason)

        changes, outcomes = await _each(run_ids, moved)
        refused = [outcome for outcome in outcomes if outcome.refusal is not None]
        if atomic and refused:
            raise Conflict(
                "not_all_possible",
                f"{len(refused)} of {len(outcomes)} runs cannot become {status}, so that none has.",
                items=[
                    {"run_id": str(outcome.run_id), "code": outcome.refusal.code, "detail": outcome.refusal.detail}
                    for outcome in refused
                    if outcome.refusal is not None
                ],
            )
        await self.recorder.keep_all(
            self.uow.experiments, begun, "experiment", "start", reason="its first run was started"
        )
        await self.recorder.keep_all(self.uow.runs, changes, "run", _ACTIONS[status], reason=reason)
        archived = {change.result.id for change in changes if not change.is_empty}
        await self._archive([session for session in sessions if session.run_id in archived], reason)
        return outcomes

    @requires(Permission.EDIT)
    async def tag(self, permit: Permit, run_ids: Sequence[UUID], tagging: Tagging) -> Sequence[RunOutcome]:
        """Add, remove or set the tags of several runs, each by its own rules."""
        checked_ids("run_ids", run_ids, most=BULK_RUNS)
        await permit.user()
        runs = await self.uow.runs.several(run_ids, Lock.UPDATE)

        async def tagged(run_id: UUID) -> Change[Run]:
            run = await permit.holds(runs.get(run_id), "run")
            return run.retag(tagging, at=self.recorder.now)

        changes, outcomes = await _each(run_ids, tagged)
        await self.recorder.keep_all(self.uow.runs, changes, "run", "tag")
        return outcomes

    @requires(Permission.READ)
    async def history(self, permit: Permit, run_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.runs.get(run_id), "run")
        return await self.uow.history.of("run", run_id)

    @requires(Permission.READ)
    async def sensors(self, permit: Permit, run_id: UUID) -> Sequence[RunSensor]:
        """The sensors bound to a run, first bound first."""
        await permit.holds(await self.uow.runs.get(run_id), "run")
        return await self.uow.runs.sensors_of(run_id)

    @requires(Permission.EDIT)
    async def bind(self, permit: Permit, run_id: UUID, sensor_id: UUID) -> RunSensor:
        """Bind a sensor of the run's project, or one that is shared with it."""
        run = await self._locked(permit, run_id, None)
        sensor = await self.uow.sensors.get(sensor_id, Lock.SHARE)
        if sensor is None or run.project_id not in await self.uow.sensors.projects_of(sensor_id):
            raise NotFound("sensor")
        run.check_binds()
        sensor.check_not_retired()
        bound = await self.uow.runs.sensors_of(run_id)
        for binding in bound:
            if binding.sensor_id == sensor_id:
                return binding
        binding = RunSensor(
            run_id=run_id,
            sensor_id=sensor_id,
            bound_at=self.recorder.now,
            bound_by=(await permit.grants()).actor,
        )
        self.uow.runs.bind(binding)
        await self.recorder.bound(run, sensor_id)
        return binding

    @requires(Permission.EDIT)
    async def unbind(self, permit: Permit, run_id: UUID, sensor_id: UUID) -> None:
        """Unbind a sensor, unless it takes part in an active session of the run."""
        run = await self._locked(permit, run_id, None)
        sensor = await self.uow.sensors.get(sensor_id, Lock.SHARE)
        bound = await self.uow.runs.sensors_of(run_id)
        if sensor is None or sensor_id not in {binding.sensor_id for binding in bound}:
            raise NotFound("sensor")
        run.check_binds()
        sensor.check_not_in_use(await self.uow.captures.active_with(sensor_id, run_id))
        self.uow.runs.unbind(run_id, sensor_id)
        await self.recorder.unbound(run, sensor_id)

    async def _archive(self, sessions: Sequence[CaptureSession], reason: str | None) -> None:
        await self.recorder.keep_all(
            self.uow.captures,
            [session.archive(at=self.recorder.now, reason=reason) for session in sessions],
            "capture_session",
            "archive",
            reason=reason or "its run was archived",
        )

    async def _locked(self, permit: Permit, run_id: UUID, if_version: int | None) -> Run:
        return await permit.holds(await self.uow.runs.get(run_id, Lock.UPDATE), "run", if_version)

    async def _end(self, run: Run, target: RunStatus, action: str, reason: str | None) -> Run:
        change = run.end(
            target,
            active_sessions=(await self.uow.captures.active_in([run.id])).get(run.id, ()),
            at=self.recorder.now,
            reason=reason,
        )
        return await self.recorder.keep(self.uow.runs, change, "run", action, reason=reason)


async def _each(
    run_ids: Sequence[UUID], command: Callable[[UUID], Awaitable[Change[Run]]]
) -> tuple[list[Change[Run]], list[RunOutcome]]:
    """What a command makes of each run: the changes, and an outcome for every id in their order."""
    changes: list[Change[Run]] = []
    outcomes: list[RunOutcome] = []
    for run_id in run_ids:
        try:
            change = await command(run_id)
        except (NotFound, Forbidden, Conflict, Invalid) as refusal:
            outcomes.append(RunOutcome(run_id=run_id, refusal=refusal))
        else:
            changes.append(change)
            outcomes.append(RunOutcome(run_id=run_id, run=change.result))
    return changes, outcomes
