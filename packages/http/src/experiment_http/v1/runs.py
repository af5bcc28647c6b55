"""Runs, and the sensors bound to them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.runs import Run, RunFilter, RunSensor, RunStatus, Tagging
from experiment_domain.usecases import Work
from experiment_domain.usecases.runs import BULK_RUNS, RunOutcome, RunUseCases
from experiment_http.answers import EntityView, Items, Nothing, Paged, View, created, one
from experiment_http.operations import Operations
from experiment_http.structs import given
from experiment_http.times import Moment, Timestamp
from experiment_http.v1.values import (
    ENTITY,
    CreatedQuery,
    Empty,
    Json,
    Name,
    Reason,
    Request,
    Silence,
    Sort,
    StatusChangeView,
    Tags,
    Text,
    Transition,
    Words,
)

GitSha = Annotated[str, Meta(min_length=7, max_length=64, pattern="^[0-9A-Fa-f]*$")]
_WRITTEN: Mapping[str, Any] = {
    "name": "Full load, 30 minutes",
    "params": {"speed": 12000, "fuel": "A1"},
    "tags": ["nightly"],
    "metadata": {},
    "git_sha": "4f2a91c0d7b3",
    "env": {"python": "3.13"},
    "notes": "Second attempt with the new seals.",
    "participants": ["ada", "grace"],
    "auto_close_after": 3600.0,
}


class NewRun(Request, frozen=True):
    """A run to be made. `auto_close_after` is in seconds; without it, the project's holds."""

    example: ClassVar[Mapping[str, Any]] = _WRITTEN

    name: Name
    params: Json | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET
    git_sha: GitSha | UnsetType | None = UNSET
    env: Json | UnsetType = UNSET
    notes: Text | UnsetType | None = UNSET
    participants: Tags | UnsetType = UNSET
    auto_close_after: Silence | UnsetType | None = UNSET


class RunEdit(Request, frozen=True):
    """What is to change."""

    example: ClassVar[Mapping[str, Any]] = {"tags": ["nightly", "valid"], "notes": None}

    name: Name | UnsetType = UNSET
    params: Json | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET
    git_sha: GitSha | UnsetType | None = UNSET
    env: Json | UnsetType = UNSET
    notes: Text | UnsetType | None = UNSET
    participants: Tags | UnsetType = UNSET
    auto_close_after: Silence | UnsetType | None = UNSET


class RunView(EntityView, frozen=True):
    """One execution of an experiment."""

    location: ClassVar[str] = "/runs"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        "experiment_id": "01957989-aa10-7c3e-8b7d-2f5e6a7b8c90",
        **_WRITTEN,
        "status": "running",
        "started_at": "2026-03-09T10:14:33.000000Z",
        "finished_at": None,
    }

    experiment_id: UUID
    name: str
    params: Json
    tags: list[str]
    metadata: Json
    git_sha: str | None
    env: Json
    notes: str | None
    participants: list[str]
    auto_close_after: float | None
    status: RunStatus
    started_at: Timestamp | None
    finished_at: Timestamp | None


class RunSensorView(View, frozen=True):
    """A sensor bound to a run."""

    example: ClassVar[Mapping[str, Any]] = {
        "run_id": ENTITY["id"],
        "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
        "bound_at": "2026-03-09T10:10:00.000000Z",
        "bound_by": "ada",
    }

    run_id: UUID
    sensor_id: UUID
    bound_at: Timestamp
    bound_by: str


RunIds = Annotated[list[UUID], Meta(min_length=1, max_length=BULK_RUNS, description="None of them twice.")]


class BatchStatus(Request, frozen=True):
    """The status that several runs are to have; `atomic`: all of them, or none."""

    example: ClassVar[Mapping[str, Any]] = {
        "run_ids": [ENTITY["id"]],
        "status": "finished",
        "reason": "end of the shift",
        "atomic": False,
    }

    run_ids: RunIds
    status: RunStatus
    reason: Reason | UnsetType | None = UNSET
    atomic: bool | UnsetType = UNSET


class BulkTags(Request, frozen=True):
    """What is to become of the tags of several runs: some added and removed, or all of them set."""

    example: ClassVar[Mapping[str, Any]] = {
        "run_ids": [ENTITY["id"]],
        "add_tags": ["valid"],
        "remove_tags": ["nightly"],
    }

    run_ids: RunIds
    add_tags: Tags | UnsetType = UNSET
    remove_tags: Tags | UnsetType = UNSET
    set_tags: Tags | UnsetType = UNSET


class RefusalView(View, frozen=True):
    """Why something was refused, as a problem document says it."""

    code: str
    detail: str


