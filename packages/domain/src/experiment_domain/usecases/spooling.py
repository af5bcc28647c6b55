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
from experiment_domain.kernel.errors import Refusal, Unauthenticated, Unavailable
from experiment_domain.spool import Draining, Promise, Sender, Spool, SpoolStatus, WaitingBatch
from experiment_domain.telemetry.batches import Batch
from experiment_domain.usecases.services import Services

T = TypeVar("T")

PAUSE = 1.0
"""Seconds after a failure in which the database is not asked again, except by the one who drains the spool."""
WINDOW = 256
"""So many batches are taken out at once."""
SENSORS_AT_ONCE = 4
"""The batches of so many sensors are stored at once; those of one sensor, one after the other."""
TRIES = 5
"""A batch that fails so often for a reason that nobody knows is set aside like one that is refused."""
RETRIED = frozenset({"idempotency_key_in_progress", "version_mismatch"})
"""Refusals that pass when others are done."""


@frozen(kw_only=True)
class Spooled:
    """The answer to a batch that waits: it is durable, and will be stored or set aside when the database is back."""

    accepted: int
    capture_session_id: UUID | None


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
        batch: Batch,
        store: Callable[[], Awaitable[T]],
        promise: Callable[[Spooled], Promise | None] = lambda _: None,
    ) -> T | Spooled | Promise:
        """What `store` answers, which takes the batch to the database; where that is away, that the batch waits.

        `promise` makes the answer to be kept for a request with an idempotency key. A promise is returned where the
        same request waits already.
        """
        sender = self._sender(caller)
        if sender is None:
            return await store()
        if not self.spool.holds(sender.sensor_id) and self._may_ask():
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
        return await self._keep(caller, sender, batch, promise)

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
    queues = [list(of_one) for _, of_one in groupby(sorted(window, key=_by_sensor), key=lambda it: it.sensor_id)]
    limit = asyncio.Semaphore(SENSORS_AT_ONCE)

    async def drain(queue: Sequence[WaitingBatch]) -> int:
        async with limit:
            return sum([await _drain_one(services, draining, waiting, failed) for waiting in queue])

    # None is broken off because another one fails: what it has under way would be stored all the same.
    results = await asyncio.gather(*map(drain, queues), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))


def _by_sensor(waiting: WaitingBatch) -> tuple[UUID, int]:
    return waiting.sensor_id, waiting.number


async def _drain_one(
    services: Services,
    draining: Draining,
    waiting: WaitingBatch,
    failed: Callable[[WaitingBatch, Exception], object],
) -> bool:
    """Store a batch, or set it aside and answer False."""
    refusal: Refusal | None = None
    for attempt in range(TRIES):
        try:
            await _store(services, waiting)
            return True
        except Unavailable:
            raise
        except Refusal as refused:
            refusal = refused
            if refused.code not in RETRIED:
                break
        except Exception as error:  # noqa: BLE001 - whatever it is, the batches behind this one are not to wait for it
            failed(waiting, error)
            refusal = Refusal("internal_error", f"The service failed: {type(error).__name__}.")
        await asyncio.sleep(0.1 * 2**attempt)
    assert refusal is not None  # noqa: S101 - else it was stored
    await draining.set_aside(waiting, refusal, services.clock.now())
    return False


async def _store(services: Services, waiting: WaitingBatch) -> None:
    caller = Caller(
        principal=SensorToken(token_hash=waiting.token_hash), request_id=waiting.request_id, address=waiting.address
    )
    promise = waiting.promise
    async with services.begin(caller) as work:
        if promise is not None:
            earlier = await work.idempotency.claim(promise.key, work.now)
            if earlier is not None:
                # The commit after which no answer came has had its effect.
                earlier.check_same_request(promise.answer.fingerprint)
                return
        await work.telemetry.ingest(evolve(waiting.batch, received_at=waiting.received_at))
        if promise is not None:
            work.idempotency.remember(promise.key, promise.answer)


def _token(caller: Caller) -> bytes:
    assert isinstance(caller.principal, SensorToken)  # noqa: S101 - only sensors wait
    return caller.principal.token_hash
