"""Where batches come in, with a spool to wait in while the database is away; and how they leave it again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import groupby
from typing import TypeVar
from uuid import UUID

from attrs import evolve, frozen

from experiment_domain.kernel.access import Caller, SensorToken
from experiment_domain.kernel.errors import BrokenOff, Refusal, Unauthenticated, Unavailable
from experiment_domain.spool import Draining, Promise, Sender, Spool, SpoolStatus, WaitingBatch
from experiment_domain.telemetry.batches import Batch
from experiment_domain.usecases.services import Services, Work

T = TypeVar("T")

PAUSE = 1.0
"""Seconds after a failure in which the database is not asked again, except by the one who drains the spool."""
WINDOW = 256
"""So many batches are taken out at once."""
SENSORS_AT_ONCE = 4
"""The batches of so many sensors are stored at once; those of one sensor, one after the other."""
TRIES = 5
"""A batch that fails so often for a reason that nobody knows is set aside like one that is refused."""
FAILED = "internal_error"
RETRIED = frozenset({FAILED, "idempotency_key_in_progress", "version_mismatch"})
"""What passes when others are done."""
TOGETHER = 64
"""So many batches of a sensor are stored in one transaction."""
CATCHING_UP = 1.0
"""Seconds that a batch waits to see those before it stored, while they are, before it goes behind them."""
LOOKING = 0.02
"""Seconds between two looks at that."""


@frozen(kw_only=True)
class Spooled:
    """The answer to a batch that waits: it is durable, and will be stored or set aside when the database is back."""

    accepted: int
    capture_session_id: UUID | None


@frozen
class Kept:
    """What became of batches that could not be taken to the database, each for itself."""

    outcomes: Sequence[Spooled | Promise | Refusal]


class Reception:
    """Lets batches in: to the database, or, while it is away, into the spool.

    Only who was let in of late may wait there, and whatever can be told without the database is refused at once. While
    batches of a sensor wait, its next ones go behind them: order of reception decides which reading counts.
    """

    def __init__(self, services: Services, spool: Spool, *, pause: float = PAUSE) -> None:
        self.spool = spool
        self._services = services
        self._pause = pause
        self._ask_again_at = 0.0

    @property
    def is_taking(self) -> bool:
        """Whether somebody is known whose batches would be taken while the database is away."""
        status = self.status()
        are_known = self._services.senders.are_known(self._services.clock.now())
        return not status.is_full and (status.batches > 0 or are_known)

    def status(self) -> SpoolStatus:
        """What waits."""
        return self.spool.status(self._services.clock.now())

    async def receive(
        self,
        caller: Caller,
        batches: Sequence[Batch],
        store: Callable[[], Awaitable[T]],
        promise: Callable[[Spooled], Promise | None] = lambda _: None,
    ) -> T | Kept:
        """What `store` answers, which takes the batches to the database; where that is away, what became of each.

        `promise` makes the answer to be kept for a request with an idempotency key. A promise comes back where the
        same request waits already.
        """
        sender = self._sender(caller)
        if sender is None:
            return await store()
        if await self._is_caught_up(sender.sensor_id) and self._may_ask():
            try:
                result = await store()
            except Unauthenticated:
                self._services.senders.forget(_token(caller))
                raise
            except Unavailable:
                self._ask_again_at = time.monotonic() + self._pause
            else:
                self.ask_again()
                return result
        return Kept([await self._keep(caller, sender, batch, promise) for batch in batches])

    def knows(self, caller: Caller) -> bool:
        """Whether batches of the caller would be kept."""
        return self._sender(caller) is not None

    async def _is_caught_up(self, sensor_id: UUID) -> bool:
        """Whether no batch of a sensor waits, in a moment at the latest.

        Were it not waited for, a sensor that sends without a pause would always find one before it.
        """
        deadline = time.monotonic() + CATCHING_UP
        while self.spool.holds(sensor_id):
            if time.monotonic() > deadline or not self.spool.is_moving:
                return False
            await asyncio.sleep(LOOKING)
        return True

    def ask_again(self) -> None:
        """The database is back, as somebody else has found: ask it again."""
        self._ask_again_at = 0.0

    def _may_ask(self) -> bool:
        """Whether to ask the database: one at a time while it is away, the others would only wait for it together."""
        now = time.monotonic()
        if now < self._ask_again_at:
            return False
        if self._ask_again_at:
            self._ask_again_at = now + self._pause
        return True

    def _sender(self, caller: Caller) -> Sender | None:
        if not isinstance(caller.principal, SensorToken):
            return None
        token_hash = caller.principal.token_hash
        known = self._services.senders.find(token_hash, self._services.clock.now())
        if known is None:
            sensor_id = self.spool.sensor_of(token_hash)
            return None if sensor_id is None else Sender(sensor_id=sensor_id)
        return known

    async def _keep(
        self, caller: Caller, sender: Sender, batch: Batch, promise: Callable[[Spooled], Promise | None]
    ) -> Spooled | Promise | Refusal:
        try:
            return await self._kept(caller, sender, batch, promise)
        except Refusal as refusal:
            return refusal

    async def _kept(
        self, caller: Caller, sender: Sender, batch: Batch, promise: Callable[[Spooled], Promise | None]
    ) -> Spooled | Promise:
        now = self._services.clock.now()
        batch.check(allowed_signals=sender.signals, latest=now + timedelta(seconds=sender.future_tolerance))
        answer = Spooled(accepted=len(batch), capture_session_id=batch.capture_session_id)
        earlier = await self.spool.keep(
            WaitingBatch(
                batch=batch,
                token_hash=_token(caller),
                sensor_id=sender.sensor_id,
                received_at=now,
                request_id=caller.request_id,
                address=caller.address,
                promise=promise(answer),
            )
        )
        self._services.senders.note(_token(caller), sender, now)
        return answer if earlier is None else earlier


async def drain_spool(
    services: Services,
    spool: Spool,
    *,
    drained: Callable[[int, int], object] = lambda _stored, _refused: None,
    failed: Callable[[WaitingBatch, Exception], object] = lambda _waiting, _error: None,
) -> None:
    """Store what waits, until nothing does, or somebody else does it.

    Each batch is judged as of its reception. One that is refused is set aside; `drained` hears how many were stored and
    how many refused, `failed` of errors that are no refusals. Raises `Unavailable` where the database is away:
    whatever was not let go of is taken out again, and has no second effect.
    """
    async with spool.draining() as draining:
        while draining is not None and (window := await draining.oldest(WINDOW)):
            stored = await _drain_window(services, draining, window, failed)
            await draining.done()
            drained(stored, len(window) - stored)


async def _drain_window(
    services: Services,
    draining: Draining,
    window: Sequence[WaitingBatch],
    failed: Callable[[WaitingBatch, Exception], object],
) -> int:
    """How many of a window were stored; the others are set aside."""
    queues = [list(of_one) for _, of_one in groupby(sorted(window, key=_by_sender), key=_sender_of)]
    limit = asyncio.Semaphore(SENSORS_AT_ONCE)

    async def drain(queue: Sequence[WaitingBatch]) -> int:
        async with limit:
            return await _drain_queue(services, draining, queue, failed)

    # None is broken off because another one fails: what it has under way would be stored all the same.
    results = await asyncio.gather(*map(drain, queues), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))


def _sender_of(waiting: WaitingBatch) -> tuple[UUID, bytes]:
    return waiting.sensor_id, waiting.token_hash


def _by_sender(waiting: WaitingBatch) -> tuple[UUID, bytes, int]:
    return waiting.sensor_id, waiting.token_hash, waiting.number


async def _drain_queue(
    services: Services,
    draining: Draining,
    queue: Sequence[WaitingBatch],
    failed: Callable[[WaitingBatch, Exception], object],
) -> int:
    """How many batches of one sender were stored, in order and together as far as they can be."""
    stored = place = 0
    together = TOGETHER
    while place < len(queue):
        group = queue[place : place + together]
        try:
            refusals = await _store(services, group) if len(group) > 1 else [await _try(services, group[0], failed)]
        except BrokenOff:
            if len(group) == 1:
                raise
            together = 1  # the same ones together would be broken off again
            continue
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - one of them is at fault: which one is found out by storing each alone
            together = 1
            continue
        for waiting, refusal in zip(group, refusals, strict=False):
            if refusal is None:
                stored += 1
            else:
                await draining.set_aside(waiting, refusal, services.clock.now())
        place += len(refusals)
    return stored


async def _try(
    services: Services, waiting: WaitingBatch, failed: Callable[[WaitingBatch, Exception], object]
) -> Refusal | None:
    """Store one batch; why not, where it is refused or fails again and again."""
    refusal: Refusal | None = None
    for attempt in range(TRIES):
        try:
            (refusal,) = await _store(services, [waiting])
        except Unavailable:
            raise
        except Refusal as refused:
            refusal = refused
        except Exception as error:  # noqa: BLE001 - whatever it is, the batches behind this one are not to wait for it
            failed(waiting, error)
            refusal = Refusal(FAILED, f"The service failed: {type(error).__name__}.")
        if refusal is None or refusal.code not in RETRIED:
            break
        await asyncio.sleep(0.1 * 2**attempt)
    return refusal


async def _store(services: Services, group: Sequence[WaitingBatch]) -> Sequence[Refusal | None]:
    """Store the first batches of one sender, in one unit of work: of each why it is refused, or None."""
    first = group[0]
    caller = Caller(
        principal=SensorToken(token_hash=first.token_hash), request_id=first.request_id, address=first.address
    )
    async with services.begin(caller) as work:
        known = [await _is_kept(work, waiting.promise) for waiting in group]
        if known[0]:
            return [None]
        # Those behind one that has had its effect come in a group of their own.
        group = group[: known.index(True)] if True in known else group
        batches = [evolve(waiting.batch, received_at=waiting.received_at) for waiting in group]
        outcomes = await work.telemetry.ingest_waiting(batches)
        for waiting, outcome in zip(group, outcomes, strict=False):
            if waiting.promise is not None and not isinstance(outcome, Refusal):
                work.idempotency.remember(waiting.promise.key, waiting.promise.answer)
    return [outcome if isinstance(outcome, Refusal) else None for outcome in outcomes]


async def _is_kept(work: Work, promise: Promise | None) -> bool:
    """Whether a commit after which no answer came has had its effect."""
    if promise is None:
        return False
    earlier = await work.idempotency.claim(promise.key, work.now)
    if earlier is not None:
        earlier.check_same_request(promise.answer.fingerprint)
    return earlier is not None


def _token(caller: Caller) -> bytes:
    assert isinstance(caller.principal, SensorToken)  # noqa: S101 - only sensors wait
    return caller.principal.token_hash
