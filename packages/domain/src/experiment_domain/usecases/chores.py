"""The chores of the service: the one table of them, and how they are worked off."""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from attrs import frozen

from experiment_domain.chores import VANISHED, Chore
from experiment_domain.idempotency import KEPT_FOR
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Conflict
from experiment_domain.sensors import SIGNS_KEPT_FOR
from experiment_domain.usecases.compaction import compact_telemetry
from experiment_domain.usecases.exporting import tidy_exports
from experiment_domain.usecases.sensors import LOOKED_AT_ONCE
from experiment_domain.usecases.services import Services, Work
from experiment_domain.usecases.webhook_deliveries import BURIED_AT_ONCE
from experiment_domain.usecases.webhook_deliveries import FORGOTTEN_AT_ONCE as DELIVERIES_AT_ONCE

HOUR = timedelta(hours=1)
TURN = 10.0
"""Seconds that a chore may take before it makes room for others; it is due again at once."""
CLAIM_LASTS = timedelta(seconds=20)
"""How long a worker that is killed keeps its chore: its turn, and the time that its last transaction may take."""
FORGOTTEN_AT_ONCE = 10_000
"""The most rows that one transaction forgets."""

IsOver = Callable[[], bool]
"""Whether to come to an end now, and to leave the rest for the next time."""


@frozen
class Routine:
    """A chore: what is done, and how long after its end it is due again.

    `do` tells how many things it did. It asks again and again whether its turn is over, and commits before it asks:
    whatever ends its process loses nothing that it had done.
    """

    do: Callable[[Services, IsOver], Awaitable[int]]
    every: timedelta


async def forget_first_answers(services: Services, _is_over: IsOver) -> int:
    """Forget the answers whose idempotency keys are no longer promised to be known."""
    async with services.begin(System()) as work:
        return await work.idempotency.purge(services.clock.now() - KEPT_FOR)


async def forget_signs_of_life(services: Services, is_over: IsOver) -> int:
    """Forget the signs of life of sensors that are older than anybody may ask for."""
    before = services.clock.now() - SIGNS_KEPT_FOR
    forgotten, last = 0, FORGOTTEN_AT_ONCE
    while last == FORGOTTEN_AT_ONCE and not is_over():
        async with services.units_of_work.begin(System()) as uow:
            last = await uow.sensors.forget_signs_of_life(before, most=FORGOTTEN_AT_ONCE)
            await uow.commit()
        forgotten += last
    return forgotten


async def bury_webhook_deliveries(services: Services, is_over: IsOver) -> int:
    """Let the deliveries die that disabled webhooks leave behind."""
    return await _in_parts(services, is_over, lambda work: work.webhook_deliveries.bury(), BURIED_AT_ONCE)


async def forget_webhook_deliveries(services: Services, is_over: IsOver) -> int:
    """Forget the deliveries of webhooks that are older than they are kept."""
    return await _in_parts(services, is_over, lambda work: work.webhook_deliveries.forget(), DELIVERIES_AT_ONCE)


async def _in_parts(services: Services, is_over: IsOver, do: Callable[[Work], Awaitable[int]], at_once: int) -> int:
    """Do something again and again until it finds less than it takes at once; how much it found."""
    count, last = 0, at_once
    while last == at_once and not is_over():
        async with services.begin(System()) as work:
            last = await do(work)
        count += last
    return count


async def time_out_hung_runs(services: Services, is_over: IsOver) -> int:
    """Warn about running runs that have been silent for too long, and fail those that stayed so; how many failed."""
    async with services.begin(System()) as work:
        await work.runs.warn_silent()
        hung = await work.runs.hung()
    failed = 0
    for run_id in hung:
        if is_over():
            break
        # One that has a backfill under way is left for the next time.
        with suppress(Conflict):
            async with services.begin(System()) as work:
                failed += await work.runs.time_out(run_id) is not None
    return failed


