"""Projects: the unit of tenancy and of roles, with their members and their policy."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.events import ProjectSettingsChanged
from experiment_domain.kernel.access import MEMBER_ROLES, Role
from experiment_domain.kernel.entity import Change, Entity, Page, Position, Repository, changed, created
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.kernel.events import Event
from experiment_domain.kernel.values import checked_name, checked_seconds, checked_text

FUTURE_TOLERANCE = 300.0
LONGEST_TOLERANCE = 86_400.0


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    if "name" in fields:
        checked_name("name", fields["name"])
    if "raw_readers" in fields:
        fields["raw_readers"] = frozenset(fields["raw_readers"])
        if not fields["raw_readers"] <= frozenset(MEMBER_ROLES):
            raise Invalid.at("raw_readers", "must be roles of members: viewer, editor, owner")
    checked_seconds("auto_close_after", fields.get("auto_close_after"))
    if "future_tolerance" in fields:
        checked_seconds("future_tolerance", fields["future_tolerance"], longest=LONGEST_TOLERANCE)
    return fields


@frozen(kw_only=True)
class Project(Entity):
    """A project and its policy. Durations are in seconds.

    `raw_readers` are the roles that may read raw values; with `physical_only` they leave through no door for
    anyone. `auto_close_after` is how long a running run may show no sign of life, `future_tolerance` how far
    ahead of the server's clock a reading may be.
    """

    name: str
    raw_readers: frozenset[Role] = frozenset({Role.EDITOR, Role.OWNER})
    physical_only: bool = False
    auto_close_after: float | None = None
    future_tolerance: float = FUTURE_TOLERANCE

    @classmethod
    def create(cls, *, project_id: UUID, at: datetime, by: str, **values: Any) -> Change["Project"]:
        """A new project; what the policy does not say is as it usually is."""
        return created(
            cls(
                id=project_id,
                project_id=project_id,
                created_at=at,
                updated_at=at,
                created_by=by,
                **checked_fields(values),
            )
        )

    def edit(self, *, at: datetime, **values: Any) -> Change["Project"]:
        """Change the name or the policy."""
        fields = checked_fields(values)
        said = ProjectSettingsChanged(
            fields=tuple(sorted(name for name, value in fields.items() if value != getattr(self, name)))
        )
        event = Event.of(said, project_id=self.id, about=self.id, at=at)
        return changed(self, at, fields, event)

    def may_read_raw(self, role: Role | None) -> bool:
        """Whether the policy lets `role` read raw values."""
        return not self.physical_only and role in self.raw_readers


@frozen(kw_only=True)
class Member:
    """A user's role in a project."""

    project_id: UUID
    user_id: str
    role: Role
    added_at: datetime

    @classmethod
    def create(cls, *, project_id: UUID, user_id: str, role: Role, at: datetime) -> "Member":
        """A member, checked."""
        checked_text("user_id", user_id, longest=255, shortest=1, lines=False)
        if role not in MEMBER_ROLES:
            raise Invalid.at("role", "must be viewer, editor or owner")
        return cls(project_id=project_id, user_id=user_id, role=role, added_at=at)


def check_owner_remains(members: Sequence[Member], user_id: str, role: Role | None) -> None:
    """Refuse to give `user_id` the new `role` (None: to remove them) where nobody would own the project."""
    owners = {member.user_id for member in members if member.role is Role.OWNER}
    if role is not Role.OWNER and owners == {user_id}:
        raise Conflict("last_owner", "A project keeps at least one owner.")


class ProjectRepository(Repository[Project], Protocol):
    """Keeps projects and their members."""

    @abstractmethod
    async def page(self, ids: Collection[UUID], *, limit: int, after: Position | None) -> Page[Project]:
        """The projects among `ids`, newest first."""

    @abstractmethod
    async def members(self, project_id: UUID) -> Sequence[Member]:
        """The members of a project, by user id."""

    @abstractmethod
    def put_member(self, member: Member) -> None:
        """Add a member, or change the role."""

    @abstractmethod
    def remove_member(self, project_id: UUID, user_id: str) -> None:
        """Remove a member."""
