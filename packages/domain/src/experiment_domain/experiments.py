"""Experiments: a question, with its runs."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.events import (
    ExperimentArchived,
    ExperimentCreated,
    ExperimentFailed,
    ExperimentFinished,
    ExperimentStarted,
    Moved,
)
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
from experiment_domain.kernel.values import checked_json, checked_name, checked_names, checked_text


class ExperimentStatus(StrEnum):
    """The statuses of an experiment."""

    DRAFT = "draft"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    ARCHIVED = "archived"


EXPERIMENT = Lifecycle(
    "experiment",
    ExperimentStatus.DRAFT,
    {
        ExperimentStatus.DRAFT: (ExperimentStatus.RUNNING, ExperimentStatus.ARCHIVED),
        ExperimentStatus.RUNNING: (
            ExperimentStatus.FINISHED,
            ExperimentStatus.FAILED,
            ExperimentStatus.ARCHIVED,
        ),
        ExperimentStatus.FINISHED: (ExperimentStatus.ARCHIVED,),
        ExperimentStatus.FAILED: (ExperimentStatus.ARCHIVED,),
    },
)

_EVENTS: Mapping[ExperimentStatus, type[Moved]] = {
    ExperimentStatus.RUNNING: ExperimentStarted,
    ExperimentStatus.FINISHED: ExperimentFinished,
    ExperimentStatus.FAILED: ExperimentFailed,
    ExperimentStatus.ARCHIVED: ExperimentArchived,
}


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    if "name" in fields:
        checked_name("name", fields["name"])
    for name in ("description", "experiment_type"):
        if fields.get(name) is not None:
            checked_text(name, fields[name], lines=name == "description")
    if "tags" in fields:
        fields["tags"] = checked_names("tags", fields["tags"])
    if "metadata" in fields:
        fields["metadata"] = checked_json("metadata", fields["metadata"])
    return fields


@frozen(kw_only=True)
class Experiment(Entity):
    """A question, with its runs."""

    name: str
    description: str | None = None
    experiment_type: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(factory=dict[str, Any])
    status: ExperimentStatus = ExperimentStatus.DRAFT
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def create(
        cls, *, experiment_id: UUID, project_id: UUID, at: datetime, by: str, **values: Any
    ) -> Change["Experiment"]:
        """A new experiment, in draft."""
        experiment = cls(
            id=experiment_id,
            project_id=project_id,
            created_at=at,
            updated_at=at,
            created_by=by,
            **checked_fields(values),
        )
        return created(experiment, experiment.event(ExperimentCreated(name=experiment.name), at))

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this experiment."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    def edit(self, *, at: datetime, **values: Any) -> Change["Experiment"]:
        """Change what a person wrote. Archived experiments refuse."""
        refuse_archived("experiment", self.status)
        return changed(self, at, checked_fields(values))

    def check_accepts_runs(self) -> None:
        """Refuse new runs where the experiment is over."""
        if self.status not in (ExperimentStatus.DRAFT, ExperimentStatus.RUNNING):
            raise Conflict(
                "experiment_over" if self.status is not ExperimentStatus.ARCHIVED else "archived",
                f"This experiment is {self.status} and takes no more runs.",
            )

    def start(self, *, at: datetime, reason: str | None = None) -> Change["Experiment"]:
        """draft → running."""
        return self._move(ExperimentStatus.RUNNING, at, reason, {"started_at": at})

    def end(
        self,
        target: ExperimentStatus,
        *,
        running_runs: Collection[UUID],
        at: datetime,
        reason: str | None = None,
    ) -> Change["Experiment"]:
        """→ finished, failed or archived; refused while a run is running."""
        if EXPERIMENT.moves(self.status, target) and running_runs:
            raise Conflict(
                "running_runs",
                f"{len(running_runs)} of this experiment's runs are running.",
                running_runs=[str(run_id) for run_id in running_runs],
            )
        over = {} if target is ExperimentStatus.ARCHIVED else {"finished_at": at}
        return self._move(target, at, reason, over)

    def remove(self, *, has_runs: bool) -> Change["Experiment"]:
        """Delete: only in draft and without runs; otherwise it is archived."""
        if self.status is not ExperimentStatus.DRAFT:
            raise Conflict("not_draft", f"Only a draft is deleted; this experiment is {self.status}: archive it.")
        if has_runs:
            raise Conflict("has_runs", "This experiment has runs: archive it instead.")
        return removed(self)

    def _move(
        self, target: ExperimentStatus, at: datetime, reason: str | None, values: Mapping[str, Any]
    ) -> Change["Experiment"]:
        if not EXPERIMENT.moves(self.status, target):
            return unchanged(self)
        said = _EVENTS[target](from_=self.status, reason=reason)
        return changed(self, at, {"status": target, **values}, self.event(said, at))


@frozen(kw_only=True)
class ExperimentFilter:
    """Which experiments: every field narrows; several values of one field are alternatives."""

    project_ids: Collection[UUID]
    statuses: Collection[ExperimentStatus] = ()
    tags: Collection[str] = ()
    any_tags: Collection[str] = ()
    experiment_types: Collection[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    words: str | None = None


class ExperimentRepository(Repository[Experiment], Protocol):
    """Keeps experiments."""

    @abstractmethod
    async def of_run(self, run_id: UUID, lock: Lock = Lock.NONE) -> Experiment | None:
        """The experiment that a run belongs to, or None: locked before its run, so that locks nest one way."""

    @abstractmethod
    async def of_runs(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Mapping[UUID, Experiment]:
        """The experiments that runs belong to, by id; locked in that order, and before their runs."""

    @abstractmethod
    def remove(self, experiment: Experiment) -> None:
        """Remove an experiment without runs."""

    @abstractmethod
    async def page(self, which: ExperimentFilter, *, sort: str, limit: int, after: Position | None) -> Page[Experiment]:
        """A part of the list, by `sort`: a field of `SORTS`, with `-` for descending."""


SORTS = ("created_at", "started_at", "finished_at", "name")
"""What lists of experiments and runs can be sorted by."""


def check_sort(sort: str) -> None:
    """Refuse a sort that is not a field of `SORTS`, with `-` for descending."""
    if sort.removeprefix("-") not in SORTS:
        raise Invalid.at("sort", f"must be one of {', '.join(SORTS)}, with - for descending")
