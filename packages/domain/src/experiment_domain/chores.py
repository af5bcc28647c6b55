"""Chores: what the service does again and again without being asked. Each is a row that says when it is due."""

from abc import abstractmethod
from collections.abc import Collection
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from attrs import frozen

ATTEMPTS = 5
"""How many errors in a row make that a chore is laid aside."""
LOSSES = 10
"""How many workers in a row may vanish over a chore before it is laid aside."""
LAID_ASIDE_FOR = timedelta(hours=1)
"""After how long a chore that was laid aside is tried again."""
FIRST_PAUSE = timedelta(seconds=5)
"""The pause after the first failure; each further one doubles it."""
ERROR_LENGTH = 500
VANISHED = f"{LOSSES} workers in a row ended without a word while they were at it."


@frozen(kw_only=True)
class Chore:
    """A chore that was claimed. `attempts` are the tries in a row that came to nothing, this one included."""

    name: str
    attempts: int

    @property
    def has_killed(self) -> bool:
        """Whether too many workers vanished over it for another one to try."""
        return self.attempts > LOSSES

    @property
    def is_last(self) -> bool:
        """Whether it is laid aside if this try fails."""
        return self.attempts >= ATTEMPTS

    @property
    def pause(self) -> timedelta:
        """How long to wait after this try has failed."""
        return LAID_ASIDE_FOR if self.is_last else FIRST_PAUSE * 2 ** (self.attempts - 1)


class ChoreBook(Protocol):
    """Keeps when each chore is due, and who is at it. All times are those of the database's own clock."""

    @abstractmethod
    async def is_due(self, names: Collection[str]) -> bool:
        """Whether one of these chores can be claimed, or could be a moment ago."""

    @abstractmethod
    async def claim(self, names: Collection[str], worker: UUID, lasting: timedelta) -> Chore | None:
        """That of these chores which has been due for longest, for `worker` alone while the claim is `lasting`.

        None where none is due. One that was never heard of before is due now. A claim that nobody ends was a try that
        came to nothing.
        """

    @abstractmethod
    def done(self, name: str, worker: UUID, pause: timedelta) -> None:
        """End a claim: it is done, and due again after a `pause`. Nothing happens where the claim was lost."""

    @abstractmethod
    def failed(self, chore: Chore, worker: UUID, error: str) -> None:
        """End a claim: it came to nothing; it is due again after its pause. Nothing where the claim was lost."""
