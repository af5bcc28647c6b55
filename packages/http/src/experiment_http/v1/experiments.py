"""Experiments."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

from msgspec import UNSET, UnsetType

from experiment_domain.experiments import Experiment, ExperimentFilter, ExperimentStatus
from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.usecases import Work
from experiment_domain.usecases.experiments import ExperimentUseCases
from experiment_http.answers import EntityView, Items, Nothing, Paged, created, one
from experiment_http.operations import Operations
from experiment_http.structs import given
from experiment_http.times import Timestamp
from experiment_http.v1.values import (
    ENTITY,
    CreatedQuery,
    Json,
    Name,
    Request,
    Sort,
    StatusChangeView,
    Tags,
    Text,
    Transition,
    Words,
)

_WRITTEN: Mapping[str, Any] = {
    "name": "Blade temperature at full load",
    "description": "Does the new coating keep the blades below 900 °C?",
    "experiment_type": "thermal",
    "tags": ["coating", "full-load"],
    "metadata": {"rig": 4},
}


class NewExperiment(Request, frozen=True):
    """An experiment to be made."""

    example: ClassVar[Mapping[str, Any]] = {"project_id": ENTITY["project_id"], **_WRITTEN}

    project_id: UUID
    name: Name
    description: Text | UnsetType | None = UNSET
    experiment_type: Text | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET


class ExperimentEdit(Request, frozen=True):
    """What is to change."""

    example: ClassVar[Mapping[str, Any]] = {"description": None, "tags": ["coating"]}

    name: Name | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    experiment_type: Text | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET


class ExperimentView(EntityView, frozen=True):
    """A question, with its runs."""

    location: ClassVar[str] = "/experiments"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        **_WRITTEN,
        "status": "running",
        "started_at": "2026-03-09T10:14:33.000000Z",
        "finished_at": None,
    }

    name: str
    description: str | None
    experiment_type: str | None
    tags: list[str]
    metadata: Json
    status: ExperimentStatus
    started_at: Timestamp | None
    finished_at: Timestamp | None


class ExperimentQuery(CreatedQuery, frozen=True):
    """Which experiments: every parameter narrows; several values of one are alternatives."""

    project_id: tuple[UUID, ...] = ()
    status: tuple[ExperimentStatus, ...] = ()
    tag: tuple[str, ...] = ()
    any_tag: tuple[str, ...] = ()
    experiment_type: tuple[str, ...] = ()
    q: Words | None = None
    sort: Sort = "-created_at"

    def filter(self) -> ExperimentFilter:
        """The same in the words of the domain."""
        return ExperimentFilter(
            project_ids=self.project_id,
            statuses=self.status,
            tags=self.tag,
            any_tags=self.any_tag,
            experiment_types=self.experiment_type,
            created_after=self.created_after,
            created_before=self.created_before,
            words=self.q,
        )


operations = Operations("experiments", "Questions, with their runs.")
ONE = one(ExperimentView)


@operations.post("/experiments", ExperimentUseCases.create, created(ExperimentView), refuses=(404,))
async def create_experiment(work: Work, body: NewExperiment) -> Experiment:
    """Create an experiment, in draft."""
    return await work.experiments.create(**given(body))


@operations.get("/experiments", ExperimentUseCases.page, Paged(view=ExperimentView))
async def list_experiments(work: Work, query: ExperimentQuery, after: Position | None = None) -> Page[Experiment]:
    """List the experiments of all projects that the caller may read."""
    return await work.experiments.page(query.filter(), sort=query.sort, limit=query.limit, after=after)


@operations.get("/experiments/{experiment_id:uuid}", ExperimentUseCases.get, ONE)
async def get_experiment(work: Work, experiment_id: UUID) -> Experiment:
    """Show an experiment."""
    return await work.experiments.get(experiment_id)


@operations.patch("/experiments/{experiment_id:uuid}", ExperimentUseCases.edit, ONE)
async def edit_experiment(work: Work, experiment_id: UUID, body: ExperimentEdit, if_version: int | None) -> Experiment:
    """Change an experiment."""
    return await work.experiments.edit(experiment_id, if_version=if_version, **given(body))


@operations.delete("/experiments/{experiment_id:uuid}", ExperimentUseCases.delete, Nothing())
async def delete_experiment(work: Work, experiment_id: UUID, if_version: int | None) -> None:
    """Delete a draft without runs.

    Anything else is archived instead (`not_draft`, `has_runs`).
    """
    await work.experiments.delete(experiment_id, if_version=if_version)


@operations.post("/experiments/{experiment_id:uuid}/start", ExperimentUseCases.start, ONE)
async def start_experiment(
    work: Work, experiment_id: UUID, if_version: int | None, body: Transition | None = None
) -> Experiment:
    """Start an experiment: draft → running."""
    return await work.experiments.start(experiment_id, if_version=if_version, **given(body or Transition()))


@operations.post("/experiments/{experiment_id:uuid}/finish", ExperimentUseCases.finish, ONE)
async def finish_experiment(
    work: Work, experiment_id: UUID, if_version: int | None, body: Transition | None = None
) -> Experiment:
    """Finish an experiment: running → finished.

    Refused while a run of it is running (`running_runs`).
    """
    return await work.experiments.finish(experiment_id, if_version=if_version, **given(body or Transition()))


@operations.post("/experiments/{experiment_id:uuid}/fail", ExperimentUseCases.fail, ONE)
async def fail_experiment(
    work: Work, experiment_id: UUID, if_version: int | None, body: Transition | None = None
) -> Experiment:
    """Fail an experiment: running → failed.

    Refused while a run of it is running (`running_runs`).
    """
    return await work.experiments.fail(experiment_id, if_version=if_version, **given(body or Transition()))


@operations.post("/experiments/{experiment_id:uuid}/archive", ExperimentUseCases.archive, ONE)
async def archive_experiment(
    work: Work, experiment_id: UUID, if_version: int | None, body: Transition | None = None
) -> Experiment:
    """Archive an experiment, for good.

    Refused while a run of it is running (`running_runs`).
    """
    return await work.experiments.archive(experiment_id, if_version=if_version, **given(body or Transition()))


@operations.get("/experiments/{experiment_id:uuid}/history", ExperimentUseCases.history, Items(view=StatusChangeView))
async def experiment_history(work: Work, experiment_id: UUID) -> Sequence[StatusChange]:
    """List an experiment's transitions, oldest first."""
    return await work.experiments.history(experiment_id)
