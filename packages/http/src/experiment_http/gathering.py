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
"""A transaction has so many batches at most, and with more readings than these it takes no further one."""
AT_ONCE = 2
"""How many transactions are under way, at most."""

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

    What comes in while one is begun is gathered for the next one, which begins when this one is only to be committed:
    one is in the hands of the database then, and one in ours.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: deque[Waiting] = deque()
        self._gathering: asyncio.Task[None] | None = None
        self._storing: set[asyncio.Task[None]] = set()

    async def store(self, offer: Offer) -> Accepted | None:
        """What became of a batch; None where nothing did, and it is to be stored by itself.

        Raises `Unavailable` where the database is away.
        """
        waiting = Waiting(offer)
        self._waiting.append(waiting)
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await waiting.outcome

    async def _gather(self) -> None:
        while self._waiting:
            if len(self._storing) == AT_ONCE:
                await asyncio.wait(self._storing, return_when=asyncio.FIRST_COMPLETED)
                continue
            is_begun = asyncio.Event()
            storing = asyncio.create_task(self._store(self._next(), is_begun))
            self._storing.add(storing)
            storing.add_done_callback(self._storing.discard)
            await is_begun.wait()

    async def _store(self, together: Sequence[Waiting], is_begun: asyncio.Event) -> None:
        outcomes: Sequence[Accepted | Unavailable | None]
        try:
            async with self._services.begin(System()) as work:
                outcomes = await work.telemetry.ingest_at_once([one.offer for one in together])
                is_begun.set()
        except Unavailable as unavailable:
            # Whoever waits for the next transaction would only wait for as long again.
            together = [*together, *self._waiting]
            self._waiting.clear()
            outcomes = [unavailable] * len(together)
        except Refusal:
            outcomes = [None] * len(together)  # what is refused by itself leaves the others as they are
        except Exception as error:
            log.exception("batches_not_stored_together", batches=len(together), exc_info=error)
            outcomes = [None] * len(together)
        finally:
            is_begun.set()
        for one, outcome in zip(together, outcomes, strict=True):
            _tell(one, outcome)

    def _next(self) -> list[Waiting]:
        """The batches that have waited longest, for one transaction."""
        together: dict[tuple[bytes, str], Waiting] = {}
        readings = 0
        while self._waiting and len(together) < TOGETHER and readings < READINGS:
            if self._waiting[0].key in together:
                break
            one = self._waiting.popleft()
            together[one.key] = one
            readings += len(one.offer.batch)
        return list(together.values())


def _tell(waiting: Waiting, outcome: Accepted | Unavailable | None) -> None:
    with suppress(asyncio.InvalidStateError):  # who waited for it has gone
        if isinstance(outcome, Unavailable):
            waiting.outcome.set_exception(outcome)
        else:
            waiting.outcome.set_result(outcome)
