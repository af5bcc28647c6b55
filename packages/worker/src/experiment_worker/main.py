"""The worker's program: settings → ports → actors and their schedule, until it is told to stop."""

import os
import signal
import sys
import threading

from dramatiq import Worker
from structlog import get_logger

from experiment_adapters.compose import composed
from experiment_adapters.logs import configure_logs
from experiment_adapters.settings import Settings, SettingsError
from experiment_worker.actors import Actors
from experiment_worker.brokers import broker_of
from experiment_worker.schedule import Schedule

THREADS = 4
HOUR = 3600.0
FINISHING = 10_000
"""Milliseconds that running work has to end when the worker is asked to stop."""

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
    broker = broker_of(settings.redis_url, composition.database.opened())
    actors = Actors.on(broker, composition.services)
    worker = Worker(broker, worker_threads=THREADS)
    worker.start()
    try:
        log.info("worker started", redis=settings.redis_url is not None)
        Schedule({actors.forget_first_answers.send: HOUR, actors.forget_signs_of_life.send: HOUR}).run(stop)
    finally:
        # Not `join` before it: that waits for retries as well, which are due some time and perhaps never.
        worker.stop(timeout=FINISHING)
        broker.close()
        log.info("worker stopped")
