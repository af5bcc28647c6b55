"""The spool: batches that were received while the database was away, waiting until it is back."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.idempotency import IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.projects import FUTURE_TOLERANCE
from experiment_domain.telemetry.batches import Batch

SENDERS = 10_000
"""The most senders that are known at once."""
MOMENT = 1.0
"""For so many seconds after some have left it, a spool counts as moving."""
KNOWN_FOR = timedelta(hours=1)
"""How long a token counts as known after a batch under it was accepted."""


class SpoolFull(Unavailable):
    """The database is away, and the spool takes nothing more: its room or its time is used up, or its disk fails."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"The service cannot reach its database right now, and {detail}: try again later.")


@frozen(kw_only=True)
class Promise:
    """The answer that was given to a request with an idempotency key, to be kept with the effect it will have."""

    key: IdempotencyKey
    answer: RememberedAnswer


@frozen(kw_only=True, eq=False)
class WaitingBatch:
    """A batch as it was received: from whom, when, and what was promised. `number` is its place in the spool."""

    batch: Batch
    token_hash: bytes = field(repr=False)
    sensor_id: UUID
    received_at: datetime
    request_id: str | None = None
    address: str | None = None
    promise: Promise | None = field(default=None, repr=False)
    number: int = 0


@frozen(kw_only=True)
class SpoolStatus:
    """What waits in a spool, what was set aside from it, and the bytes that both take."""

    batches: int = 0
    bytes: int = 0
    oldest_at: datetime | None = None
    refused: int = 0
    is_full: bool = False


class Draining(Protocol):
    """The sole right to take batches out of a spool."""

    @abstractmethod
    async def oldest(self, most: int) -> Sequence[WaitingBatch]:
        """The batches that have waited longest, in the order of their reception; none where none wait."""

    @abstractmethod
    async def set_aside(self, waiting: WaitingBatch, refusal: Refusal, at: datetime) -> None:
        """Keep a batch that is refused, and why, where an operator finds it; it waits no longer once it is `done`."""

    @abstractmethod
    async def done(self) -> None:
        """Let go of what `oldest` gave last: all of it is stored or set aside."""


class Spool(Protocol):
    """Keeps batches durably and in the order of their reception, within bounds."""

    @abstractmethod
    async def keep(self, waiting: WaitingBatch) -> Promise | None:
        """Keep a batch behind all others; durable when this returns.

        Where a batch waits that was promised an answer under the same key, nothing is kept and that promise returned.
        Raises `SpoolFull`, or `Invalid` (`idempotency_key_reused`) where the key was used for another request.
        """

    @abstractmethod
    def holds(self, sensor_id: UUID) -> bool:
        """Whether batches of a sensor wait."""

    @abstractmethod
    def sensor_of(self, token_hash: bytes) -> UUID | None:
        """The sensor of which batches wait that were sent under a token."""

    @abstractmethod
    def draining(self) -> AbstractAsyncContextManager[Draining | None]:
        """The right to take batches out, until the block ends; None where somebody else has it."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing waits."""

    @property
    @abstractmethod
    def is_moving(self) -> bool:
        """Whether batches are being taken out of it: some have been, a moment ago."""

    @abstractmethod
    def status(self, at: datetime) -> SpoolStatus:
        """How much waits, and since when, and whether more would be taken at a moment."""


@frozen(kw_only=True)
class Sender:
    """What is known of a sensor whose batches were accepted of late, as far as a batch can be checked by it."""

    sensor_id: UUID
    signals: Sequence[str] = ()
    future_tolerance: float = FUTURE_TOLERANCE


class Senders:
    """Who was let in of late, by the hashes of tokens: only their batches may wait, lest strangers fill a disk."""

    def __init__(self, most: int = SENDERS) -> None:
        self._most = most
        self._known: OrderedDict[bytes, tuple[Sender, datetime]] = OrderedDict()

    def note(self, token_hash: bytes, sender: Sender, at: datetime) -> None:
        """A batch under this token was accepted."""
        self._known[token_hash] = (sender, at)
        self._known.move_to_end(token_hash)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def forget(self, token_hash: bytes) -> None:
        """The token was refused."""
        self._known.pop(token_hash, None)

    def are_known(self, at: datetime) -> bool:
        """Whether anybody is known still."""
        return bool(self._known) and at - next(reversed(self._known.values()))[1] <= KNOWN_FOR

    def find(self, token_hash: bytes, at: datetime) -> Sender | None:
        """The sender with this token, if it is known still."""
        sender, noted_at = self._known.get(token_hash, (None, at))
        return sender if at - noted_at <= KNOWN_FOR else None


def message_of(batch: Batch) -> Mapping[str, Any]:
    """A batch as it can be sent to the service again."""
    message: dict[str, Any] = {
        "columns": [
            {"signal": column.signal, "timestamps": column.timestamps.tolist(), "values": column.values.tolist()}
            for column in batch.columns
        ]
    }
    if batch.capture_session_id is not None:
        message["capture_session_id"] = str(batch.capture_session_id)
    if batch.batch_id is not None:
        message["batch_id"] = batch.batch_id
    return message
