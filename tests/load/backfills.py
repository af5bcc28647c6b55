"""Backfills: how fast readings are converted again, beside how fast they were taken in."""

import asyncio
import time

from load.bench import Bench
from load.ingest import CLIENTS, Recording, start, taken_in
from load.measures import Measure, Row

PATIENCE = 600.0


async def backfills(bench: Bench) -> list[Row]:
    """Sessions are recorded as fast as it goes, and then all converted again by the worker."""
    recordings = await start(bench, "Backfills", CLIENTS)
    measure = Measure()
    total, took = await taken_in(bench, bench.pool, recordings, measure)
    began = time.perf_counter()
    paths = [await _requested(bench, one) for one in recordings]
    converted = sum([await _converted(bench, path, began) for path in paths])
    again = time.perf_counter() - began
    if converted != total:
        measure.errors[f"converted {converted:,} of {total:,}"] += 1
    ratio = converted / again / (total / took)
    bench.notes.append(f"re-conversion ÷ ingest, both in readings/s: {ratio:.2f}")
    what = f"{CLIENTS} sessions, {converted:,} readings"
    problems = "0" if not measure.errors else ", ".join(measure.errors)
    return [
        ("backfills", f"= ingest, {what}", f"{total / took:,.0f}", f"{total:,}", "", "", "", "", problems),
        ("", "= re-conversion", f"{converted / again:,.0f}", f"{converted:,}", "", "", "", "", problems),
    ]


async def _requested(bench: Bench, recording: Recording) -> str:
    """Where the backfill of a session is found, which is over now."""
    api = bench.api
    await api.call("POST", f"/capture-sessions/{recording.session_id}/stop", {"outcome": "succeeded"})
    profile = await api.call(
        "POST",
        f"/sensors/{recording.sensor_id}/conversion-profiles",
        {"kind": "polynomial", "parameters": {"coefficients": [0.5, 2.0, 0.25]}},
    )
    await api.call("POST", f"/conversion-profiles/{profile['id']}/publish")
    wanted = {"profile_id": profile["id"], "sensor_id": recording.sensor_id}
    backfill = await api.call("POST", f"/capture-sessions/{recording.session_id}/backfills", wanted)
    return f"/backfills/{backfill['id']}"


async def _converted(bench: Bench, path: str, began: float) -> int:
    """How many readings a backfill has converted, once it is done."""
    while True:
        found = await bench.api.call("GET", path)
        if found["status"] == "succeeded":
            return found["readings_converted"]
        if found["status"] not in ("queued", "running") or time.perf_counter() > began + PATIENCE:
            raise AssertionError(f"{path} is {found['status']}: {found['error']}")
        await asyncio.sleep(0.1)
