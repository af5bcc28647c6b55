"""Working off backfills: each step converts some chunks, in a transaction of its own."""

from collections.abc import Callable
from uuid import UUID

from experiment_domain.backfills import Backfill
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.telemetry.layers import Portion
from experiment_domain.usecases.backfills import USUAL
from experiment_domain.usecases.services import Services
from experiment_domain.usecases.working import TURN, take_turns


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

    They take turns of `turn` seconds. `failed` hears of errors of the work itself. Raises `Unavailable` where the
    database is away: whatever was claimed can be claimed again after a while.
    """
    worker = services.ids.new()

    async def claim() -> Backfill | None:
        async with services.begin(System()) as work:
            return await work.backfills.claim(worker)

    async def step(backfill: Backfill) -> Backfill | None:
        return await _stepped(services, backfill, worker, portion, failed)

    async def leave(backfill: Backfill) -> None:
        async with services.begin(System()) as work:
            await work.backfills.leave(backfill.id, worker)

    return await take_turns(claim, step, leave, seconds=seconds, turn=turn, stopping=stopping)


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
