"""Batches of requests that are under way at the same time: one transaction stores as many as wait for it."""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import structlog
from attrs import define, field, frozen

from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.telemetry.batches import Batch
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
"""How many transactions are under way, at most: a further one only where nobody is left to wait for."""
FORGOTTEN = 1 / 16
"""With each transaction that sees fewer batches at once, by this part fewer are expected."""

log = structlog.get_logger("experiment_http.gathering")


@define
class Amount:
    """How much there is of batches: counted as they come and go, not over again for each of them."""

    batches: int = 0
    readings: int = 0
    columns: int = 0

    def add(self, batch: Batch, times: int = 1) -> None:
        """Count one; -1 `times` where it goes."""
        self.batches += times
        self.readings += times * len(batch)
        self.columns += times * len(batch.columns)

    @property
    def fills_one(self) -> bool:
        """Whether a transaction takes no more than that."""
        return self.batches >= TOGETHER or self.readings >= READINGS or self.columns >= COLUMNS


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
        self._amount = Amount()  # of what waits
        self._here = 0  # how many batches wait or are being stored
        self._expected = float(TOGETHER * AT_ONCE)  # at once; until it is known better
        self._storing: set[asyncio.Task[None]] = set()
        self._beginning: asyncio.Task[None] | None = None

    async def store(self, offer: Offer) -> Accepted | None:
        """What became of a batch; None where nothing did, and it is to be stored by itself.

        Raises `Unavailable` where the database is away.
        """
        waiting = Waiting(offer)
        self._waiting.append(waiting)
        self._amount.add(offer.batch)
        self._here += 1
        self._begin()
        return await waiting.outcome

    def _begin(self) -> None:
        """Begin a transaction, if one is due; it takes what waits when it runs, which may be more than now.

        Beside others, it is due if it is full, or if just as many wait or are stored as there are at once of late: who
        has sent a batch most often sends the next one when it is answered, and to wait would only leave us idle. Where
        more come than that, nobody knows how many there will be.
        """
        if self._beginning is not None or not self._waiting:
            return
        nobody_is_missing = self._amount.fills_one or self._here == math.ceil(self._expected)
        if not self._storing or (len(self._storing) < AT_ONCE and nobody_is_missing):
            self._beginning = asyncio.create_task(self._store())
            self._storing.add(self._beginning)
            self._beginning.add_done_callback(self._end)

    def _end(self, storing: asyncio.Task[None]) -> None:
        self._storing.discard(storing)
        if storing is self._beginning:  # broken off before it took anything
            self._beginning = None
        self._begin()

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
            self._amount = Amount()
            outcomes = [unavailable] * len(together)
        except Refusal:
            outcomes = [None] * len(together)  # what is refused by itself leaves the others as they are
        except Exception as error:
            log.exception("batches_not_stored_together", batches=len(together), exc_info=error)
            outcomes = [None] * len(together)
        finally:
            self._expected = max(self._here, (1 - FORGOTTEN) * self._expected)
            self._here -= len(together)
        for one, outcome in zip(together, outcomes, strict=True):
            _tell(one, outcome)

    def _next(self) -> list[Waiting]:
        """The batches that have waited longest, for one transaction."""
        together: dict[tuple[bytes, str], Waiting] = {}
        taken = Amount()
        while self._waiting and not taken.fills_one and (one := self._waiting[0]).key not in together:
            together[one.key] = self._waiting.popleft()
            taken.add(one.offer.batch)
            self._amount.add(one.offer.batch, -1)
        return list(together.values())


def _tell(waiting: Waiting, outcome: Accepted | Unavailable | None) -> None:
    with suppress(asyncio.InvalidStateError):  # who waited for it has gone
        if isinstance(outcome, Unavailable):
            waiting.outcome.set_exception(outcome)
        else:
            waiting.outcome.set_result(outcome)
