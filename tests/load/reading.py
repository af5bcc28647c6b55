"""Reading back: envelopes of 10 million readings at several zooms, and the metrics of a run with 8 million."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from attrs import frozen

from experiment_adapters.postgres.telemetry.appending import NAMES, columns_of_statistics
from experiment_adapters.postgres.telemetry.arrays import (
    FLOAT8_ARRAY,
    TIMESTAMPTZ_ARRAY,
    FloatArray,
    TimestampArray,
    register,
    shortened,
)
from experiment_adapters.postgres.telemetry.merging import statistics_of
from experiment_domain.telemetry.batches import moment
from experiment_http.cli.seed import running_database
from load.bench import Bench
from load.measures import Measure, Row, measured

READINGS = 10_000_000
BATCH = 1_000
STEP = 1_003
"""Microseconds from one reading to the next: no part of an envelope begins where a chunk does."""
LATE = 0.05
"""The share of chunks that a later one overlaps, in the series that has such ones."""
JITTER = 500
"""Microseconds that a reading may come later than its time, in the series that is not regular."""
POINTS = 1_000
ZOOMS = (1, 10, 100, 1_000)
SENSORS = 8
OF_EACH = 1_000_000
SECONDS = 10.0
ENVELOPE_BAR, METRICS_BAR = 50, 30
"""Milliseconds that 95 % of the answers take at most."""

_RAW = ("capture_session_id", "series_id", "position", "late", "starts_at", "ends_at", *NAMES, "timestamps", '"values"')
_PHYSICAL = ("capture_session_id", "series_id", "profile_id", "position", *NAMES, '"values"')
_STATISTICS = ["int4", *["float8"] * 6]


@frozen
class Recorded:
    """A sensor's part in a session, as far as the database needs to know it."""

    session_id: str
    sensor_id: str
    profile_id: str


