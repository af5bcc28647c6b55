"""Working off what is queued: one unit of work after the other, so that whatever ends it in between loses nothing."""

import time
from collections.abc import Callable
from uuid import UUID

from experiment_domain.backfills import Backfill, BackfillStatus
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.telemetry.layers import Portion
from experiment_domain.usecases.backfills import USUAL
from experiment_domain.usecases.services import Services

TURN = 2.0
"""Seconds after which a backfill that is not done makes way for the others that wait."""


async def work_off_backfills(
    services: Services,
    *,
    seconds: float = 60.0,
    turn: float = TURN,
    stopping: Callable[[], bool] = lambda: False,
    portion: Portion = USUAL,
    failed: Callable[[Backfill, Exception], object] = lambda _backfill, _error: None,
) -> int:
    """Work on backfills until none is due, `seconds` are over, or it is `stopping`; how many came to an end.

    They take turns: one that is not done after `turn` seconds waits until the others have had theirs. `failed` hears
    of errors of the work itself. Raises `Unavailable` where the database is away: whatever was claimed can be claimed
    again after a while.
    """
    worker = services.ids.new()
    deadline = time.monotonic() + seconds
    ended = 0

    def is_over() -> bool:
        return stopping() or time.monotonic() >= deadline

    while not is_over():
        async with services.begin(System()) as work:
            backfill = await work.backfills.claim(worker)
        if backfill is None:
            break
        turn_ends = time.monotonic() + turn
        while backfill is not None and backfill.status is BackfillStatus.RUNNING:
            backfill = await _stepped(services, backfill, worker, portion, failed)
            if is_over() or time.monotonic() >= turn_ends:
                break
        if backfill is not None and backfill.status is BackfillStatus.RUNNING:
            async with services.begin(System()) as work:
                await work.backfills.leave(backfill.id, worker)
        ended += backfill is not None and not backfill.is_active
    return ended


async def _stepped(
    services: Services,
    backfill: Backfill,
    worker: UUID,
    portion: Portion,
    failed: Callable[[Backfill, Exception], object],
) -> Backfill | None:
    try:
        async with services.begin(System()) as work:
            return await work.backfills.step(backfill, worker, portion=portion)
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is noted, and the others are worked on
        failed(backfill, error)
        said = f"{type(error).__name__}: {error}"
        async with services.begin(System()) as work:
            return await work.backfills.stumble(backfill.id, worker, said)
