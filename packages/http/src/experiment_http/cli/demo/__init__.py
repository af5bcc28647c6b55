"""`up --demo`: a thermocouple rig that is set up once and records as long as `up` runs."""

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment_http.cli.demo.furnace import LiveFurnace
from experiment_http.cli.demo.rig import DemoRig, batch
from experiment_http.cli.demo.tour import tour
from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.remote import Refused, Remote, Unreachable

UNSENT = 600
"""How many batches are kept while the API does not take them."""
PAUSES = (1.0, 2.0, 5.0, 15.0)
"""Seconds between attempts while it does not."""


class Demo:
    """The demo of one data directory."""

    def __init__(self, url: str, token: str, data_dir: Path) -> None:
        self._remote = Remote(url, token)
        self._token = token
        self._rig = DemoRig(self._remote, data_dir / "demo.json")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Set the rig up where it is not, go on recording, and tell what to try."""
        recorded = self._rig.set_up()
        live = self._rig.live_session()
        if live is not None:
            self._thread = threading.Thread(target=self._feed, args=(recorded, live), name="demo", daemon=True)
            self._thread.start()
        return tour(self._remote.url, self._token, recorded, live)

    def stop(self) -> None:
        """Stop recording; the session stays open for the next time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._remote.close()

    def _feed(self, rig: Mapping[str, Any], session_id: str) -> None:
        furnace = LiveFurnace()
        unsent: list[bytes] = []
        failures, due_at = 0, 0.0
        while not self._stop.wait(furnace.seconds_until_next()):
            unsent = [*unsent[-UNSENT:], batch(session_id, furnace.next())]
            if time.monotonic() < due_at:
                continue
            try:
                while unsent and not self._stop.is_set():
                    answer = self._remote.send_readings(rig["sensor_token"], unsent[0])
                    del unsent[0]
                    if answer["late"]:
                        raise CommandFailed("its capture session was stopped")
            except CommandFailed as reason:
                passing = isinstance(reason, Unreachable) or (isinstance(reason, Refused) and reason.is_passing)
                if not passing:
                    self._complain(f"the demo records no more: {reason}")
                    return
                if not failures:
                    self._complain(f"the demo's readings wait: {reason}")
                due_at = time.monotonic() + PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
            else:
                failures = 0

    def _complain(self, text: str) -> None:
        # While everything is being stopped, that the API does not answer is no news.
        if not self._stop.is_set():
            print(text, file=sys.stderr, flush=True)
