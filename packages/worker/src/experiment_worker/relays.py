"""Relays beside the actors: one task for each sink of events, of which one in all workers leads."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from structlog import get_logger

from experiment_domain import Services
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.relays import EventSink, SinkAway
from experiment_domain.usecases.relaying import Relay, RelayWatcher
from experiment_worker.metrics import METRICS

LOOKS_EVERY = 4.0
"""Seconds between two looks at who leads."""

log = get_logger(__name__)


class Leads:
    """Whether this process leads, as it was a moment ago: the question blocks, and need not be asked all the time."""

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._holds = holds
        self._answer = False
        self._look_at = 0.0

    async def __call__(self) -> bool:
        """Look, if it is time to."""
        if time.monotonic() >= self._look_at:
            self._answer = await asyncio.to_thread(self._holds)
            self._look_at = time.monotonic() + LOOKS_EVERY
        return self._answer


class _Log(RelayWatcher):
    def relayed(self, sink: str, count: int) -> None:
        METRICS.relayed(sink, count)
        log.debug("events relayed", sink=sink, count=count)

    def held_up(self, sink: str, error: Exception) -> None:
        METRICS.held_up(sink)
        if isinstance(error, SinkAway | Unavailable):
            log.warning("events wait for their sink", sink=sink, cause=str(error))
        else:
            log.error("a relay broke off", sink=sink, exc_info=error)


@asynccontextmanager
async def relaying(
    services: Services, sinks: Mapping[str, EventSink], holds: Mapping[str, Callable[[], bool]]
) -> AsyncGenerator[None]:
    """Relay to each of the sinks, while this process `holds` the lead in it, until the block ends."""
    tasks = [
        asyncio.create_task(Relay(services, name, sink).run(leads=Leads(holds[name]), watcher=_Log()))
        for name, sink in sinks.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sink in sinks.values():
            await sink.close()
