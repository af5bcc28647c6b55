"""Projects in memory."""

from collections.abc import Collection, Sequence
from operator import attrgetter
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import newest_first
from experiment_adapters.memory.repository import MemoryRepository
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.projects import Member, Project, ProjectRepository


class MemoryProjects(MemoryRepository[Project], ProjectRepository):
    """Projects and their members."""

    rows = attrgetter("projects")
    noun = "project"

    def add(self, project: Project) -> None:
        self._transaction.insert(self._store.projects, project.id, project, "project")

    async def page(self, ids: Collection[UUID], *, limit: int, after: Position | None) -> Page[Project]:
        self._transaction.settle()
        found = [project for project in self._store.projects.values() if project.id in ids]
        return newest_first(found, limit, after)

    async def members(self, project_id: UUID) -> Sequence[Member]:
        self._transaction.settle()
        found = [member for member in self._store.members.values() if member.project_id == project_id]
        return sorted(found, key=lambda member: member.user_id)

    def put_member(self, member: Member) -> None:
        self._transaction.refers(self._store.projects, member.project_id, "project")
        key = (member.project_id, member.user_id)
        before = self._store.members.get(key)
        # Who gets another role has been a member since before.
        member = member if before is None else evolve(member, added_at=before.added_at)
        self._transaction.put(self._store.members, key, member)

    def remove_member(self, project_id: UUID, user_id: str) -> None:
        self._transaction.drop(self._store.members, (project_id, user_id))
