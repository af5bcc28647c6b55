"""The backlog: how much work of each kind waits for a worker."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

from attrs import frozen

MOST_COUNTED = 10_000
"""How much is counted of each kind: beyond it, there is a lot."""


@frozen(kw_only=True)
class Waiting:
    """How much work is due that nobody is at, and how much of it was left behind by workers that ended over it."""

    count: int = 0
    left_behind: int = 0


class Backlog(Protocol):
    """Counts the work that waits. All times are those of the database's own clock."""

    @abstractmethod
    async def waiting(self) -> Mapping[str, Waiting]:
        """What waits of `backfills`, `chores`, `exports` and `webhooks`, of each at most `MOST_COUNTED`."""
