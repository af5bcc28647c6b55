"""Who is calling, and what they may do where."""

import unicodedata
from abc import abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from attrs import evolve, field, frozen

from experiment_domain.kernel.errors import Forbidden, NotFound


class Role(StrEnum):
    """What somebody is to a project. Owner ⊃ editor ⊃ viewer; sensor, integration and system stand apart."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"
    SENSOR = "sensor"
    INTEGRATION = "integration"
    SYSTEM = "system"


MEMBER_ROLES = (Role.VIEWER, Role.EDITOR, Role.OWNER)
_RANK = {role: rank for rank, role in enumerate(MEMBER_ROLES)}
_MACHINES = (Role.SENSOR, Role.INTEGRATION)
"""These know of no things but those that they may do something to."""


class Permission(StrEnum):
    """What a use case asks for. The table of who has which is `GRANTS`."""

    READ = "read"
    EDIT = "edit"
    ADMINISTER = "publish, approve, rotate, manage webhooks"
    OWN = "archive, delete, restore, change settings, read the audit log"
    INGEST = "send readings and heartbeats"
    REPORT = "report the status of artifacts"
    SIGN_IN = "be a known user"
    WORK = "do the service's own work"


_EDITORS = frozenset({Role.EDITOR, Role.OWNER})
_OWNERS = frozenset({Role.OWNER})
GRANTS: Mapping[Permission, frozenset[Role]] = {
    Permission.READ: frozenset(MEMBER_ROLES),
    Permission.EDIT: _EDITORS,
    Permission.ADMINISTER: _OWNERS,
    Permission.OWN: _OWNERS,
    Permission.INGEST: frozenset({Role.SENSOR}),
    Permission.REPORT: frozenset({Role.INTEGRATION}),
    Permission.SIGN_IN: frozenset(MEMBER_ROLES),
    Permission.WORK: frozenset(),
}


def higher(one: Role | None, other: Role | None) -> Role | None:
    """The higher of two member roles; None is lower than any."""
    if one is None or other is None:
        return one or other
    return one if _RANK[one] >= _RANK[other] else other


USER_ID_LENGTH = 255
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


def user_id_problem(user_id: object) -> str | None:
    """Why nobody can have this id, or None. Members, history and audit show ids: they must be told apart by eye."""
    if not isinstance(user_id, str) or not 1 <= len(user_id) <= USER_ID_LENGTH:
        return f"must be a string of 1 to {USER_ID_LENGTH} characters"
    if user_id != user_id.strip() or any(unicodedata.category(char) in _UNSEEN for char in user_id):
        return "must have no control or invisible characters and no blanks around it"
    plain = unicodedata.normalize("NFKC", user_id).casefold()
    if plain in {"system", "sensor", "integration"} or plain.startswith(("sensor:", "integration:")):
        return "is a name that the service keeps for itself, for sensors and for other services"
    return None


@frozen(kw_only=True)
class User:
    """A person or program with a user's token. `projects` are the roles that the token itself claims."""

    id: str
    name: str | None = None
    projects: Mapping[UUID, Role] = field(factory=dict[UUID, Role])

    @property
    def actor(self) -> str:
        """The name under which history and audit know this user."""
        return self.id


@frozen(kw_only=True)
class SensorToken:
    """A sensor's token, already hashed: which sensor it belongs to, only the repository can tell."""

    token_hash: bytes

    @property
    def actor(self) -> str:
        """A stand-in until the repository has told which sensor it is."""
        return "sensor"


@frozen(kw_only=True)
class Integration:
    """Another service, known by the secret that it signs with."""

    name: str

    @property
    def actor(self) -> str:
        """The name under which history and audit know that service."""
        return f"integration:{self.name}"

    @property
    def role(self) -> Role:
        """What it is to every project."""
        return Role.INTEGRATION


@frozen(kw_only=True)
class System:
    """The service itself."""

    @property
    def actor(self) -> str:
        """The name under which history and audit know the service."""
        return "system"

    @property
    def role(self) -> Role:
        """What it is to every project."""
        return Role.SYSTEM


Principal = User | SensorToken | Integration | System


@frozen(kw_only=True)
class Caller:
    """A principal and where its request came from."""

    principal: Principal
    request_id: str | None = None
    address: str | None = None


@frozen(kw_only=True)
class Grants:
    """The roles of one principal: of a user by project, of a sensor in its own project, of a service `everywhere`."""

    actor: str
    roles: Mapping[UUID, Role] = field(factory=dict[UUID, Role])
    sensor_id: UUID | None = None
    everywhere: Role | None = None

    @classmethod
    def of_user(cls, user: User, memberships: Mapping[UUID, Role]) -> "Grants":
        """A user's role in a project is the higher of the token's claim and the membership."""
        roles = dict(memberships)
        for project_id, role in user.projects.items():
            roles[project_id] = higher(roles.get(project_id), role) or role
        return cls(actor=user.actor, roles=roles)

    def with_role(self, project_id: UUID, role: Role) -> "Grants":
        """These grants and one more."""
        return evolve(self, roles={**self.roles, project_id: role})

    def role_in(self, project_id: UUID) -> Role | None:
        """The role in a project, None for an outsider."""
        return self.everywhere or self.roles.get(project_id)

    def allows(self, permission: Permission, project_id: UUID) -> bool:
        """Whether `permission` is granted in the project."""
        return self.everywhere is Role.SYSTEM or self.role_in(project_id) in GRANTS[permission]

    def require(self, permission: Permission, project_id: UUID, noun: str) -> None:
        """Refuse with `NotFound` an outsider, who may not know of the thing; with `Forbidden` too low a role."""
        role = self.role_in(project_id)
        allowed = self.allows(permission, project_id)
        if role is None or (role in _MACHINES and not allowed):
            raise NotFound(noun)
        if not allowed:
            raise Forbidden(f"The role {role} does not allow to {permission}.")


class Authenticator(Protocol):
    """Tells who carries a bearer token."""

    @abstractmethod
    async def authenticate(self, token: str) -> Principal:
        """The principal behind `token`. Raises `Unauthenticated`."""
