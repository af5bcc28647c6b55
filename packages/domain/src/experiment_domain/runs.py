"""Runs: one execution of an experiment, with its params and its bound sensors."""

import json
import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import evolve, field, frozen

from experiment_domain.events import (
    Moved,
    RunArchived,
    RunCreated,
    RunFailed,
    RunFellSilent,
    RunFinished,
    RunStarted,
    RunTagged,
    RunTimedOut,
    SensorBound,
    SensorUnbound,
)
from experiment_domain.experiments import Experiment, ExperimentStatus
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Lock,
    Page,
    Position,
    Repository,
    changed,
    created,
    refuse_archived,
    removed,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.kernel.values import (
    JSON_INTEGER,
    checked_json,
    checked_name,
    checked_names,
    checked_seconds,
    checked_text,
)

TIMED_OUT = "timed_out"
"""Why a run, and its capture session, failed that gave no sign of life any more."""
GIT_SHA_LENGTHS = range(7, 65)


class RunStatus(StrEnum):
    """The statuses of a run."""

    DRAFT = "draft"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    ARCHIVED = "archived"


RUN = Lifecycle(
    "run",
    RunStatus.DRAFT,
    {
        RunStatus.DRAFT: (RunStatus.RUNNING, RunStatus.ARCHIVED),
        RunStatus.RUNNING: (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.ARCHIVED),
        RunStatus.FINISHED: (RunStatus.ARCHIVED,),
        RunStatus.FAILED: (RunStatus.ARCHIVED,),
    },
)

_EVENTS: Mapping[RunStatus, type[Moved]] = {
    RunStatus.RUNNING: RunStarted,
    RunStatus.FINISHED: RunFinished,
    RunStatus.FAILED: RunFailed,
    RunStatus.ARCHIVED: RunArchived,
}


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    if "name" in fields:
        checked_name("name", fields["name"])
    for name in ("params", "metadata", "env"):
        if name in fields:
            fields[name] = checked_json(name, fields[name])
    for name in ("tags", "participants"):
        if name in fields:
            fields[name] = checked_names(name, fields[name])
    if fields.get("notes") is not None:
        checked_text("notes", fields["notes"])
    if fields.get("git_sha") is not None:
        sha = fields["git_sha"] = fields["git_sha"].lower()
        if len(sha) not in GIT_SHA_LENGTHS or not set(sha) <= set("0123456789abcdef"):
            raise Invalid.at("git_sha", "must be 7 to 64 hexadecimal digits")
    checked_seconds("auto_close_after", fields.get("auto_close_after"))
    return fields