async def reading(bench: Bench) -> list[Row]:
    """Envelopes of long series, regular or not, of one with late chunks, and metrics whole and by buckets."""
    url = running_database(bench.up.data_dir)
    assert url is not None
    long, irregular, late, run_id, sensors = await _rig(bench)
    start = int((datetime.now(UTC) - timedelta(days=30)).timestamp()) * 1_000_000
    began = time.perf_counter()
    await asyncio.to_thread(_store, url, long, start, READINGS)
    await asyncio.to_thread(_store, url, irregular, start, READINGS, jitter=JITTER)
    await asyncio.to_thread(_store, url, late, start, READINGS // 5, late=LATE)
    for recorded in sensors:
        await asyncio.to_thread(_store, url, recorded, start, OF_EACH)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for name in ("telemetry_chunks", "telemetry_physical_chunks", "telemetry_series"):
            await connection.execute(f"VACUUM ANALYZE {name}".encode())
    bench.notes.append(
        f"stored {READINGS * 2 + READINGS // 5 + SENSORS * OF_EACH:,} readings in {time.perf_counter() - began:.0f} s"
    )
    rows: list[Row] = []
    chance = random.Random(5)
    for recorded, what, readings in (
        (long, "", READINGS),
        (irregular, ", irregular", READINGS),
        (late, f", {LATE:.0%} overlapped", READINGS // 5),
    ):
        path = f"/capture-sessions/{recorded.session_id}/telemetry?points={POINTS}"
        for zoom in ZOOMS:
            length = readings * STEP // zoom

            def window(path: str = path, length: int = length, readings: int = readings) -> str:
                first = start + chance.randrange(readings * STEP - length + 1)
                return f"{path}&start={first}&end={first + length}"

            name = f"envelope, 1/{zoom} of {readings:,}{what} (p95 < {ENVELOPE_BAR} ms)"
            rows.append(await _measure(bench, name, window))
    for query in ("", "?bucket=60", "?bucket=1"):
        path = f"/runs/{run_id}/metrics{query}"
        name = f"metrics, {SENSORS} × {OF_EACH:,}{query.replace('?', ', ')} (p95 < {METRICS_BAR} ms)"
        rows.append(await _measure(bench, name, lambda path=path: path))
    return rows


async def _measure(bench: Bench, name: str, path: Callable[[], str]) -> Row:
    """One request after the other."""
    measure = Measure()
    began = time.perf_counter()
    seconds = min(bench.seconds, SECONDS)
    while time.perf_counter() < began + seconds:
        await measured(bench.pool, bench.api.request("GET", path()), measure)
    return measure.row("reading", name, time.perf_counter() - began)


async def _rig(bench: Bench) -> tuple[Recorded, Recorded, Recorded, str, Sequence[Recorded]]:
    """Sessions for the long series, for the irregular and the late one, and a run with many sensors."""
    project = await bench.api.call("POST", "/projects", {"name": "Reading"})
    experiment = await bench.api.call("POST", "/experiments", {"project_id": project["id"], "name": "Reading"})
    (long,), _ = await _session(bench, project["id"], experiment["id"], 1)
    (irregular,), _ = await _session(bench, project["id"], experiment["id"], 1)
    (late,), _ = await _session(bench, project["id"], experiment["id"], 1)
    sensors, run_id = await _session(bench, project["id"], experiment["id"], SENSORS)
    return long, irregular, late, run_id, sensors


async def _session(bench: Bench, project_id: str, experiment_id: str, count: int) -> tuple[Sequence[Recorded], str]:
    api = bench.api
    run = await api.call("POST", f"/experiments/{experiment_id}/runs", {"name": "recorded"})
    found: list[tuple[str, str]] = []
    for number in range(count):
        values = {"sensor_type": "load", "input_unit": "V", "display_unit": "bar", "name": f"reading {number}"}
        sensor = await api.call("POST", "/sensors", {"project_id": project_id, **values})
        profiles = f"/sensors/{sensor['id']}/conversion-profiles"
        profile = await api.call("POST", profiles, {"kind": "linear", "parameters": {"a": 2.5, "b": -1.0}})
        await api.call("POST", f"/conversion-profiles/{profile['id']}/publish")
        await api.call("PUT", f"/runs/{run['id']}/sensors/{sensor['id']}")
        found.append((sensor["id"], profile["id"]))
    await api.call("POST", f"/runs/{run['id']}/start")
    session = await api.call("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
    return [Recorded(session["id"], sensor_id, profile_id) for sensor_id, profile_id in found], run["id"]


def _store(url: str, recorded: Recorded, start: int, count: int, late: float = 0.0, jitter: int = 0) -> None:
    """Put readings into the tables as batches would, straight through COPY."""
    chance = np.random.default_rng(7)
    places = [(number * BATCH, False) for number in range(count // BATCH)]
    # A later chunk begins in the middle of an earlier one.
    places += [(number * BATCH + BATCH // 2, True) for number in range(count // BATCH - 1) if chance.random() < late]
    session_id, profile_id = UUID(recorded.session_id), UUID(recorded.profile_id)
    with psycopg.connect(url) as connection:
        register(connection)  # pyright: ignore[reportArgumentType] - it registers with any connection
        row = connection.execute(
            "INSERT INTO telemetry_series (capture_session_id, sensor_id, signal, profile_id)"
            " VALUES (%s, %s, 'value', %s) RETURNING id",
            [session_id, recorded.sensor_id, profile_id],
        ).fetchone()
        assert row is not None
        positions = connection.execute(
            "SELECT nextval('telemetry_positions') FROM generate_series(1, %s)", [len(places)]
        ).fetchall()
        raw: list[tuple[Any, ...]] = []
        physical: list[tuple[Any, ...]] = []
        for (first, is_late), (position,) in zip(places, positions, strict=True):
            stamps = start + np.arange(first, first + BATCH, dtype=np.int64) * STEP
            stamps += chance.integers(0, jitter, BATCH, endpoint=True)
            values = np.sin(stamps / 3e8) * 10 + chance.normal(size=BATCH)
            converted = values * 2.5 - 1.0
            ends = moment(int(stamps[0])), moment(int(stamps[-1]))
            raw.append(
                (
                    *(session_id, row[0], position, is_late, *ends),
                    *columns_of_statistics(statistics_of(values)),
                    *(TimestampArray.of(shortened(stamps)), FloatArray.of(values)),
                )
            )
            statistics = columns_of_statistics(statistics_of(converted))
            physical.append((session_id, row[0], profile_id, position, *statistics, FloatArray.of(converted)))
            if len(raw) == 500:
                _copy(connection, raw, physical)
                raw, physical = [], []
        _copy(connection, raw, physical)


def _copy(connection: psycopg.Connection, raw: Sequence[Sequence[Any]], physical: Sequence[Sequence[Any]]) -> None:
    tables = (
        (
            "telemetry_chunks",
            _RAW,
            [
                "uuid",
                "int8",
                "int8",
                "bool",
                "timestamptz",
                "timestamptz",
                *_STATISTICS,
                TIMESTAMPTZ_ARRAY,
                FLOAT8_ARRAY,
            ],
            raw,
        ),
        (
            "telemetry_physical_chunks",
            _PHYSICAL,
            ["uuid", "int8", "uuid", "int8", *_STATISTICS, FLOAT8_ARRAY],
            physical,
        ),
    )
    for table, names, types, rows in tables:
        statement = f"COPY {table} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
        with connection.cursor().copy(statement.encode()) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)