class RunOutcomeView(View, frozen=True, omit_defaults=True):
    """What became of one of several runs: where it is `ok`, what it is like now, otherwise the `error`."""

    example: ClassVar[Mapping[str, Any]] = {
        "run_id": ENTITY["id"],
        "ok": True,
        "status": "finished",
        "tags": ["nightly"],
        "version": 4,
    }

    run_id: UUID
    ok: bool
    status: RunStatus | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    version: int | UnsetType = UNSET
    error: RefusalView | UnsetType = UNSET

    @classmethod
    def of(cls, thing: RunOutcome) -> Self:
        """The view of an outcome."""
        if thing.refusal is not None:
            return cls(thing.run_id, ok=False, error=RefusalView.of(thing.refusal))
        assert thing.run is not None  # noqa: S101 - what is not refused has a run
        run = thing.run
        return cls(thing.run_id, ok=True, status=run.status, tags=list(run.tags), version=run.version)


class RunQuery(CreatedQuery, frozen=True):
    """Which runs: every parameter narrows; several values of one are alternatives.

    A run has all `tag`s and at least one `any_tag`. `param.<key>=<value>` compares the text of a parameter.
    """

    project_id: tuple[UUID, ...] = ()
    experiment_id: tuple[UUID, ...] = ()
    status: tuple[RunStatus, ...] = ()
    tag: tuple[str, ...] = ()
    any_tag: tuple[str, ...] = ()
    git_sha: tuple[GitSha, ...] = ()
    participant: tuple[str, ...] = ()
    sensor_id: tuple[UUID, ...] = ()
    profile_id: tuple[UUID, ...] = ()
    started_after: Annotated[Moment, Meta(description="Then or later.")] | None = None
    started_before: Annotated[Moment, Meta(description="Earlier than then.")] | None = None
    param: tuple[tuple[str, str], ...] = ()
    q: Words | None = None
    sort: Sort = "-created_at"

    def filter(self) -> RunFilter:
        """The same in the words of the domain."""
        return RunFilter(
            project_ids=self.project_id,
            experiment_ids=self.experiment_id,
            statuses=self.status,
            tags=self.tag,
            any_tags=self.any_tag,
            git_shas=[sha.lower() for sha in self.git_sha],
            participants=self.participant,
            sensor_ids=self.sensor_id,
            profile_ids=self.profile_id,
            created_after=self.created_after,
            created_before=self.created_before,
            started_after=self.started_after,
            started_before=self.started_before,
            params=self.param,
            words=self.q,
        )


operations = Operations("runs", "Executions of experiments, and the sensors bound to them.")
ONE = one(RunView)


@operations.post("/experiments/{experiment_id:uuid}/runs", RunUseCases.create, created(RunView))
async def create_run(work: Work, experiment_id: UUID, body: NewRun) -> Run:
    """Create a run of an experiment, in draft."""
    return await work.runs.create(experiment_id, **given(body))


@operations.get("/experiments/{experiment_id:uuid}/runs", RunUseCases.page_of_experiment, Paged(view=RunView))
async def list_runs_of_experiment(
    work: Work, experiment_id: UUID, query: RunQuery, after: Position | None = None
) -> Page[Run]:
    """List the runs of an experiment."""
    return await work.runs.page_of_experiment(
        experiment_id, query.filter(), sort=query.sort, limit=query.limit, after=after
    )


@operations.get("/runs", RunUseCases.page, Paged(view=RunView))
async def list_runs(work: Work, query: RunQuery, after: Position | None = None) -> Page[Run]:
    """List the runs of all projects that the caller may read."""
    return await work.runs.page(query.filter(), sort=query.sort, limit=query.limit, after=after)


@operations.get("/runs/{run_id:uuid}", RunUseCases.get, ONE)
async def get_run(work: Work, run_id: UUID) -> Run:
    """Show a run."""
    return await work.runs.get(run_id)


@operations.patch("/runs/{run_id:uuid}", RunUseCases.edit, ONE)
async def edit_run(work: Work, run_id: UUID, body: RunEdit, if_version: int | None) -> Run:
    """Change a run."""
    return await work.runs.edit(run_id, if_version=if_version, **given(body))


@operations.delete("/runs/{run_id:uuid}", RunUseCases.delete, Nothing())
async def delete_run(work: Work, run_id: UUID, if_version: int | None) -> None:
    """Delete a draft without capture sessions.

    Anything else is archived instead (`not_draft`, `has_capture_sessions`).
    """
    await work.runs.delete(run_id, if_version=if_version)


