"""The worker's program: settings → ports → relays, actors and their schedule, until it is told to stop."""

import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing

from dramatiq import Actor, Broker, Worker
from structlog import get_logger

from experiment_adapters.compose import Composition, composed, event_sinks
from experiment_adapters.logs import configure_logs
from experiment_adapters.postgres.leadership import Leadership
from experiment_adapters.settings import PREFIX, Settings, SettingsError
from experiment_worker.actors import actors_of
from experiment_worker.brokers import broker_of
from experiment_worker.metrics import looking, told
from experiment_worker.relays import relaying
from experiment_worker.schedule import Schedule
from experiment_worker.work import WORK

THREADS = sum(kind.at_once for kind in WORK.values()) + 2
"""One for all that may be worked on at once, and some to pass over further nudges meanwhile."""
FINISHING = 10_000
"""Milliseconds that running work has to end when the worker is asked to stop."""
RELAY_SILENT_FOR = 60.0
"""Seconds after which a relay that does not ask whether it leads does not; one that waits for its sink asks later."""

log = get_logger(__name__)


def main() -> None:
    """Work until SIGTERM or SIGINT; what is being done then is finished."""
    try:
        settings = Settings.from_environment(os.environ)
        configure_logs(settings.log)
        run(settings)
    except SettingsError as error:
        sys.exit(f"experiment-service worker: {error}")


def run(settings: Settings) -> None:
    """Work with these settings. Raises `SettingsError` before anything is started."""
    composition = composed(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    broker = broker_of(settings.redis_url, _opened(composition, settings))
    actors = actors_of(broker, composition.services, WORK, stop.is_set)
    worker = Worker(broker, worker_threads=THREADS)
    with ExitStack() as stack:
        try:
            stack.enter_context(told(settings.worker.metrics_host, settings.worker.metrics_port))
        except OSError as error:
            problem = f"cannot be listened on: {error.strerror or error}"
            raise SettingsError(f"{PREFIX}WORKER_METRICS_PORT", problem) from error
        _work(settings, broker, worker, actors, stop)


def _work(
    settings: Settings, broker: Broker, worker: Worker, actors: Mapping[str, Actor[[], None]], stop: threading.Event
) -> None:
    """Give nudges until it is time to stop, and let what they led to end."""
    worker.start()
    try:
        log.info("worker started", redis=settings.redis_url is not None)
        if settings.secret_key is None:
            log.warning("webhooks wait: EXPERIMENT_SECRET_KEY is not set, and nothing can be signed")
        nudges = {actors[name].send: kind.every for name, kind in WORK.items()}
        with closing(Leadership(settings.need_database(), "schedule")) as leadership:
            if settings.redis_url is None:  # then nobody else nudges the actors of this process
                Schedule(nudges).run(stop)
            else:
                Schedule(nudges, leads=leadership.holds).run(stop)
    finally:
        # Not `join` before it: that waits for whatever else is nudged meanwhile.
        worker.stop(timeout=FINISHING)
        broker.close()
        log.info("worker stopped")


@asynccontextmanager
async def _opened(composition: Composition, settings: Settings) -> AsyncGenerator[None]:
    """The database, and the relays, which need no nudges."""
    sinks = event_sinks(settings)
    with ExitStack() as stack:
        leaderships = {
            name: Leadership(settings.need_database(), f"relay to {name}", silent_for=RELAY_SILENT_FOR)
            for name in sinks
        }
        holds = {name: stack.enter_context(closing(each)).holds for name, each in leaderships.items()}
        services = composition.services
        async with (
            composition.database.opened(),
            relaying(services, sinks, holds),
            looking(services, sinks, is_told=settings.worker.metrics_port > 0),
        ):
            yield
