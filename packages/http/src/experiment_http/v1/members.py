"""Members of projects."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

from experiment_domain.kernel.access import Role
from experiment_domain.projects import Member
from experiment_domain.usecases import Work
from experiment_domain.usecases.projects import ProjectUseCases
from experiment_http.answers import Items, Nothing, View, one
from experiment_http.operations import Operations
from experiment_http.times import Timestamp
from experiment_http.v1.values import MemberRole, Request


class Membership(Request, frozen=True):
    """What somebody is to be."""

    example: ClassVar[Mapping[str, Any]] = {"role": "editor"}

    role: MemberRole


class MemberView(View, frozen=True):
    """A user's role in a project."""

    example: ClassVar[Mapping[str, Any]] = {
        "user_id": "grace",
        "role": "editor",
        "added_at": "2026-03-09T10:14:33.000000Z",
    }

    user_id: str
    role: MemberRole
    added_at: Timestamp


operations = Operations("members", "Who has which role in a project, besides what tokens claim.")


@operations.get("/projects/{project_id:uuid}/members", ProjectUseCases.members, Items(view=MemberView))
async def list_members(work: Work, project_id: UUID) -> Sequence[Member]:
    """List the members of a project, by user id."""
    return await work.projects.members(project_id)


@operations.put("/projects/{project_id:uuid}/members/{user_id:str}", ProjectUseCases.put_member, one(MemberView))
async def put_member(work: Work, project_id: UUID, user_id: str, body: Membership) -> Member:
    """Add a member, or change a member's role.

    A project keeps at least one owner (`last_owner`).
    """
    return await work.projects.put_member(project_id, user_id, Role(body.role))


@operations.delete("/projects/{project_id:uuid}/members/{user_id:str}", ProjectUseCases.remove_member, Nothing())
async def remove_member(work: Work, project_id: UUID, user_id: str) -> None:
    """Remove a member.

    A project keeps at least one owner (`last_owner`).
    """
    await work.projects.remove_member(project_id, user_id)
