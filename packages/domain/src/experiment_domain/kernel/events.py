"""Domain events: what became true, in the past tense, recorded in the transaction that made it so."""

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform
from uuid import UUID

import attrs
from attrs import field, frozen

from experiment_domain.kernel.errors import Conflict
from experiment_domain.kernel.values import told

TYPE_LENGTH = 100
TYPE_PATTERN = r"^[a-z][a-z_]*(\.[a-z][a-z_]*)+$"
"""What types of events look like: `run.started`."""


@frozen(kw_only=True)
class EventData:
    """What an event says beside whom it is about and when it was: one class per type, entered by `event_type`.

    Fields are JSON values, ids, times, tuples of them, and attrs classes of such. A `_` at the end of a field's name,
    where it is a word of Python's, is not told.
    """

    type: ClassVar[str]
    about: ClassVar[str]
    """The noun of its subjects."""
    is_recorded: ClassVar[bool]
    """Whether it is among the events of its project, and not only sent to somebody."""

    def facts(self) -> dict[str, Any]:
        """Them as JSON values."""
        values = attrs.asdict(self, value_serializer=lambda _owner, _attribute, value: told(value))
        return {name.rstrip("_"): value for name, value in values.items()}


D = TypeVar("D", bound=EventData)
_ENTERED: dict[str, type[EventData]] = {}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def event_type(name: str, *, about: str, is_recorded: bool = True) -> Callable[[type[D]], type[D]]:
    """Enter a class as that of a type of events; what it means is its docstring.

    Raises `TypeError` of one that means nothing, and where the name is taken or none.
    """

    def enter(cls: type[D]) -> type[D]:
        if not re.fullmatch(TYPE_PATTERN, name) or len(name) > TYPE_LENGTH:
            raise TypeError(f"{name!r} is no type of events")
        if name in _ENTERED:
            raise TypeError(f"{name} is entered already")
        if "__doc__" not in vars(cls) or not vars(cls)["__doc__"]:
            raise TypeError(f"it is not said what {name} means")
        kind = frozen(kw_only=True)(cls)
        kind.type, kind.about, kind.is_recorded = name, about, is_recorded
        _ENTERED[name] = kind
        return kind

    return enter


def entered() -> Mapping[str, type[EventData]]:
    """All types that have been entered, by name."""
    return dict(sorted(_ENTERED.items()))


@frozen(kw_only=True)
class Event:
    """Something that happened to `subject` (`<noun>/<id>`). `data` holds JSON values and no raw readings."""

    type: str
    project_id: UUID
    subject: str
    at: datetime
    data: Mapping[str, Any] = field(factory=dict[str, Any])

    @classmethod
    def of(cls, said: EventData, *, project_id: UUID, about: UUID, at: datetime) -> "Event":
        """The event that says this about an entity; what it is about belongs to its type."""
        return cls(type=said.type, project_id=project_id, subject=f"{said.about}/{about}", at=at, data=said.facts())


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
    """What is read of the log at once. `place` is where the next part begins, also where nothing was found.

    Without `more`, it was everything that was visible when it was read; with it, there may be nothing behind it.
    """

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
