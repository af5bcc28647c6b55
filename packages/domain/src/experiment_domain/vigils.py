"""Vigils: when each run gave its last sign of life, so that those that hang are noticed."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

READINGS_COUNT_EVERY = timedelta(seconds=5)
"""How often readings renew a run's sign of life at most; commands and heartbeats always do."""
SHORTEST_GRACE, LONGEST_GRACE = timedelta(seconds=10), timedelta(seconds=60)
"""After the warning, a run has as long again as it may be silent, within these bounds."""


class RunVigils(Protocol):
    """Keeps the last signs of life of runs. All times are those of the database's own clock.

    A run may be silent for its `auto_close_after`, or its project's; where neither is set, for good.
    """

    @abstractmethod
    def renew(self, run_ids: Collection[UUID]) -> None:
        """A sign of life: a warning is forgotten. To be the last thing that a unit of work holds."""

    @abstractmethod
    async def warn(self, *, most: int) -> Sequence[UUID]:
        """Note a warning for running runs that have been silent for too long, and tell which."""

    @abstractmethod
    async def hung(self, *, most: int) -> Sequence[UUID]:
        """Running runs that were warned about and have been silent for the whole grace."""

    @abstractmethod
    async def is_hung(self, run_id: UUID) -> bool:
        """Whether that is so of one run now."""
