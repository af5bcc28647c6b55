"""Ingest: as many batches as the service takes, counted back from it afterwards."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Any
from uuid import uuid4

from attrs import frozen

from load.bench import Bench
from load.http_client import Api, Pool
from load.measures import Measure, Row, measured

CLIENTS = 8
BATCH = 1_000
MOST_PER_SECOND = 1_200  # bodies of all clients together that are made beforehand for each second


@frozen
class Recording:
    """A sensor that records: its token, its session, and batches that nobody has sent yet."""

    token: str
    sensor_id: str
    session_id: str
    bodies: Iterator[bytes]


async def ingest(bench: Bench) -> list[Row]:
    """One sensor and one session per client; what was accepted is counted by the service afterwards."""
    recordings = await start(bench, "Ingest", CLIENTS)
    measure = Measure()
    total, took = await taken_in(bench, bench.pool, recordings, measure)
    what = f"batches of {BATCH:,}, {CLIENTS} sensors"
    label = f"= readings/s, {total:,} counted back"
    problems = "0" if not measure.errors else "see above"
    return [
        measure.row("ingest", what, took),
        ("ingest", label, f"{total / took:,.0f}", f"{total:,}", "", "", "", "", problems),
    ]


async def start(bench: Bench, name: str, number: int) -> list[Recording]:
    """Sensors of a project of their own, ready to send."""
    api = bench.api
    project = await api.call("POST", "/projects", {"name": name}, {"Idempotency-Key": str(uuid4())})
    path = {"project_id": project["id"]}
    experiment = await api.call("POST", "/experiments", {**path, "name": name})
    return [await _recording(api, path, experiment["id"], place) for place in range(number)]


async def taken_in(bench: Bench, pool: Pool, recordings: Sequence[Recording], measure: Measure) -> tuple[int, float]:
    """How many readings were stored in how many seconds, sent by one client for each of the recordings."""
    most = round(bench.seconds * MOST_PER_SECOND / len(recordings))
    bodies = [list(islice(one.bodies, most)) for one in recordings]
    before = await stored(bench, recordings)
    accepted = 0
    began = time.perf_counter()

    async def client(place: int) -> None:
        nonlocal accepted
        sensor = bench.api.bearing(recordings[place].token)
        for body in bodies[place]:
            if time.perf_counter() > began + bench.seconds:
                return
            answer = await measured(pool, sensor.request("POST", "/telemetry", body), measure)
            if answer is not None:
                accepted += json.loads(answer)["accepted"]

    await asyncio.gather(*map(client, range(len(recordings))))
    took = time.perf_counter() - began
    found = await stored(bench, recordings) - before
    if found != accepted:
        measure.errors[f"counted {found:,} of {accepted:,} accepted"] += 1
    return found, took


async def stored(bench: Bench, recordings: Sequence[Recording]) -> int:
    """How many readings the service counts."""
    total = 0
    for one in recordings:
        found = await bench.api.call("GET", f"/capture-sessions/{one.session_id}/series")
        total += sum(series["count"] for series in found["items"])
    return total


async def _recording(api: Api, project: Mapping[str, Any], experiment_id: str, number: int) -> Recording:
    """A sensor and the session that it records in: its readings become physical on the way in."""
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
    return Recording(sensor["token"], sensor["id"], session["id"], _bodies(session["id"]))


def _bodies(session_id: str) -> Iterator[bytes]:
    """Batches whose timestamps follow each other, a millisecond apart, all in the past."""
    chance = random.Random(session_id)
    values = json.dumps([round(chance.gauss(5.0, 1.0), 4) for _ in range(BATCH)], separators=(",", ":"))
    start = int((datetime.now(UTC) - timedelta(days=2)).timestamp()) * 1_000_000
    step = 1_000
    for number in count():
        first = start + number * BATCH * step
        stamps = ",".join(map(str, range(first, first + BATCH * step, step)))
        yield (
            f'{{"capture_session_id":"{session_id}","columns":[{{"signal":"value",'
            f'"timestamps":[{stamps}],"values":{values}}}]}}'
        ).encode()
