"""Projects in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Collection, Sequence
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import newest_first
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.projects import Member, Project, ProjectRepository


class MemoryProjects(ProjectRepository):
    """Projects and their members."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def get(self, project_id: UUID, lock: Lock = Lock.NONE) -> Project | None:
        self._transaction.settle()
        return self._store.projects.get(project_id)

    def add(self, project: Project) -> None:
        self._transaction.insert(self._store.projects, project.id, project, "project")

    def save(self, project: Project) -> None:
        self._transaction.save(self._store.projects, project, "project")

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