@operations.post("/runs/{run_id:uuid}/start", RunUseCases.start, ONE)
async def start_run(work: Work, run_id: UUID, if_version: int | None, body: Transition | None = None) -> Run:
    """Start a run: draft → running.

    A draft experiment is started with it.
    """
    return await work.runs.start(run_id, if_version=if_version, **given(body or Transition()))


@operations.post("/runs/{run_id:uuid}/finish", RunUseCases.finish, ONE)
async def finish_run(work: Work, run_id: UUID, if_version: int | None, body: Transition | None = None) -> Run:
    """Finish a run: running → finished.

    Refused while a capture session of it is active (`active_capture_sessions`).
    """
    return await work.runs.finish(run_id, if_version=if_version, **given(body or Transition()))


@operations.post("/runs/{run_id:uuid}/fail", RunUseCases.fail, ONE)
async def fail_run(work: Work, run_id: UUID, if_version: int | None, body: Transition | None = None) -> Run:
    """Fail a run: running → failed.

    Refused while a capture session of it is active (`active_capture_sessions`).
    """
    return await work.runs.fail(run_id, if_version=if_version, **given(body or Transition()))


@operations.post("/runs/{run_id:uuid}/heartbeat", RunUseCases.heartbeat, ONE)
async def run_heartbeat(
    work: Work,
    run_id: UUID,
    body: Empty | None = None,  # noqa: ARG001 - an object without fields is as good as nothing
) -> Run:
    """Give a sign of life of a running run.

    Readings and commands are signs of life as well. A run that gives none for its `auto_close_after`, or its project's,
    is warned about (`run.fell_silent`), and fails after a grace of as long again, 10 s at least and a minute at most
    (`run.timed_out`), its running capture session with it. A sign of life within the grace keeps it.
    """
    return await work.runs.heartbeat(run_id)


@operations.post("/runs/{run_id:uuid}/archive", RunUseCases.archive, ONE)
async def archive_run(work: Work, run_id: UUID, if_version: int | None, body: Transition | None = None) -> Run:
    """Archive a run, for good, and with it its capture sessions.

    Refused while a capture session of it is active (`active_capture_sessions`).
    """
    return await work.runs.archive(run_id, if_version=if_version, **given(body or Transition()))


@operations.post("/runs:batch-status", RunUseCases.set_statuses, Items(view=RunOutcomeView), refuses=(409,))
async def batch_run_status(work: Work, body: BatchStatus) -> Sequence[RunOutcome]:
    """Bring up to 500 runs to a status in one transaction, each by its own rules.

    Answers for each run, in their order, what became of it. With `atomic`, one that cannot be moved refuses the whole
    call (`not_all_possible`, with the `items` that stand against it). To archive takes the right to in each project.
    """
    values = given(body)
    return await work.runs.set_statuses(values.pop("run_ids"), values.pop("status"), **values)


@operations.post("/runs:bulk-tags", RunUseCases.tag, Items(view=RunOutcomeView))
async def bulk_run_tags(work: Work, body: BulkTags) -> Sequence[RunOutcome]:
    """Add, remove or set the tags of up to 500 runs in one transaction, each by its own rules.

    Answers for each run, in their order, what became of it.
    """
    values = given(body)
    return await work.runs.tag(values.pop("run_ids"), Tagging.create(**values))


@operations.get("/runs/{run_id:uuid}/history", RunUseCases.history, Items(view=StatusChangeView))
async def run_history(work: Work, run_id: UUID) -> Sequence[StatusChange]:
    """List a run's transitions, oldest first."""
    return await work.runs.history(run_id)


@operations.get("/runs/{run_id:uuid}/sensors", RunUseCases.sensors, Items(view=RunSensorView))
async def list_run_sensors(work: Work, run_id: UUID) -> Sequence[RunSensor]:
    """List the sensors bound to a run, first bound first."""
    return await work.runs.sensors(run_id)


@operations.put("/runs/{run_id:uuid}/sensors/{sensor_id:uuid}", RunUseCases.bind, one(RunSensorView))
async def bind_sensor(work: Work, run_id: UUID, sensor_id: UUID) -> RunSensor:
    """Bind a sensor of the run's project, or one that is shared with it."""
    return await work.runs.bind(run_id, sensor_id)


@operations.delete("/runs/{run_id:uuid}/sensors/{sensor_id:uuid}", RunUseCases.unbind, Nothing())
async def unbind_sensor(work: Work, run_id: UUID, sensor_id: UUID) -> None:
    """Unbind a sensor.

    Refused while it takes part in an active capture session of the run (`sensor_in_use`).
    """
    await work.runs.unbind(run_id, sensor_id)
