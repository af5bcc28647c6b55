"""Domain events: what became true, in the past tense, recorded in the transaction that made it so."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen


@frozen(kw_only=True)
class Event:
    """Something that happened to `subject` (`<noun>/<id>`). `data` holds JSON values and no raw readings."""

    type: str
    project_id: UUID
    subject: str
    at: datetime
    data: Mapping[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True)
class RecordedEvent:
    """An event, the id that stays the same however often it is delivered, and who made it true."""

    id: UUID
    event: Event
    actor: str


class EventLog(Protocol):
    """Takes the events of a unit of work; they become visible with its commit, and only then. Never changed."""

    @abstractmethod
    def record(self, *events: RecordedEvent) -> None:
        """Record events, in this order."""

    @abstractmethod
    async def of(self, subject: str, *, limit: int, after: tuple[datetime, UUID] | None) -> Sequence[RecordedEvent]:
        """The first `limit` events of a subject, oldest first; `after` says which one was the last seen."""
