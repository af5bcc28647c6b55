"""Batches of requests that are under way at the same time: one transaction stores as many as wait for it."""

import asyncio
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
"""How many transactions are under way, at most."""
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

    What comes in while one is under way is gathered for the next one. A further one begins beside it with as many as it
    has room for, or with half of the batches that there are at once of late: while one half is with the database, the
    other one is with us.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: deque[Waiting] = deque()
        self._amount = Amount()  # of what waits
        self._here = 0  # how many batches wait or are being stored
        self._expected = float(TOGETHER * AT_ONCE)  # at once; until it is known better
        self._under_way = 0
        self._beginning: asyncio.Task[None] | None = None

    async def store(self, offer: Offer) -> Accepted | None:
        """What became of a batch; None where nothing did, and it is to be stored by itself.

        Raises `Unavailable` where the database is away.
        """
        waiting = Waiting(offer)
        self._waiting.append(waiting)
        self._amount.add(offer.batch)
        self._here += 1
        if self._is_due_beside_others:
            # Here and now: a task would run after all requests that have arrived, and take their batches as well.
            # If who stores for the others goes away, each of them stores by itself.
            await self._store()
        else:
            self._begin()
        return await waiting.outcome

    @property
    def _is_due_beside_others(self) -> bool:
        """Whether enough waits for a transaction beside others, and there is room for one."""
        is_enough = self._amount.fills_one or self._amount.batches >= self._expected / 2
        return is_enough and self._under_way < AT_ONCE

    @property
    def _is_due(self) -> bool:
        """Whether a transaction is to begin: beside others, or because there is none."""
        return bool(self._waiting) and (self._is_due_beside_others or not self._under_way)

    def _begin(self) -> None:
        """Begin a transaction, if one is due; it takes what waits when it runs."""
        if self._beginning is None and self._is_due:
            self._beginning = asyncio.create_task(self._store_soon())
            self._beginning.add_done_callback(self._end)

    def _end(self, beginning: asyncio.Task[None]) -> None:
        if beginning is self._beginning:  # broken off before it took anything
            self._beginning = None
            self._begin()

    async def _store_soon(self) -> None:
        self._beginning = None
        if self._is_due:
            await self._store()

    async def _store(self) -> None:
        together = self._next()
        self._under_way += 1
        self._begin()  # another one, of what is left
        # Unless all is well in the end, nothing is said to have become of them: each is then stored by itself.
        outcomes: Sequence[Accepted | Unavailable | None] = [None] * len(together)
        try:
            async with self._services.begin(System()) as work:
                found = await work.telemetry.ingest_at_once([one.offer for one in together])
            outcomes = found
        except Unavailable as unavailable:
            # Whoever waits for the next transaction would only wait for as long again.
            together += self._waiting
            self._waiting.clear()
            self._amount = Amount()
            outcomes = [unavailable] * len(together)
        except Refusal:
            pass  # what is refused by itself leaves the others as they are
        except Exception as error:
            log.exception("batches_not_stored_together", batches=len(together), exc_info=error)
        finally:
            self._expected = max(self._here, (1 - FORGOTTEN) * self._expected)
            self._here -= len(together)
            self._under_way -= 1
            for one, outcome in zip(together, outcomes, strict=True):
                _tell(one, outcome)
            self._begin()

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
            waiting.outcome.exception()  # or asyncio complains of it, where who stored for others has gone meanwhile
        else:
            waiting.outcome.set_result(outcome)
