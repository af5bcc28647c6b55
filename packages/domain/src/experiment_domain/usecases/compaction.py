"""Compaction as a chore of the service: pile by pile, each step a transaction, so that it can end anywhere."""

from collections.abc import Callable
from datetime import datetime, timedelta

from experiment_domain.kernel.access import System
from experiment_domain.telemetry.compaction import Pile
from experiment_domain.usecases.services import Services

LAG = timedelta(minutes=1)
"""How long batches are left as they came: who reads them live, and lost the connection, goes on batch by batch."""
QUIET = timedelta(minutes=10)
"""When no batch has come for so long, those that are there are merged however few they are."""
LEAST = 64
PILES = 100
RECEIPTS = 5_000
"""The most receipts that one transaction puts away."""


async def compact_telemetry(
    services: Services,
    is_over: Callable[[], bool],
    *,
    lag: timedelta = LAG,
    quiet: timedelta = QUIET,
    least: int = LEAST,
) -> int:
    """Merge small chunks and put receipts away, the largest piles first; how many chunks and receipts are gone."""
    now = services.clock.now()
    async with services.units_of_work.begin(System()) as uow:
        piles = await uow.compaction.piles(before=now - lag, settled=now - quiet, least=least, limit=PILES)
    gone = 0
    for pile in piles:
        if is_over():
            break
        gone += await _compact(services, pile, before=now - lag, is_over=is_over)
    return gone


async def _compact(services: Services, pile: Pile, *, before: datetime, is_over: Callable[[], bool]) -> int:
    async with services.units_of_work.begin(System()) as uow:
        pile = await uow.compaction.hold(pile)
        await uow.commit()
    gone, last = 0, 1
    while last and not is_over():
        async with services.units_of_work.begin(System()) as uow:
            last = await uow.compaction.merge(pile)
            await uow.commit()
        gone += last
    if last:
        return gone  # the receipts tell that there is more to do
    last = RECEIPTS
    while last == RECEIPTS and not is_over():
        async with services.units_of_work.begin(System()) as uow:
            last = await uow.compaction.put_away(pile, before=before, most=RECEIPTS)
            await uow.commit()
        gone += last
    return gone
