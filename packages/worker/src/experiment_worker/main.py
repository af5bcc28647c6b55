"""The worker's program: settings → ports → actors and their schedule, until it is told to stop."""

import os
import signal
import sys
import threading
from contextlib import AsyncExitStack

from dramatiq import Worker
from dramatiq.asyncio import get_event_loop_thread
from structlog import get_logger

from experiment_adapters.compose import composed
from experiment_adapters.settings import Settings, SettingsError
from experiment_domain import Refusal
from experiment_worker.actors import Actors
from experiment_worker.brokers import broker_of
from experiment_worker.schedule import Schedule

THREADS = 4
HOUR = 3600.0

log = get_logger(__name__)


def main() -> None:
    """Work until SIGTERM or SIGINT; what is being done then is finished."""
    try:
        settings = Settings.from_environment(os.environ)
        run(settings)
    except (SettingsError, Refusal) as error:
        sys.exit(f"experiment-service worker: {error}")


def run(settings: Settings) -> None:
    """Work with these settings."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    broker = broker_of(settings.redis_url)
    worker = Worker(broker, worker_threads=THREADS)
    worker.start()
    try:
        loop = get_event_loop_thread()
        assert loop is not None  # noqa: S101 - the AsyncIO middleware has just started it
        stack = AsyncExitStack()
        # The pool belongs to the event loop on which the actors run.
        composition = loop.run_coroutine(stack.enter_async_context(composed(settings)))
        try:
            actors = Actors.on(broker, composition.services)
            log.info("worker started", redis=settings.redis_url is not None)
            Schedule({actors.forget_first_answers.send: HOUR}).run(stop)
            worker.pause()
            worker.join()
        finally:
            loop.run_coroutine(stack.aclose())
    finally:
        worker.stop()
        broker.close()
        log.info("worker stopped")
