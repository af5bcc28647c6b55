"""Delivering webhooks: many attempts at once, noted as they end, so that who is slow delays nobody else."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from heapq import heappop, heappush
from typing import Any
from uuid import UUID

from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Refusal
from experiment_domain.kernel.news import EVENTS, Hints
from experiment_domain.usecases.services import Services
from experiment_domain.usecases.webhook_deliveries import Dispatch
from experiment_domain.usecases.webhooks import about
from experiment_domain.webhooks.deliveries import WebhookDelivery
from experiment_domain.webhooks.secrets import NoSecretBox, signatures
from experiment_domain.webhooks.sending import Outcome, WebhookMessage

AT_ONCE = 512
"""How many attempts one worker makes at once: as many as dozens of endpoints have that never answer, and some."""
LOOKS_EVERY = 0.2
"""Seconds between two looks for what is due while attempts are under way, where neither one ends nor a hint comes."""
IDLES_FOR = 10.0
"""Seconds between two looks where nothing was due at the last one, and no hint comes that there is.

Whoever lost hints, because the connection that listens broke, is given one as soon as there is another connection.
"""
SOON = timedelta(minutes=1)
"""Whose next attempt is due within this is remembered, and not only found by looking."""
STOPS_WITHIN = 0.1
"""Seconds within which who idles notices that it is stopping."""
GATHERED = 0.02
"""Seconds for which attempts that end are gathered, to be noted in one transaction."""

Ended = tuple[Dispatch, Outcome]
Failed = Callable[[WebhookDelivery, Exception], object]


async def work_off_webhooks(
    services: Services,
    *,
    seconds: float = 60.0,
    stopping: Callable[[], bool] = lambda: False,
    at_once: int = AT_ONCE,
    ended: Callable[[Dispatch, Outcome], object] = lambda _dispatch, _outcome: None,
    failed: Failed = lambda _delivery, _error: None,
) -> int:
    """Deliver events to webhooks, and wait for more, until `seconds` are over or it is `stopping`.

    How many attempts ended. Those that are under way at the end are waited for, and nothing is claimed meanwhile: who
    gives it an end lets events wait for the slowest endpoint there. Raises `Unavailable` where the database is away:
    whatever was claimed can be claimed again after a while, and is then delivered a second time. `ended` hears what
    came of each attempt, when that has been noted; `failed`, before that, of errors of the work itself.
    """
    if isinstance(services.box, NoSecretBox):
        at_once = 0  # what cannot be signed waits for a worker that can
    worker = services.ids.new()
    deadline = time.monotonic() + seconds
    under_way: set[asyncio.Task[Ended]] = set()
    count = 0
    due: list[float] = []  # a heap of when deliveries of ours are due again, by the monotonic clock

    def is_over() -> bool:
        return stopping() or time.monotonic() >= deadline

    try:
        with services.units_of_work.news.of(EVENTS) as hints:
            while under_way or not is_over():
                more = False
                if not is_over():
                    more, claimed = await _look(services, worker, at_once - len(under_way))
                    under_way |= {asyncio.create_task(_attempt(services, dispatch, failed)) for dispatch in claimed}
                pause = LOOKS_EVERY if under_way else IDLES_FOR
                until = 0.0 if more else min([time.monotonic() + pause, *due[:1]])
                done = await _news(hints, under_way, until, is_over)
                under_way -= done
                if done:
                    results = [task.result() for task in done]
                    for again in await _conclude(services, worker, results):
                        heappush(due, time.monotonic() + again)
                    count += len(results)
                    for result in results:
                        ended(*result)
                while due and due[0] <= time.monotonic():
                    heappop(due)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return count


async def _news(
    hints: Hints, under_way: Collection[asyncio.Task[Ended]], until: float, is_over: Callable[[], bool]
) -> set[asyncio.Task[Ended]]:
    """The attempts that have ended, with those that end right after the first of them.

    They are waited for, and so is a hint, until it is time to look anyway.
    """
    hint = asyncio.create_task(hints.wait(max(0.0, until - time.monotonic())))
    try:
        ended: Collection[asyncio.Task[Any]] = ()
        while not ended and (under_way or not is_over()):
            ended, _ = await asyncio.wait([hint, *under_way], timeout=STOPS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hint.cancel()
    done = {task for task in under_way if task.done()}
    if done and len(done) < len(under_way):
        further, _ = await asyncio.wait(set(under_way) - done, timeout=GATHERED)
        done |= further
    return done


async def _look(services: Services, worker: UUID, most: int) -> tuple[bool, Collection[Dispatch]]:
    """Make deliveries of new events, and claim what is due, in one transaction; whether there may be more events."""
    async with services.begin(System()) as work:
        more = await work.webhook_deliveries.fan_out()
        return more, await work.webhook_deliveries.claim(worker, most=most) if most > 0 else ()


async def _conclude(services: Services, worker: UUID, ended: Sequence[Ended]) -> Iterable[float]:
    """Note what came of attempts; after how many seconds which of them are due again soon."""
    async with services.begin(System()) as work:
        pauses = await work.webhook_deliveries.conclude(worker, ended)
    return (pause.total_seconds() for pause in pauses if pause <= SOON)


async def _attempt(services: Services, dispatch: Dispatch, failed: Failed) -> Ended:
    try:
        return dispatch, await services.webhook_sender.send(_message(services, dispatch))
    except Refusal as refusal:
        return dispatch, Outcome(error=refusal.detail)
    except Exception as error:  # noqa: BLE001 - whatever it is, the attempts at all others go on
        failed(dispatch.delivery, error)
        return dispatch, Outcome(error=f"the attempt broke off: {type(error).__name__}")


def _message(services: Services, dispatch: Dispatch) -> WebhookMessage:
    delivery, subscription = dispatch.delivery, dispatch.subscription
    now = services.clock.now()
    secrets = [services.box.open(sealed, about(subscription.id)) for sealed in subscription.sealed_secrets(now)]
    message_id, timestamp, body = str(delivery.event_id), int(now.timestamp()), delivery.body.encode()
    return WebhookMessage(
        url=subscription.url,
        message_id=message_id,
        timestamp=timestamp,
        signature=signatures(secrets, message_id, timestamp, body),
        body=body,
    )
