"""Projects."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from experiment_domain.kernel.entity import Page, Position
from experiment_domain.projects import LONGEST_TOLERANCE, Project
from experiment_domain.usecases import Work
from experiment_domain.usecases.projects import ProjectUseCases
from experiment_http.answers import Paged, VersionedView, created, one
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.v1.values import ENTITY, MemberRole, Name, Request, Silence

Tolerance = Annotated[
    float,
    Meta(
        gt=0,
        le=LONGEST_TOLERANCE,
        description="Seconds by which a reading may be ahead of the service's clock; 300 by default.",
    ),
]
RawReaders = Annotated[list[MemberRole], Meta(description="Who may read raw values; by default editors and owners.")]
PhysicalOnly = Annotated[bool, Meta(description="Whether nobody may read raw values, whatever their role.")]
_POLICY: Mapping[str, Any] = {
    "name": "Turbine rig 4",
    "raw_readers": ["editor", "owner"],
    "physical_only": False,
    "auto_close_after": 3600.0,
    "future_tolerance": 300.0,
}


class NewProject(Request, frozen=True):
    """A project to be made; what the policy does not say is as it usually is."""

    example: ClassVar[Mapping[str, Any]] = {"name": "Turbine rig 4", "auto_close_after": 3600}

    name: Name
    raw_readers: RawReaders | UnsetType = UNSET
    physical_only: PhysicalOnly | UnsetType = UNSET
    auto_close_after: Silence | UnsetType | None = UNSET
    future_tolerance: Tolerance | UnsetType = UNSET


class ProjectEdit(Request, frozen=True):
    """What is to change."""

    example: ClassVar[Mapping[str, Any]] = {"physical_only": True, "auto_close_after": None}

    name: Name | UnsetType = UNSET
    raw_readers: RawReaders | UnsetType = UNSET
    physical_only: PhysicalOnly | UnsetType = UNSET
    auto_close_after: Silence | UnsetType | None = UNSET
    future_tolerance: Tolerance | UnsetType = UNSET


class ProjectView(VersionedView, frozen=True):
    """A project and its policy. Durations are in seconds."""

    location: ClassVar[str] = "/projects"
    example: ClassVar[Mapping[str, Any]] = {
        **{name: value for name, value in ENTITY.items() if name != "project_id"},
        **_POLICY,
    }

    name: str
    raw_readers: list[MemberRole]
    physical_only: bool
    auto_close_after: float | None
    future_tolerance: float


operations = Operations("projects", "The units of tenancy: roles, and the policy for raw values.")


@operations.post("/projects", ProjectUseCases.create, created(ProjectView))
async def create_project(work: Work, body: NewProject) -> Project:
    """Create a project.

    The caller becomes its first owner.
    """
    return await work.projects.create(**given(body))


@operations.get("/projects", ProjectUseCases.page, Paged(view=ProjectView))
async def list_projects(work: Work, query: PageQuery, after: Position | None = None) -> Page[Project]:
    """List the projects in which the caller has a role, newest first."""
    return await work.projects.page(limit=query.limit, after=after)


@operations.get("/projects/{project_id:uuid}", ProjectUseCases.get, one(ProjectView))
async def get_project(work: Work, project_id: UUID) -> Project:
    """Show a project."""
    return await work.projects.get(project_id)


@operations.patch("/projects/{project_id:uuid}", ProjectUseCases.edit, one(ProjectView))
async def edit_project(work: Work, project_id: UUID, body: ProjectEdit, if_version: int | None) -> Project:
    """Change a project's name or policy."""
    return await work.projects.edit(project_id, if_version=if_version, **given(body))
