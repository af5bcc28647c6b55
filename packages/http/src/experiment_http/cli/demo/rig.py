"""Sets the demo up through the public API, step by step; what is done is written down and not done again."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec

from experiment_domain.conversions.its90 import TYPE_K_INVERSE
from experiment_http.cli.demo.furnace import SECONDS, SIGNALS, Readings, heating
from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.remote import Refused, Remote

_MICROSECONDS = 1_000_000


def batch(session_id: str, readings: Readings) -> bytes:
    """The body of a request that sends `readings`."""
    columns = [
        {"signal": signal, "timestamps": stamps.tolist(), "values": values.tolist()}
        for signal, (stamps, values) in readings.items()
    ]
    return msgspec.json.encode({"capture_session_id": session_id, "columns": columns})


class DemoRig:
    """The demo's things in the service. The file is private: it holds the sensor's token."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self._remote = remote
        self._path = path
        self._done: dict[str, Any] = {}

    def set_up(self) -> Mapping[str, Any]:
        """Everything up to the first session, which is over; done once, also if it takes several attempts."""
        self._done = self._load()
        # A repeated creation is known by its key for a day; the mark tells this demo from one elsewhere.
        mark = self._once("mark", lambda: str(uuid4()))
        project_id = self._once("project_id", lambda: self._create("/projects", {"name": "Demo rig"}, mark))
        self._once("sensor_token", lambda: self._register(project_id, mark))
        sensor_id = self._done["sensor_id"]
        self._once("profile_id", lambda: self._calibrate(sensor_id, mark))
        experiment = {
            "project_id": project_id,
            "name": "Furnace qualification",
            "description": "How fast does the sample follow the furnace?",
            "tags": ["demo"],
        }
        experiment_id = self._once("experiment_id", lambda: self._create("/experiments", experiment, mark))
        run = {
            "name": "Heating to 850 °C",
            "params": {"target_celsius": 850, "ramp": "full power"},
            "tags": ["demo", "furnace"],
            "participants": ["demo"],
            "notes": "Recorded with two type K thermocouples.",
        }
        run_id = self._once("run_id", lambda: self._create(f"/experiments/{experiment_id}/runs", run, mark))
        self._once("recorded_session_id", lambda: self._record(run_id, sensor_id, mark))
        return self._done

    def live_session(self) -> str | None:
        """The session to record in from now on; None where the run is over and takes none."""
        kept = self._done.get("live_session_id")
        if kept is not None and self._status(kept) == "running":
            return kept
        path = f"/runs/{self._done['run_id']}/capture-sessions"
        body = {"start": True, "notes": "Holding the temperature."}
        try:
            session_id = self._create(path, body, f"after {kept}", ("running",))
        except Refused as refusal:
            if refusal.status == httpx.codes.CONFLICT:
                return None
            raise
        self._done["live_session_id"] = session_id
        self._save()
        return session_id

    def _register(self, project_id: str, mark: str) -> str:
        sensor = self._remote.create(
            "/sensors",
            {
                "project_id": project_id,
                "name": "Furnace thermocouples",
                "sensor_type": "thermocouple-k",
                "input_unit": "mV",
                "display_unit": "°C",
                "signals": list(SIGNALS),
            },
            identity=mark,
        )
        self._done["sensor_id"] = sensor["id"]
        # A repeated answer may leave out what is shown once.
        return sensor.get("token") or self._remote.act(f"/sensors/{sensor['id']}/rotate-token")["token"]

    def _calibrate(self, sensor_id: str, mark: str) -> str:
        ranges = TYPE_K_INVERSE.ranges
        profile = {
            "kind": "piecewise_polynomial",
            "parameters": TYPE_K_INVERSE.parameters,
            "valid_range": {"min": ranges[0].min, "max": ranges[-1].max},
            "notes": "NIST ITS-90, type K: millivolts to °C, reference junction at 0 °C.",
        }
        path = f"/sensors/{sensor_id}/conversion-profiles"
        profile_id = self._create(path, profile, mark, ("draft", "published"))
        self._remote.act(f"/conversion-profiles/{profile_id}/publish")
        return profile_id

    def _record(self, run_id: str, sensor_id: str, mark: str) -> str:
        begin = self._once("recorded_from", lambda: (int(time.time()) - 2 * SECONDS) * _MICROSECONDS)
        self._remote.put(f"/runs/{run_id}/sensors/{sensor_id}")
        self._remote.act(f"/runs/{run_id}/start")
        body = {"start": True, "notes": "Heating up."}
        session_id = self._create(f"/runs/{run_id}/capture-sessions", body, mark, ("running", "succeeded"))
        self._remote.send_readings(self._done["sensor_token"], batch(session_id, heating(begin)))
        self._remote.act(f"/capture-sessions/{session_id}/stop", {"outcome": "succeeded"})
        return session_id

    def _create(self, path: str, body: Mapping[str, Any], identity: str, statuses: Collection[str] = ()) -> str:
        """Create it once; what has left `statuses` since, if any are named, is left and another one created."""
        return self._remote.create(
            path, body, identity=identity, still=lambda current: not statuses or current["status"] in statuses
        )["id"]

    def _status(self, session_id: str) -> str | None:
        try:
            return self._remote.get(f"/capture-sessions/{session_id}")["status"]
        except Refused as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def _once(self, name: str, do: Callable[[], Any]) -> Any:
        if name not in self._done:
            self._done[name] = do()
            self._save()
        return self._done[name]

    def _load(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise CommandFailed(f"{self._path} is damaged; without it, the demo is set up again") from error

    def _save(self) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._done, file, indent=2)
        Path(name).replace(self._path)
