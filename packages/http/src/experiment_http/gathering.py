"""Batches of requests that are under way at the same time: one transaction stores as many as wait for it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import structlog
from attrs import field, frozen

from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.telemetry.store import Offer
from experiment_domain.usecases import Services
from experiment_domain.usecases.telemetry import Accepted

TOGETHER = 64
READINGS = 50_000
COLUMNS = 512
"""A transaction has so many batches at most, and with this many readings or columns it takes no further one.

A column takes as long as hundreds of readings, and nobody else is answered meanwhile.
"""
AT_ONCE = 4
"""How many transactions are under way, at most: a further one only where as much waits for it as it has room for."""

log = structlog.get_logger("experiment_http.gathering")


@frozen(eq=False)
class Waiting:
    """A batch that is to be stored, and what becomes of it."""

    offer: Offer
    outcome: "asyncio.Future[Accepted | None]" = field(factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def key(self) -> tuple[bytes, str]:
        """What no two batches of one transaction have in common."""
        return self.offer.token_hash, self.offer.batch.key


class Gathering:
    """Stores batches of many sensors together: what a transaction costs is nearly the same for one and for many.

    What comes in while one is under way is gathered for the next one.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: deque[Waiting] = deque()
        self._storing: set[asyncio.Task[None]] = set()
        self._beginning: asyncio.Task[None] | None = None

    async def store(self, offer: Offer) -> Accepted | None:
        """What became of a batch; None where nothing did, and it is to be stored by itself.

        Raises `Unavailable` where the database is away.
        """
        waiting = Waiting(offer)
        self._waiting.append(waiting)
        self._begin()
        return await waiting.outcome

    def _begin(self) -> None:
        """Begin a transaction, if one is due; it takes what waits when it runs, which may be more than now."""
        if self._beginning is not None or not self._waiting:
            return
        if not self._storing or (len(self._storing) < AT_ONCE and self._fills_one()):
            self._beginning = asyncio.create_task(self._store())
            self._storing.add(self._beginning)
            self._beginning.add_done_callback(self._end)

    def _end(self, storing: asyncio.Task[None]) -> None:
        self._storing.discard(storing)
        if storing is self._beginning:  # broken off before it took anything
            self._beginning = None
        self._begin()

    def _fills_one(self) -> bool:
        waiting = [one.offer.batch for one in self._waiting]
        return (
            len(waiting) >= TOGETHER
            or sum(map(len, waiting)) >= READINGS
            or sum(len(batch.columns) for batch in waiting) >= COLUMNS
        )

    async def _store(self) -> None:
        together, self._beginning = self._next(), None
        self._begin()  # another one, of what is left
        outcomes: Sequence[Accepted | Unavailable | None]
        try:
            async with self._services.begin(System()) as work:
                outcomes = await work.telemetry.ingest_at_once([one.offer for one in together])
        except Unavailable as unavailable:
            # Whoever waits for the next transaction would only wait for as long again.
            together += self._waiting
            self._waiting.clear()
            outcomes = [unavailable] * len(together)
        except Refusal:
            outcomes = [None] * len(together)  # what is refused by itself leaves the others as they are
        except Exception as error:
            log.exception("batches_not_stored_together", batches=len(together), exc_info=error)
            outcomes = [None] * len(together)
        for one, outcome in zip(together, outcomes, strict=True):
            _tell(one, outcome)

    def _next(self) -> list[Waiting]:
        """The batches that have waited longest, for one transaction."""
        together: dict[tuple[bytes, str], Waiting] = {}
        readings = columns = 0
        while self._waiting and len(together) < TOGETHER and readings < READINGS and columns < COLUMNS:
            if self._waiting[0].key in together:
                break
            one = self._waiting.popleft()
            together[one.key] = one
            readings += len(one.offer.batch)
            columns += len(one.offer.batch.columns)
        return list(together.values())


def _tell(waiting: Waiting, outcome: Accepted | Unavailable | None) -> None:
    with suppress(asyncio.InvalidStateError):  # who waited for it has gone
        if isinstance(outcome, Unavailable):
            waiting.outcome.set_exception(outcome)
        else:
            waiting.outcome.set_result(outcome)
