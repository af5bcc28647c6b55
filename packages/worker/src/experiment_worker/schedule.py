"""The schedule: nudges at intervals. Several workers may nudge at once, since every effect is idempotent."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from structlog import get_logger

from experiment_worker.brokers import BROKER_AWAY

Nudge = Callable[[], Any]

log = get_logger(__name__)


class Schedule:
    """Nudges and the seconds between them; each is given for the first time at once."""

    def __init__(self, nudges: Mapping[Nudge, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._nudges = nudges
        self._clock = clock
        self._due = dict.fromkeys(nudges, clock())

    def run(self, stop: threading.Event) -> None:
        """Nudge until `stop` is set."""
        while not stop.wait(self.tick()):
            pass

    def tick(self) -> float:
        """Give the nudges that are due, and tell how many seconds there are until the next."""
        now = self._clock()
        for nudge, due in self._due.items():
            if due <= now:
                self._due[nudge] = now + self._nudges[nudge]
                try:
                    nudge()
                except BROKER_AWAY as error:
                    # The rows are still there: the next nudge finds them.
                    log.warning("the broker is away; a nudge was lost", cause=type(error).__name__)
        return max(0.0, min(self._due.values()) - self._clock())
