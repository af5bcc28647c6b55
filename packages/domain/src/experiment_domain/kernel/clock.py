"""Time as the domain sees it: UTC, microseconds, handed in from outside."""

from abc import abstractmethod
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    @abstractmethod
    def now(self) -> datetime:
        """The present moment, in UTC."""


class SystemClock(Clock):
    """The machine's own clock."""

    def now(self) -> datetime:
        """The present moment, in UTC."""
        return datetime.now(UTC)