async def look_at_sensors(services: Services, is_over: IsOver) -> int:
    """Tell which sensors have gone offline, and which have come back; how many."""
    told, last = 0, LOOKED_AT_ONCE
    while last == LOOKED_AT_ONCE and not is_over():
        async with services.begin(System()) as work:
            looked = await work.sensors.look()
        told, last = told + looked.offline + looked.online, looked.count
    return told


async def close_sessions_left_running(services: Services, is_over: IsOver) -> int:
    """Fail sessions that are running in runs that are over; how many."""
    async with services.begin(System()) as work:
        left = await work.captures.left_running()
    closed = 0
    for session_id in left:
        if is_over():
            break
        async with services.begin(System()) as work:
            closed += await work.captures.close_left(session_id) is not None
    return closed


CHORES: Mapping[str, Routine] = {
    "compact_telemetry": Routine(compact_telemetry, timedelta(seconds=15)),
    "look_at_sensors": Routine(look_at_sensors, timedelta(seconds=30)),
    "close_sessions_left_running": Routine(close_sessions_left_running, timedelta(minutes=5)),
    "bury_webhook_deliveries": Routine(bury_webhook_deliveries, timedelta(minutes=2)),
    "forget_first_answers": Routine(forget_first_answers, HOUR),
    "forget_signs_of_life": Routine(forget_signs_of_life, HOUR),
    "forget_webhook_deliveries": Routine(forget_webhook_deliveries, HOUR),
    "tidy_exports": Routine(tidy_exports, timedelta(minutes=1)),
    "time_out_hung_runs": Routine(time_out_hung_runs, timedelta(seconds=20)),
}


class ChoreWatcher(Protocol):
    """Hears what becomes of chores."""

    def done(self, name: str, count: int, seconds: float) -> object:
        """A chore was done: how many things, in how long."""

    def failed(self, chore: Chore, error: Exception | str) -> object:
        """A try came to nothing; after the last one, the chore is laid aside."""


class _Nobody(ChoreWatcher):
    def done(self, name: str, count: int, seconds: float) -> None:
        pass

    def failed(self, chore: Chore, error: Exception | str) -> None:
        pass


async def work_off_chores(
    services: Services,
    *,
    seconds: float = 60.0,
    stopping: Callable[[], bool] = lambda: False,
    routines: Mapping[str, Routine] = CHORES,
    watcher: ChoreWatcher | None = None,
) -> int:
    """Do the chores that are due until none is, `seconds` are over, or it is `stopping`; how many were done.

    Raises `Unavailable` where the database is away.
    """
    worker = services.ids.new()
    watcher = watcher or _Nobody()
    deadline = time.monotonic() + seconds
    done = 0
    while not stopping() and time.monotonic() < deadline:
        # Mostly nothing is: that is one query without a transaction.
        async with services.units_of_work.begin(System(), read_only=True) as uow:
            if not await uow.chores.is_due(routines.keys()):
                break
        async with services.units_of_work.begin(System()) as uow:
            chore = await uow.chores.claim(routines.keys(), worker, CLAIM_LASTS)
            if chore is not None and chore.has_killed:
                uow.chores.failed(chore, worker, VANISHED)
            await uow.commit()
        if chore is None:
            break
        if chore.has_killed:
            watcher.failed(chore, VANISHED)
            continue
        routine = routines[chore.name]
        began = time.monotonic()
        end_of_turn = began + TURN

        def is_over(end_of_turn: float = end_of_turn) -> bool:
            return stopping() or time.monotonic() >= end_of_turn

        try:
            count = await routine.do(services, is_over)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is noted, and the others are done
            watcher.failed(chore, error)
            async with services.units_of_work.begin(System()) as uow:
                uow.chores.failed(chore, worker, f"{type(error).__name__}: {error}")
                await uow.commit()
            continue
        async with services.units_of_work.begin(System()) as uow:
            uow.chores.done(chore.name, worker, timedelta() if is_over() else routine.every)
            await uow.commit()
        watcher.done(chore.name, count, time.monotonic() - began)
        done += 1
    return done
