"""Idempotency: the first answer to a request, kept with its effect, so that a retry has no second one."""

from abc import abstractmethod
from datetime import datetime, timedelta
from typing import Protocol

from attrs import frozen

from experiment_domain.kernel.errors import Conflict, Invalid

KEPT_FOR = timedelta(hours=24)


@frozen(kw_only=True)
class IdempotencyKey:
    """A key as its sender chose it, and the sender: two principals never share one."""

    principal: str
    key: str


@frozen(kw_only=True)
class RememberedAnswer:
    """The first answer. `fingerprint` tells whether a request is the same; `content` is the edge's own affair."""

    fingerprint: bytes
    content: bytes
    answered_at: datetime

    def check_same_request(self, fingerprint: bytes) -> None:
        """Refuse where the key was used for another request."""
        if self.fingerprint != fingerprint:
            raise Invalid("This Idempotency-Key was used for another request.", code="idempotency_key_reused")


def still_in_progress() -> Conflict:
    """The refusal of a request whose first sending is being worked on."""
    return Conflict("idempotency_key_in_progress", "A request with this Idempotency-Key is still in progress.")


class IdempotencyRecords(Protocol):
    """Keeps first answers for `KEPT_FOR`."""

    @abstractmethod
    async def claim(self, key: IdempotencyKey, now: datetime) -> RememberedAnswer | None:
        """The answer remembered for `key`; None gives the key to this unit of work until it ends.

        Raises `Conflict` (`idempotency_key_in_progress`) while another unit of work has it.
        """

    @abstractmethod
    def remember(self, key: IdempotencyKey, answer: RememberedAnswer) -> None:
        """Keep the answer with the unit of work."""

    @abstractmethod
    async def purge(self, before: datetime) -> int:
        """Forget answers given before a moment, and tell how many."""
