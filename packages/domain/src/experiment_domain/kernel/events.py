"""Domain events: what became true, in the past tense, recorded in the transaction that made it so."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.kernel.errors import Conflict


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


@frozen(kw_only=True)
class PlacedEvent:
    """An event as it is read in order, and the place behind it."""

    recorded: RecordedEvent
    place: str


@frozen(kw_only=True)
class EventPart:
    """What is read of the log at once. `place` is where the next part begins, also where nothing was found."""

    events: Sequence[PlacedEvent]
    place: str
    more: bool


class EventLog(Protocol):
    """Takes the events of a unit of work; they become visible with its commit, and only then. Never changed.

    A place in the log is a text of the log's own making: kept as it is, it leads on for good, in whatever process.
    """

    @abstractmethod
    def record(self, *events: RecordedEvent) -> None:
        """Record events, in this order."""

    @abstractmethod
    async def of(self, subject: str, *, limit: int, after: tuple[datetime, UUID] | None) -> Sequence[RecordedEvent]:
        """The first `limit` events of a subject, oldest first; `after` says which one was the last seen."""

    @abstractmethod
    async def since(
        self,
        place: str | None,
        *,
        limit: int,
        project_ids: Collection[UUID] | None = None,
        types: Collection[str] = (),
        until: str | None = None,
    ) -> EventPart:
        """The first `limit` events behind a place, or from the beginning, of these projects and types or of all.

        None that is behind `until`, which was the latest place at some time.

        Who goes on from part to part is told of every event once, and of each subject's in the order in which they
        happened, however long the transactions last that record them; those of different subjects come about in the
        order of their commits. To be asked where this unit of work has recorded nothing itself. Raises `Conflict`,
        `place_lost`, of a place that this log has not reached: it was restored from an older copy.
        """

    @abstractmethod
    async def latest(self) -> str:
        """The place behind everything that is visible now."""


def place_lost() -> Conflict:
    """The refusal of a place behind the end of the log."""
    return Conflict("place_lost", "This place is not in the log, which has been restored from an older copy.")
