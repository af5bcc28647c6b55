"""Run cards: a run of 20 sessions with 8 sensors each, shown in full, and polled by somebody who has it already."""

import asyncio
import http.client
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from load.bench import USER, Bench
from load.http_client import Api
from load.measures import Measure, Row, measured

SESSIONS = 20
SENSORS = 8
READINGS = 1_000
CLIENTS = (1, 2)
SECONDS = 8.0


async def cards(bench: Bench) -> list[Row]:
    """The card as a whole, and the answer that it has not changed."""
    run_id = await _recorded_run(bench.api)
    path = f"/runs/{run_id}/card"
    tag = await asyncio.to_thread(_etag, bench, path)
    rows: list[Row] = []
    kinds = (("in full", {}), ("unchanged", {"If-None-Match": tag}))
    for (kind, headers), clients in product(kinds, CLIENTS):
        measure = Measure()
        request = bench.api.request("GET", path, headers=headers)
        began = time.perf_counter()

        async def client(measure: Measure = measure, request: bytes = request, until: float = 0.0) -> None:
            while time.perf_counter() < until:
                await measured(bench.pool, request, measure)

        seconds = min(bench.seconds, SECONDS)
        await asyncio.gather(*(client(until=began + seconds) for _ in range(clients)))
        what = f"{SESSIONS} sessions × {SENSORS} sensors, {kind}, {clients} at once"
        rows.append(measure.row("cards", what, seconds))
    return rows


def _etag(bench: Bench, path: str) -> str:
    connection = http.client.HTTPConnection(bench.pool.host, bench.pool.port, timeout=30)
    with closing(connection):
        headers = {"Authorization": f"Bearer {bench.up.token(USER)}"}
        connection.request("GET", f"/api/v1{path}", headers=headers)
        return connection.getresponse().headers["ETag"]


async def _recorded_run(api: Api) -> str:
    project = await api.call("POST", "/projects", {"name": "Cards"})
    experiment = await api.call("POST", "/experiments", {"project_id": project["id"], "name": "Cards"})
    run = await api.call("POST", f"/experiments/{experiment['id']}/runs", {"name": "recorded"})
    sensors = [await _bound_sensor(api, project["id"], run["id"], number) for number in range(SENSORS)]
    await api.call("POST", f"/runs/{run['id']}/start")
    start = int((datetime.now(UTC) - timedelta(days=1)).timestamp()) * 1_000_000
    for number in range(SESSIONS):
        session = await api.call("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
        first = start + number * READINGS * 1_000
        stamps = list(range(first, first + READINGS * 1_000, 1_000))
        for place, token in enumerate(sensors):
            values = [place + stamp % 97 / 97 for stamp in stamps]
            batch = {"capture_session_id": session["id"], "columns": [{"timestamps": stamps, "values": values}]}
            await api.bearing(token).call("POST", "/telemetry", batch)
        await api.call("POST", f"/capture-sessions/{session['id']}/stop", {"outcome": "succeeded"})
    return run["id"]


async def _bound_sensor(api: Api, project_id: str, run_id: str, number: int) -> str:
    """The token of a sensor with a profile, bound to the run."""
    values: Mapping[str, Any] = {"sensor_type": "load", "input_unit": "V", "display_unit": "bar"}
    sensor = await api.call("POST", "/sensors", {"project_id": project_id, "name": f"sensor {number}", **values})
    profiles = f"/sensors/{sensor['id']}/conversion-profiles"
    profile = await api.call("POST", profiles, {"kind": "linear", "parameters": {"a": 2.5, "b": -1.0}})
    await api.call("POST", f"/conversion-profiles/{profile['id']}/publish")
    await api.call("PUT", f"/runs/{run_id}/sensors/{sensor['id']}")
    return sensor["token"]
