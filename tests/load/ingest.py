"""Ingest: as many batches as the service takes, counted back from it afterwards."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from load.bench import Bench
from load.http_client import Api
from load.measures import Measure, Row, measured

CLIENTS = 8
BATCH = 1_000
MOST_PER_SECOND = 60  # bodies per client and second that are made beforehand


async def ingest(bench: Bench) -> list[Row]:
    """One sensor and one session per client; what was accepted is counted by the service afterwards."""
    pool, api, seconds = bench.pool, bench.api, bench.seconds
    project = await api.call("POST", "/projects", {"name": "Ingest"}, {"Idempotency-Key": str(uuid4())})
    path = {"project_id": project["id"]}
    experiment = await api.call("POST", "/experiments", {**path, "name": "Ingest"})
    clients = [await _ingest_client(api, path, experiment["id"], number) for number in range(CLIENTS)]
    measure = Measure()
    accepted = [0] * CLIENTS
    most = round(seconds * MOST_PER_SECOND)
    bodies = [list(_bodies(session_id, most)) for _, session_id in clients]
    began = time.perf_counter()

    async def client(place: int) -> None:
        token, _ = clients[place]
        sensor = api.bearing(token)
        for body in bodies[place]:
            if time.perf_counter() > began + seconds:
                return
            answer = await measured(pool, sensor.request("POST", "/telemetry", body), measure)
            if answer is not None:
                accepted[place] += json.loads(answer)["accepted"]

    await asyncio.gather(*map(client, range(CLIENTS)))
    took = time.perf_counter() - began
    for place, (_, session_id) in enumerate(clients):
        series = (await api.call("GET", f"/capture-sessions/{session_id}/series"))["items"]
        stored = sum(one["count"] for one in series)
        if stored != accepted[place]:
            measure.errors[f"counted {stored:,} of {accepted[place]:,} accepted"] += 1
    total = sum(accepted)
    what = f"batches of {BATCH:,}, {CLIENTS} sensors"
    label = f"= readings/s, {total:,} counted back"
    problems = "0" if not measure.errors else "see above"
    return [
        measure.row("ingest", what, took),
        ("ingest", label, f"{total / took:,.0f}", f"{total:,}", "", "", "", "", problems),
    ]


async def _ingest_client(api: Api, project: Mapping[str, Any], experiment_id: str, number: int) -> tuple[str, str]:
    """A sensor's token, and the session that it records in: its readings become physical on the way in."""
    sensor = await api.call(
        "POST",
        "/sensors",
        {**project, "name": f"ingest {number}", "sensor_type": "load", "input_unit": "V", "display_unit": "bar"},
    )
    profile = await api.call(
        "POST",
        f"/sensors/{sensor['id']}/conversion-profiles",
        {"kind": "linear", "parameters": {"a": 2.5, "b": -1.0}},
    )
    await api.call("POST", f"/conversion-profiles/{profile['id']}/publish")
    run = await api.call("POST", f"/experiments/{experiment_id}/runs", {"name": f"ingest {number}"})
    await api.call("PUT", f"/runs/{run['id']}/sensors/{sensor['id']}")
    await api.call("POST", f"/runs/{run['id']}/start")
    session = await api.call("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
    return sensor["token"], session["id"]


def _bodies(session_id: str, most: int) -> Iterator[bytes]:
    """Batches whose timestamps follow each other, a millisecond apart, all in the past."""
    chance = random.Random(session_id)
    values = json.dumps([round(chance.gauss(5.0, 1.0), 4) for _ in range(BATCH)], separators=(",", ":"))
    start = int((datetime.now(UTC) - timedelta(days=2)).timestamp()) * 1_000_000
    step = 1_000
    for number in range(most):
        first = start + number * BATCH * step
        stamps = ",".join(map(str, range(first, first + BATCH * step, step)))
        yield (
            f'{{"capture_session_id":"{session_id}","columns":[{{"signal":"value",'
            f'"timestamps":[{stamps}],"values":{values}}}]}}'
        ).encode()
