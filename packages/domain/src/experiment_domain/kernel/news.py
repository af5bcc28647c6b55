"""News: hints that something has changed, for who would otherwise have to look again and again."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Protocol

EVENTS = "events"
"""The topic of all events. Each subject is a topic of its own: there is news of it with its events and readings."""


class Hints(Protocol):
    """The hints of one topic, as they come to one who waits for them."""

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """Return with the next hint, or with one that came since the last wait; at the latest after `seconds`."""

    @abstractmethod
    def give(self) -> None:
        """A hint from nowhere: who waits wakes up."""


class News(Protocol):
    """Hints of what other units of work have committed, in whatever process.

    There may be one for nothing, and one may be lost: who waits looks again after some seconds all the same.
    """

    @abstractmethod
    def of(self, topic: str) -> AbstractContextManager[Hints]:
        """The hints of a topic that come while the block lasts."""
