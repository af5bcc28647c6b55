"""What a worker counts, and where it tells: Prometheus, on a port of its own."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from structlog import get_logger

from experiment_domain import Services, System
from experiment_domain.kernel.errors import Refusal
from experiment_domain.usecases.relaying import lag
from experiment_domain.usecases.webhook_deliveries import Dispatch
from experiment_domain.webhooks.sending import Outcome

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LOOKS_EVERY = 15.0
"""Seconds between two looks at what waits: queries that a worker spares its database where nobody asks for metrics."""

log = get_logger(__name__)


class WorkerMetrics:
    """The numbers of one process. Labels are kinds of work, chores, sinks and results: of each there are a few."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._runs = Counter(
            "experiment_worker_runs",
            "Turns of a kind of work by how they ended: done, unavailable (no database), broken_off.",
            ["kind", "result"],
            registry=registry,
        )
        self._run_seconds = Histogram(
            "experiment_worker_run_duration_seconds",
            "How long turns of a kind of work took; webhooks take turns without an end.",
            ["kind"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._things = Counter(
            "experiment_worker_things",
            "What was done in turns that ended: backfills, exports, chores, attempts to deliver.",
            ["kind"],
            registry=registry,
        )
        self._failures = Counter(
            "experiment_worker_failures",
            "Pieces of work that failed: they are retried, or laid_aside after too many failures.",
            ["kind", "result"],
            registry=registry,
        )
        self._chores = Counter(
            "experiment_worker_chores",
            "Chores by how they ended: done, failed, laid_aside.",
            ["chore", "result"],
            registry=registry,
        )
        self._chore_seconds = Histogram(
            "experiment_worker_chore_duration_seconds",
            "How long chores took that were done.",
            ["chore"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._found = Counter(
            "experiment_worker_chore_things",
            "What chores found and put right: sensors told, sessions and runs failed, deliveries buried, and so on.",
            ["chore"],
            registry=registry,
        )
        self._attempts = Counter(
            "experiment_worker_webhook_attempts",
            "Attempts to deliver to webhooks that were noted, by what came of them: delivered, failed.",
            ["result"],
            registry=registry,
        )
        self._attempt_seconds = Histogram(
            "experiment_worker_webhook_attempt_duration_seconds",
            "How long attempts to deliver took.",
            ["result"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._delay = Histogram(
            "experiment_worker_webhook_delay_seconds",
            "From a delivery's making until its first attempt was noted, where that one succeeded.",
            buckets=BUCKETS,
            registry=registry,
        )
        self._relayed = Counter(
            "experiment_worker_relayed_events", "Events that arrived in a sink.", ["sink"], registry=registry
        )
        self._held_up = Counter(
            "experiment_worker_relay_failures",
            "Times that a relay was held up, by its sink, the database or a fault.",
            ["sink"],
            registry=registry,
        )
        self._lag = Gauge(
            "experiment_worker_relay_lag_seconds",
            "The age of the oldest event that has not arrived in a sink.",
            ["sink"],
            registry=registry,
        )
        self._waiting = Gauge(
            "experiment_worker_waiting",
            "Work that is due and that nobody is at, counted up to 10,000.",
            ["kind"],
            registry=registry,
        )
        self._left_behind = Gauge(
            "experiment_worker_left_behind",
            "Of that, what workers left behind that ended over it.",
            ["kind"],
            registry=registry,
        )

    def ran(self, kind: str, result: str, seconds: float, count: int = 0) -> None:
        """A turn of a kind of work ended."""
        self._runs.labels(kind, result).inc()
        self._run_seconds.labels(kind).observe(seconds)
        self._things.labels(kind).inc(count)

    def failed(self, kind: str, *, laid_aside: bool) -> None:
        """A piece of work failed."""
        self._failures.labels(kind, "laid_aside" if laid_aside else "retried").inc()

    def chore_done(self, name: str, count: int, seconds: float) -> None:
        """A chore was done."""
        self._chores.labels(name, "done").inc()
        self._chore_seconds.labels(name).observe(seconds)
        self._found.labels(name).inc(count)

    def chore_failed(self, name: str, *, laid_aside: bool) -> None:
        """A chore failed."""
        self._chores.labels(name, "laid_aside" if laid_aside else "failed").inc()

    def attempted(self, dispatch: Dispatch, outcome: Outcome, delay: float) -> None:
        """What came of an attempt to deliver was noted, so many seconds after the delivery was made."""
        result = "delivered" if outcome.is_delivered else "failed"
        self._attempts.labels(result).inc()
        self._attempt_seconds.labels(result).observe(outcome.latency)
        if outcome.is_delivered and dispatch.delivery.attempts == 1:
            self._delay.observe(delay)

    def relayed(self, sink: str, count: int) -> None:
        """Events arrived in a sink."""
        self._relayed.labels(sink).inc(count)

    def held_up(self, sink: str) -> None:
        """A relay was held up."""
        self._held_up.labels(sink).inc()

    async def look(self, services: Services, sinks: Collection[str]) -> None:
        """Look at what waits. Raises what the database refuses."""
        async with services.units_of_work.begin(System(), read_only=True) as uow:
            for kind, waiting in (await uow.backlog.waiting()).items():
                self._waiting.labels(kind).set(waiting.count)
                self._left_behind.labels(kind).set(waiting.left_behind)
        for sink in sinks:
            self._lag.labels(sink).set((await lag(services, sink)).total_seconds())


METRICS = WorkerMetrics(CollectorRegistry())
"""Those of this process."""


@contextmanager
def told(host: str, port: int) -> Iterator[None]:
    """Tell them there until the block ends; port 0: nowhere. Raises `OSError` where the port cannot be had."""
    if not port:
        yield
        return
    server, thread = start_http_server(port, host, METRICS.registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def looking(services: Services, sinks: Collection[str], *, is_told: bool) -> AsyncGenerator[None]:
    """Look at what waits again and again, if that is told at all, until the block ends."""
    task = asyncio.create_task(_look(services, sinks)) if is_told else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _look(services: Services, sinks: Collection[str]) -> None:
    while True:
        try:
            await METRICS.look(services, sinks)
        except Refusal as refusal:
            log.warning("what waits could not be counted", cause=refusal.detail)
        except Exception:  # the numbers stay as they were
            log.exception("what waits could not be counted")
        await asyncio.sleep(LOOKS_EVERY)