@frozen(kw_only=True)
class Run(Entity):
    """One execution of an experiment. `auto_close_after` is in seconds; None: as the project says."""

    experiment_id: UUID
    name: str
    params: Mapping[str, Any] = field(factory=dict[str, Any])
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(factory=dict[str, Any])
    git_sha: str | None = None
    env: Mapping[str, Any] = field(factory=dict[str, Any])
    notes: str | None = None
    participants: tuple[str, ...] = ()
    auto_close_after: float | None = None
    status: RunStatus = RunStatus.DRAFT
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def create(cls, *, run_id: UUID, experiment: Experiment, at: datetime, by: str, **values: Any) -> Change["Run"]:
        """A new run of `experiment`, in draft."""
        experiment.check_accepts_runs()
        run = cls(
            id=run_id,
            project_id=experiment.project_id,
            experiment_id=experiment.id,
            created_at=at,
            updated_at=at,
            created_by=by,
            **checked_fields(values),
        )
        return created(run, run.event(RunCreated(experiment_id=experiment.id, name=run.name), at))

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this run."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    def binding(self, sensor_id: UUID, *, at: datetime) -> Event:
        """That a sensor was bound to this run: it is about the sensor."""
        return Event.of(SensorBound(run_id=self.id), project_id=self.project_id, about=sensor_id, at=at)

    def unbinding(self, sensor_id: UUID, *, at: datetime) -> Event:
        """That a sensor was unbound from this run."""
        return Event.of(SensorUnbound(run_id=self.id), project_id=self.project_id, about=sensor_id, at=at)

    def edit(self, *, at: datetime, **values: Any) -> Change["Run"]:
        """Change what a person wrote. Archived runs refuse."""
        refuse_archived("run", self.status)
        fields = checked_fields(values)
        events = ()
        if "tags" in fields and fields["tags"] != self.tags:
            events = (self.event(RunTagged(tags=fields["tags"]), at),)
        return changed(self, at, fields, *events)

    def start(self, *, experiment: Experiment, at: datetime, reason: str | None = None) -> Change["Run"]:
        """draft → running, in an experiment that is running (by now)."""
        if RUN.moves(self.status, RunStatus.RUNNING) and experiment.status is not ExperimentStatus.RUNNING:
            raise Conflict(
                "experiment_not_running",
                f"A run starts only in a running experiment; this one is {experiment.status}.",
            )
        return self._move(RunStatus.RUNNING, at, reason, {"started_at": at})

    def end(
        self,
        target: RunStatus,
        *,
        active_sessions: Collection[UUID],
        at: datetime,
        reason: str | None = None,
    ) -> Change["Run"]:
        """→ finished, failed or archived; refused while a capture session is active."""
        if RUN.moves(self.status, target) and active_sessions:
            raise Conflict(
                "active_capture_sessions",
                f"{len(active_sessions)} capture session(s) of this run are active.",
                active_capture_sessions=[str(session_id) for session_id in active_sessions],
            )
        over = {} if target is RunStatus.ARCHIVED else {"finished_at": at}
        return self._move(target, at, reason, over)

    def warn_silent(self, *, at: datetime) -> Event:
        """It has been silent for too long, and fails unless it gives a sign of life soon."""
        return self.event(RunFellSilent(), at)

    def time_out(self, *, active_sessions: Collection[UUID], at: datetime) -> Change["Run"]:
        """running → failed, since nobody gave a sign of life any more; refused while a capture session is active."""
        change = self.end(RunStatus.FAILED, active_sessions=active_sessions, at=at, reason=TIMED_OUT)
        if change.is_empty:
            return change
        return evolve(change, events=(self.event(RunTimedOut(), at), *change.events))

    def retag(self, tagging: "Tagging", *, at: datetime) -> Change["Run"]:
        """Add and remove tags, or set them. Archived runs refuse."""
        return self.edit(at=at, tags=tagging.applied_to(self.tags))

    def remove(self, *, has_sessions: bool, has_artifacts: bool, has_metrics: bool = False) -> Change["Run"]:
        """Delete: only in draft, without capture sessions, artifacts and scalar metrics; otherwise it is archived."""
        if self.status is not RunStatus.DRAFT:
            raise Conflict("not_draft", f"Only a draft is deleted; this run is {self.status}: archive it.")
        if has_sessions:
            raise Conflict("has_capture_sessions", "This run has capture sessions: archive it instead.")
        if has_artifacts:
            raise Conflict("has_artifacts", "This run has artifacts: archive it instead.")
        if has_metrics:
            raise Conflict("has_metrics", "This run has scalar metrics: archive it instead.")
        return removed(self)

    @property
    def is_over(self) -> bool:
        """Whether it has ended: its sensors stay as they were."""
        return self.status not in (RunStatus.DRAFT, RunStatus.RUNNING)

    def check_running(self) -> None:
        """Refuse a run that is not running."""
        if self.status is not RunStatus.RUNNING:
            raise Conflict("run_not_running", f"Only a running run gives signs of life; this one is {self.status}.")

    def check_binds(self) -> None:
        """Refuse to bind or unbind sensors where the run is over."""
        refuse_archived("run", self.status)
        if self.is_over:
            raise Conflict("run_over", f"This run is {self.status}; its sensors stay as they were.")

    def _move(self, target: RunStatus, at: datetime, reason: str | None, values: Mapping[str, Any]) -> Change["Run"]:
        if not RUN.moves(self.status, target):
            return unchanged(self)
        said = _EVENTS[target](from_=self.status, reason=reason)
        return changed(self, at, {"status": target, **values}, self.event(said, at))


