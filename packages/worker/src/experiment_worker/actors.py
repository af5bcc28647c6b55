"""Actors, one for each kind of work. A message is a nudge: it may be lost, late or doubled."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from dramatiq import Actor, Broker, actor
from structlog import get_logger

from experiment_domain import Services
from experiment_domain.kernel.errors import Unavailable
from experiment_worker.metrics import METRICS
from experiment_worker.work import Kind

PATIENCE = 30.0
"""Seconds beyond its own after which work that hangs is broken off."""

log = get_logger(__name__)


def actors_of(
    broker: Broker, services: Services, work: Mapping[str, Kind], stopping: Callable[[], bool] = lambda: False
) -> Mapping[str, Actor[[], None]]:
    """Declare the actors by the names of their kinds; the broker's workers take them up at once."""
    busy: Counter[str] = Counter()

    def nudged(name: str, kind: Kind) -> Callable[[], Awaitable[None]]:
        async def work_off() -> None:
            # All of this runs on one event loop, so that nothing comes between the question and the answer.
            if busy[name] >= kind.at_once:
                return
            busy[name] += 1
            began, result, count = time.monotonic(), "broken_off", 0
            try:
                async with asyncio.timeout(kind.seconds + PATIENCE):
                    count = await kind.work_off(services, seconds=kind.seconds, stopping=stopping)
            except Unavailable as error:
                result = "unavailable"
                log.warning("the database is away; work waits in its rows", kind=name, cause=error.detail)
            except Exception:  # the rows are still there: the next nudge finds them
                log.exception("work broke off", kind=name)
            else:
                result = "done"
                if count:
                    log.info("worked off", kind=name, count=count)
            finally:
                busy[name] -= 1
                METRICS.ran(name, result, time.monotonic() - began, count)

        return work_off

    return {
        name: actor(nudged(name, kind), actor_name=name, broker=broker)  # pyright: ignore[reportCallIssue] - its types know no coroutines
        for name, kind in work.items()
    }
