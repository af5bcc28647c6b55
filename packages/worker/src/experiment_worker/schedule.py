"""The schedule: nudges at intervals, given by one process at a time. Two may do it at once, and nothing comes of it."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from structlog import get_logger

from experiment_worker.brokers import BROKER_AWAY

Nudge = Callable[[], Any]
LOOKS_EVERY = 4.0
"""Seconds between two looks at who gives the nudges: so soon another one takes over."""

log = get_logger(__name__)


def _alone() -> bool:
    return True


class Schedule:
    """Nudges and the seconds between them; each is given for the first time at once.

    `leads` tells whether it is this process that gives them.
    """

    def __init__(
        self,
        nudges: Mapping[Nudge, float],
        clock: Callable[[], float] = time.monotonic,
        leads: Callable[[], bool] = _alone,
    ) -> None:
        self._nudges = nudges
        self._clock = clock
        self._leads = leads
        self._led = False
        self._look_at = clock()
        self._due = dict.fromkeys(nudges, clock())

    def run(self, stop: threading.Event) -> None:
        """Nudge until `stop` is set."""
        while not stop.wait(self.tick()):
            pass

    def tick(self) -> float:
        """Give the nudges that are due, and tell how many seconds there are until there is something to do."""
        if self._clock() >= self._look_at:
            self._look()
        if self._led:
            self._give()
        until = min(self._look_at, *self._due.values()) if self._led else self._look_at
        return max(0.0, until - self._clock())

    def _look(self) -> None:
        leads = self._leads()
        if leads != self._led:
            log.info("gives the nudges" if leads else "gives no nudges any more")
        self._led = leads
        self._look_at = self._clock() + LOOKS_EVERY

    def _give(self) -> None:
        now = self._clock()
        for nudge, due in self._due.items():
            if due <= now:
                self._due[nudge] = now + self._nudges[nudge]
                try:
                    nudge()
                except BROKER_AWAY as error:
                    # The rows are still there: the next nudge finds them.
                    log.warning("the broker is away; a nudge was lost", cause=type(error).__name__)
