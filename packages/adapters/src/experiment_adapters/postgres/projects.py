"""Projects and their members in PostgreSQL."""

from collections.abc import Collection, Sequence
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import Codec, Order, Table, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.projects import Member, Project, ProjectRepository

ROLES = Codec(lambda roles: sorted(str(role) for role in roles), lambda names: frozenset(map(Role, names)))


class _Projects(Table[Project]):
    """A project belongs to itself: its table has no column for that."""

    def entity(self, row: tuple[object, ...], **others: object) -> Project:
        return super().entity(row, project_id=row[0], **others)


PROJECTS = _Projects(Project, "projects", {"raw_readers": ROLES}, without=["project_id"])


class PostgresProjects(PostgresRepository[Project], ProjectRepository):
    """Keeps projects in `projects`, members in `project_members`."""

    table = PROJECTS

    async def page(self, ids: Collection[UUID], *, limit: int, after: Position | None) -> Page[Project]:
        conditions = Conditions()
        conditions.within("id", ids)
        return await page(
            self._statements,
            PROJECTS,
            conditions,
            order=Order.by("-created_at"),
            limit=limit,
            after=after,
        )

    async def members(self, project_id: UUID) -> Sequence[Member]:
        answer = self._statements.ask(
            'SELECT user_id, role, added_at FROM project_members WHERE project_id = %s ORDER BY user_id COLLATE "C"',
            [project_id],
        )
        return [
            Member(project_id=project_id, user_id=user_id, role=Role(role), added_at=added_at)
            for user_id, role, added_at in await answer.rows()
        ]

    def put_member(self, member: Member) -> None:
        self._statements.write(
            "INSERT INTO project_members (user_id, project_id, role, added_at) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (user_id, project_id) DO UPDATE SET role = excluded.role",
            [member.user_id, member.project_id, str(member.role), member.added_at],
        )

    def remove_member(self, project_id: UUID, user_id: str) -> None:
        self._statements.write(
            "DELETE FROM project_members WHERE user_id = %s AND project_id = %s", [user_id, project_id]
        )
