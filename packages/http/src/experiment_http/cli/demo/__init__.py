"""`up --demo`: a thermocouple rig that is set up once and records as long as `up` runs."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment_http.cli.demo.furnace import LiveFurnace
from experiment_http.cli.demo.rig import DemoRig, batch
from experiment_http.cli.demo.tour import tour
from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.remote import Refused, Remote, Unreachable

PERIOD_MICROS = 1_000_000
UNSENT = 600
"""How many batches are kept while the API does not answer."""


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
        while not self._stop.wait(furnace.seconds_until_next()):
            unsent = [*unsent[-UNSENT:], batch(session_id, furnace.next())]
            try:
                while unsent:
                    answer = self._remote.send_readings(rig["sensor_token"], unsent[0])
                    del unsent[0]
                    if answer["late"]:
                        raise CommandFailed("its capture session was stopped")
            except Unreachable:
                continue  # the API is being started again, perhaps
            except (Refused, CommandFailed) as reason:
                print(f"the demo records no more: {reason}", file=sys.stderr)
                return
