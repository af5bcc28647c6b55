"""The spool at the edge: what is answered to batches that wait, how they are drained, and what is told of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import structlog
from litestar import Litestar
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from experiment_domain.kernel.access import Caller
from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.spool import Promise, Spool, SpoolFull, WaitingBatch
from experiment_domain.telemetry.batches import Batch
from experiment_domain.usecases import Services
from experiment_domain.usecases.spooling import Kept, Reception, Spooled, drain_spool
from experiment_http.answers import Answer, One, View
from experiment_http.causes import cause_of
from experiment_http.idempotency import Answers, Attempt

T = TypeVar("T")

LOOKING = 0.25
"""Seconds between two looks whether something waits."""
LONGEST_PAUSE = 4.0
"""The most seconds between two tries while the database is away."""

log = structlog.get_logger("experiment_http.spool")


class SpooledView(View, frozen=True):
    """What became of a batch while the database is away: it is durable, and is stored when the database is back."""

    example: ClassVar[Mapping[str, Any]] = {
        "accepted": 2,
        "spooled": True,
        "capture_session_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
    }

    accepted: int
    spooled: bool
    capture_session_id: UUID | None


def spooled_view(spooled: Spooled) -> SpooledView:
    """The view of a batch that waits."""
    return SpooledView(accepted=spooled.accepted, spooled=True, capture_session_id=spooled.capture_session_id)


SPOOLED = One(view=SpooledView, of=spooled_view, status=202)


class Spooling:
    """Batches that wait, in one process of the API: taken in, drained in the background, and counted."""

    def __init__(self, services: Services, spool: Spool, registry: CollectorRegistry) -> None:
        self.reception = Reception(services, spool)
        self._services = services
        self._spool = spool
        registry.register(SpoolGauges(self.reception, services))
        self._kept = Counter("experiment_spool_kept", "Batches that this process kept in the spool.", registry=registry)
        self._rejected = Counter(
            "experiment_spool_rejected", "Batches that the spool had no room or no time for.", registry=registry
        )
        self._drained = Counter(
            "experiment_spool_drained",
            "Batches that this process took out of the spool: stored, or refused and set aside.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("stored", "refused"):
            self._drained.labels(outcome)  # at zero from the beginning

    async def answer(
        self,
        caller: Caller,
        batch: Batch,
        store: Callable[[], Awaitable[Answer]],
        answers: Answers,
        attempt: Attempt | None,
    ) -> Answer:
        """What `store` answers, or, while the database is away, that the batch waits."""

        def promise(spooled: Spooled) -> Promise | None:
            if attempt is None:
                return None
            return answers.promise(attempt, SPOOLED.answer(spooled, str), self._services.clock.now())

        found = await self.receive(caller, [batch], store, promise)
        if not isinstance(found, Kept):
            return found
        (outcome,) = found.outcomes
        if isinstance(outcome, Refusal):
            raise outcome
        if isinstance(outcome, Promise):
            assert attempt is not None  # noqa: S101 - a promise is only made to who has a key
            return answers.promised(attempt, outcome)
        return SPOOLED.answer(outcome, str)

    async def receive(
        self,
        caller: Caller,
        batches: Sequence[Batch],
        store: Callable[[], Awaitable[T]],
        promise: Callable[[Spooled], Promise | None] = lambda _: None,
    ) -> T | Kept:
        """What `store` answers, or, while the database is away, what became of each batch."""
        found = await self.reception.receive(caller, batches, store, promise)
        if isinstance(found, Kept):
            self._kept.inc(sum(isinstance(outcome, Spooled) for outcome in found.outcomes))
            self._rejected.inc(sum(isinstance(outcome, SpoolFull) for outcome in found.outcomes))
        return found

    @asynccontextmanager
    async def lasting(self, _app: Litestar) -> AsyncGenerator[None]:
        """Drain in the background until the block ends."""
        draining = asyncio.create_task(self._drain())
        try:
            yield
        finally:
            draining.cancel()
            with suppress(asyncio.CancelledError):
                await draining

    async def _drain(self) -> None:
        pause = LOOKING
        while True:
            await asyncio.sleep(pause)
            if self._spool.is_empty:
                pause = LOOKING
                continue
            try:
                await drain_spool(self._services, self._spool, drained=self._count, failed=_log_failure)
                pause = LOOKING
            except Unavailable as error:
                pause = min(pause * 2, LONGEST_PAUSE)
                log.warning("spool waits", pause=pause, **self._waiting(), **cause_of(error))
            except Exception as error:
                pause = LONGEST_PAUSE
                log.exception("spool not drained", exc_info=error)

    def _count(self, stored: int, refused: int) -> None:
        self.reception.ask_again()
        self._drained.labels("stored").inc(stored)
        self._drained.labels("refused").inc(refused)
        log.info("spool drained", stored=stored, refused=refused, **self._waiting())

    def _waiting(self) -> Mapping[str, Any]:
        return {"batches": self.reception.status().batches}


class SpoolGauges(Collector):
    """What waits in the spool of this machine, asked for when it is looked at."""

    def __init__(self, reception: Reception, services: Services) -> None:
        self._reception = reception
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        status = self._reception.status()
        oldest_at, now = status.oldest_at, self._services.clock.now()
        age = 0.0 if oldest_at is None else max(0.0, (now - oldest_at).total_seconds())
        for name, meaning, value in (
            ("batches", "Batches that wait in the spool of this machine.", status.batches),
            ("bytes", "The room that the spool takes.", status.bytes),
            ("oldest_seconds", "For how long the oldest batch has waited.", age),
            (
                "refused",
                "Batches that were refused when they were drained, and lie where an operator finds them.",
                status.refused,
            ),
            ("full", "1 where the spool takes nothing more.", float(status.is_full)),
        ):
            yield GaugeMetricFamily(f"experiment_spool_{name}", meaning, value=value)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The same: asked once, so that no other metric takes these names."""
        return self.collect()


def _log_failure(waiting: WaitingBatch, error: Exception) -> None:
    log.error("spooled batch failed", sensor_id=str(waiting.sensor_id), number=waiting.number, exc_info=error)
