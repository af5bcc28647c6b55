"""Relays: what carries events to where others read them, each sink at its own pace."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from experiment_domain.kernel.events import RecordedEvent


class SinkAway(Exception):  # noqa: N818 - a reason to try again, not a fault of the program
    """A sink does not take events right now. Some of those that it was given last may have arrived."""


class EventSink(Protocol):
    """Where events go: each at least once, those of one subject in the order in which they happened.

    An event that comes again has the same id. Who passes over ids that it has seen sees everything once and in order.
    """

    @abstractmethod
    async def publish(self, events: Sequence[RecordedEvent]) -> None:
        """Take events, in this order; they are kept there when this returns.

        Raises `SinkAway`, or is broken off, and has taken then any number of them from the first one on: no event of a
        subject without all of that subject before it.
        """

    @abstractmethod
    async def tidy(self) -> None:
        """Let go of what is old, where that is this side's to do. Raises `SinkAway`."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections."""


class RelayPlaces(Protocol):
    """Keeps how far each relay has come in the log of events."""

    @abstractmethod
    async def of(self, sink: str) -> str | None:
        """The place behind all that has arrived in a sink; None: nothing has."""

    @abstractmethod
    def advance(self, sink: str, before: str | None, place: str) -> None:
        """Move on. Refused with `VersionMismatch` where another relay has moved on from `before` meanwhile."""
