"""The audit log: every command of a person, a sensor or the system itself. Append-only."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from attrs import frozen


@frozen(kw_only=True)
class AuditRecord:
    """Who did what to what, in which role, from where, and what it was before and after."""

    id: UUID
    project_id: UUID
    at: datetime
    actor: str
    role: str
    request_id: str | None
    address: str | None
    action: str
    target_type: str
    target_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


class AuditLog(Protocol):
    """Where commands are written, once."""

    @abstractmethod
    def record(self, record: AuditRecord) -> None:
        """Write one command with the unit of work."""

    @abstractmethod
    async def of(self, project_id: UUID) -> Sequence[AuditRecord]:
        """The commands of one project, oldest first."""
