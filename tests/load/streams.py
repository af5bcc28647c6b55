"""Readings as they come in: how long after a batch was acknowledged each of many readers has its event."""

import asyncio
import json
import time

from load.bench import USER, Bench
from load.ingest import Recording, start
from load.measures import Measure, Row, percentile

READERS = 20
BATCHES_PER_SECOND = 20
READINGS = 100
LIMIT = 0.100
"""Seconds within which 99 of 100 events are to come."""
PATIENCE = 30.0


async def streams(bench: Bench) -> list[Row]:
    """One sensor that sends at a steady pace, and readers of its session."""
    (recording,) = await start(bench, "Streams", 1)
    arrived: list[dict[int, float]] = [{} for _ in range(READERS)]
    listening = [asyncio.Event() for _ in range(READERS)]
    readers = [
        asyncio.create_task(_read(bench, recording, arrived[place], listening[place])) for place in range(READERS)
    ]
    await asyncio.gather(*(asyncio.wait_for(event.wait(), PATIENCE) for event in listening))
    began = time.perf_counter()
    acknowledged = await _send(bench, recording)
    took = time.perf_counter() - began
    for _ in range(round(PATIENCE / 0.05)):
        if not any(acknowledged.keys() - one.keys() for one in arrived):
            break
        await asyncio.sleep(0.05)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    measure = Measure()
    for one in arrived:
        measure.latencies += [max(0.0, one[stamp] - moment) for stamp, moment in acknowledged.items() if stamp in one]
        if missing := len(acknowledged.keys() - one.keys()):
            measure.errors["event that never came"] += missing
    reached = percentile(sorted(measure.latencies), 0.99)
    told = "" if reached < LIMIT else " MISSED"
    bench.notes.append(f"from acknowledgement to event, p99: {reached * 1_000:.1f} ms (bar: under 100 ms){told}")
    return [measure.row("streams", f"events, {READERS} readers, {BATCHES_PER_SECOND} batches/s", took)]


async def _send(bench: Bench, recording: Recording) -> dict[int, float]:
    """When each batch was acknowledged, by the first timestamp in it."""
    api = bench.api.bearing(recording.token)
    first = int(time.time() * 1_000_000) - 3_600_000_000
    acknowledged: dict[int, float] = {}
    began = time.perf_counter()
    for number in range(round(bench.seconds * BATCHES_PER_SECOND)):
        await asyncio.sleep(max(0.0, began + number / BATCHES_PER_SECOND - time.perf_counter()))
        stamp = first + number * READINGS * 100
        stamps = list(range(stamp, stamp + READINGS * 100, 100))
        columns = [{"timestamps": stamps, "values": [number / 7] * READINGS}]
        await api.call("POST", "/telemetry", {"capture_session_id": recording.session_id, "columns": columns})
        acknowledged[stamp] = time.perf_counter()
    return acknowledged


async def _read(bench: Bench, recording: Recording, arrived: dict[int, float], listening: asyncio.Event) -> None:
    """When the event of each batch came, by the first timestamp in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.up.port)
    path = f"/api/v1/telemetry/stream?capture_session_id={recording.session_id}"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {bench.up.token(USER)}\r\n\r\n".encode()
    )
    try:
        while line := await reader.readline():
            if line.startswith(b"id:"):
                listening.set()
            elif line.startswith(b"data:"):
                moment = time.perf_counter()
                arrived.setdefault(json.loads(line[5:])["timestamps"][0], moment)
    finally:
        writer.close()
