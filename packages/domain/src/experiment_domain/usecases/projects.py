"""What can be done with projects and their members."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from experiment_domain.kernel.access import Permission, Role, user_id_problem
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.kernel.errors import Invalid, NotFound
from experiment_domain.projects import Member, Project, check_owner_remains
from experiment_domain.usecases.permits import Permit, UseCases, requires


class ProjectUseCases(UseCases):
    """Projects and members."""

    @requires(Permission.SIGN_IN)
    async def create(self, permit: Permit, **values: Any) -> Project:
        """A new project, owned by its creator."""
        user = await permit.user()
        now = self.recorder.now
        change = Project.create(project_id=self.recorder.ids.new(), at=now, by=user.actor, **values)
        project = change.result
        await self.recorder.grant(project.id, Role.OWNER)
        await self.recorder.keep(self.uow.projects, change, "project", "create")
        self.uow.projects.put_member(Member.create(project_id=project.id, user_id=user.id, role=Role.OWNER, at=now))
        return project

    @requires(Permission.READ)
    async def get(self, permit: Permit, project_id: UUID) -> Project:
        """One project."""
        return await permit.holds(await self.uow.projects.get(project_id), "project")

    @requires(Permission.READ)
    async def page(self, permit: Permit, *, limit: int, after: Position | None = None) -> Page[Project]:
        """The projects the caller has a role in, newest first."""
        readable = await permit.projects()
        if not readable:
            return Page(())
        return await self.uow.projects.page(readable, limit=limit, after=after)

    @requires(Permission.OWN)
    async def edit(self, permit: Permit, project_id: UUID, *, if_version: int | None = None, **values: Any) -> Project:
        """Change the name or the policy."""
        project = await permit.holds(await self.uow.projects.get(project_id, Lock.UPDATE), "project", if_version)
        change = project.edit(at=self.recorder.now, **values)
        return await self.recorder.keep(self.uow.projects, change, "project", "update")

    @requires(Permission.READ)
    async def members(self, permit: Permit, project_id: UUID) -> Sequence[Member]:
        """The members, by user id."""
        await permit.holds(await self.uow.projects.get(project_id), "project")
        return await self.uow.projects.members(project_id)

    @requires(Permission.OWN)
    async def put_member(self, permit: Permit, project_id: UUID, user_id: str, role: Role) -> Member:
        """Add a member, who must be somebody that can sign in, or change the role."""
        # The project is locked so that two owners cannot demote each other at once.
        await permit.holds(await self.uow.projects.get(project_id, Lock.UPDATE), "project")
        members = await self.uow.projects.members(project_id)
        check_owner_remains(members, user_id, role)
        before = next((member for member in members if member.user_id == user_id), None)
        if before is None and (problem := user_id_problem(user_id)):
            raise Invalid.at("user_id", problem)
        added_at = self.recorder.now if before is None else before.added_at
        member = Member.create(project_id=project_id, user_id=user_id, role=role, at=added_at)
        if before is not None and before.role is role:
            return before
        self.uow.projects.put_member(member)
        await self.recorder.audit(
            "member",
            user_id,
            project_id,
            "create" if before is None else "update",
            before=None if before is None else {"role": before.role},
            after={"role": role},
        )
        return member

    @requires(Permission.OWN)
    async def remove_member(self, permit: Permit, project_id: UUID, user_id: str) -> None:
        """Remove a member."""
        await permit.holds(await self.uow.projects.get(project_id, Lock.UPDATE), "project")
        members = await self.uow.projects.members(project_id)
        before = next((member for member in members if member.user_id == user_id), None)
        if before is None:
            raise NotFound("member")
        check_owner_remains(members, user_id, None)
        self.uow.projects.remove_member(project_id, user_id)
        await self.recorder.audit("member", user_id, project_id, "delete", before={"role": before.role})
