"""Domain events: what became true, in the past tense, recorded in the transaction that made it so."""

from abc import abstractmethod
from collections.abc import Mapping
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


class EventSink(Protocol):
    """Takes the events of a unit of work; they become visible with its commit, and only then."""

    @abstractmethod
    def record(self, event_id: UUID, event: Event) -> None:
        """Record `event` under an id that stays the same however often it is delivered."""