@frozen(kw_only=True)
class Tagging:
    """What is to become of the tags of several runs: some added and removed, or all of them set."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    set: tuple[str, ...] | None = None

    @classmethod
    def create(
        cls,
        *,
        add_tags: Sequence[str] | None = None,
        remove_tags: Sequence[str] | None = None,
        set_tags: Sequence[str] | None = None,
    ) -> "Tagging":
        """What was asked for, checked: something, and nothing that contradicts itself."""
        if add_tags is None and remove_tags is None and set_tags is None:
            raise Invalid("One of add_tags, remove_tags and set_tags is needed.")
        if set_tags is not None and (add_tags is not None or remove_tags is not None):
            raise Invalid.at("set_tags", "must not stand beside add_tags or remove_tags")
        tagging = cls(
            add=checked_names("add_tags", add_tags or ()),
            remove=checked_names("remove_tags", remove_tags or ()),
            set=None if set_tags is None else checked_names("set_tags", set_tags),
        )
        for index, tag in enumerate(remove_tags or ()):
            if tag in tagging.add:
                raise Invalid.at(f"remove_tags[{index}]", "is in add_tags as well")
        return tagging

    def applied_to(self, tags: Sequence[str]) -> tuple[str, ...]:
        """The tags that come of `tags`: what is there keeps its place, what is added comes after."""
        if self.set is not None:
            return self.set
        return tuple(dict.fromkeys([*(tag for tag in tags if tag not in self.remove), *self.add]))


@frozen(kw_only=True)
class RunSensor:
    """A sensor bound to a run."""

    run_id: UUID
    sensor_id: UUID
    bound_at: datetime
    bound_by: str


@frozen(kw_only=True)
class RunFilter:
    """Which runs: every field narrows; several values of one field are alternatives.

    A run has all of `tags` and at least one of `any_tags`; `params` are pairs of a key and a text, which means
    what `values_meant` says; `git_shas` are prefixes. Each word of `words` is the beginning of a word of the name or
    the notes, as `words_of` finds them; blank text asks for nothing, and text without a word finds nothing.
    """

    project_ids: Collection[UUID]
    ids: Collection[UUID] = ()
    experiment_ids: Collection[UUID] = ()
    statuses: Collection[RunStatus] = ()
    tags: Collection[str] = ()
    any_tags: Collection[str] = ()
    git_shas: Collection[str] = ()
    participants: Collection[str] = ()
    sensor_ids: Collection[UUID] = ()
    profile_ids: Collection[UUID] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    params: Collection[tuple[str, str]] = ()
    words: str | None = None


def values_meant(text: str) -> list[Any]:
    """What a filter's text may mean: itself, and the JSON number or constant that it spells."""
    try:
        value = json.loads(text, parse_constant=lambda _: [], parse_int=_number)
    except (ValueError, RecursionError):
        return [text]
    scalar = value is None or (isinstance(value, (bool, int, float)) and math.isfinite(value))
    return [text, value] if scalar else [text]


def _number(digits: str) -> int | float:
    # As it would have been kept: an integer beyond 64 bits is a float.
    number = int(digits)
    return number if -JSON_INTEGER <= number < JSON_INTEGER else float(digits)


class RunRepository(Repository[Run], Protocol):
    """Keeps runs and the sensors bound to them."""

    @abstractmethod
    async def several(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Mapping[UUID, Run]:
        """The runs among `run_ids` that there are; locked in the order of their ids."""

    @abstractmethod
    def remove(self, run: Run) -> None:
        """Remove a run without capture sessions and artifacts, and its bindings."""

    @abstractmethod
    async def page(self, which: RunFilter, *, sort: str, limit: int, after: Position | None) -> Page[Run]:
        """A part of the list, by `sort`: a field of `SORTS`, with `-` for descending; absent values last."""

    @abstractmethod
    async def running_in(self, experiment_id: UUID) -> Sequence[UUID]:
        """The running runs of an experiment."""

    @abstractmethod
    async def any_in(self, experiment_id: UUID) -> bool:
        """Whether an experiment has runs."""

    @abstractmethod
    async def sensors_of(self, run_id: UUID) -> Sequence[RunSensor]:
        """The sensors bound to a run, first bound first."""

    @abstractmethod
    async def bound_to(self, sensor_id: UUID) -> Sequence[Run]:
        """The runs that a sensor is bound to, of whatever project, by id."""

    @abstractmethod
    def bind(self, binding: RunSensor) -> None:
        """Bind a sensor; a second time changes nothing."""

    @abstractmethod
    def unbind(self, run_id: UUID, sensor_id: UUID) -> None:
        """Unbind a sensor."""
