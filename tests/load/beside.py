"""Ingest beside other ways to keep the same readings, in one run on the same machine: ratios count, not rates."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from attrs import frozen
from websockets.asyncio.client import connect

from experiment_adapters.auth.local import LocalKeys
from experiment_adapters.postgres.telemetry import arrays
from experiment_adapters.postgres.telemetry.appending import NAMES, columns_of_statistics
from experiment_adapters.postgres.telemetry.arrays import FloatArray, Integers, TimestampArray, shortened
from experiment_adapters.postgres.telemetry.merging import statistics_of
from experiment_domain.telemetry.batches import moment
from experiment_http.cli.local import settings_of
from fix_up import COMMAND, Up, environment
from load.bench import Bench, database_of
from load.http_client import ConnectionBroken, Pool
from load.ingest import BATCH, CLIENTS, MOST_PER_SECOND, Recording, start, stored, taken_in
from load.measures import Measure, Row
from servers import free_port

ROWS = 10_000
MANY = 32
"""Clients for what one process takes in at most: the more there are, the more batches share a transaction."""
IN_FLIGHT = 32  # frames of one socket that wait for their answers
BYTES = 32
TABLES = ("telemetry_batches", "telemetry_series", "telemetry_chunks", "telemetry_physical_chunks")
STARTING = 30.0
LINES_FOR = 15.0
"""Seconds that InfluxDB is measured for at most: its requests, all made beforehand, take gigabytes."""
FIRST = 1_600_000_000_000_000
VALUES = np.random.default_rng(20260309).normal(5.0, 1.0, ROWS).round(4)
INFLUX_SETTINGS = """
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
dir = "{home}/meta"
[data]
dir = "{home}/data"
wal-dir = "{home}/wal"
query-log-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
[monitor]
store-enabled = false
"""
_STATISTICS = ", ".join(NAMES)
RAW = f"""
INSERT INTO telemetry_chunks
    (transaction_id, capture_session_id, series_id, late, starts_at, ends_at, {_STATISTICS}, timestamps, "values")
SELECT pg_current_xact_id(), capture_session_id, id, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s
FROM telemetry_series WHERE capture_session_id = %s AND sensor_id = %s AND signal = %s
"""
RAW_AND_PHYSICAL = f"""
WITH chunk AS ({RAW} RETURNING capture_session_id, series_id, position)
INSERT INTO telemetry_physical_chunks
    (capture_session_id, series_id, position, profile_id, {_STATISTICS}, "values")
SELECT capture_session_id, series_id, position, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM chunk
"""
Amount = tuple[int, float]
"""Readings, and the seconds that they took."""
Note = Callable[[str, str, Amount, Measure | None], None]
"""Notes an amount: its key, what it is of, and how its requests went."""


@frozen
class Bar:
    """What the ratio of two rates is held to."""

    name: str
    above: str
    below: str
    least: float

    def told(self, rates: Mapping[str, float]) -> str:
        if self.below not in rates:
            return f"{self.name}: not measured"
        ratio = rates[self.above] / rates[self.below]
        return f"{self.name}: {ratio:.2f} (bar: at least {self.least:g}){'' if ratio >= self.least else ' MISSED'}"


BARS = (
    Bar(f"REST, {MANY} clients ÷ the same chunks through psycopg", "rest of many", "chunks", 0.5),
    Bar(f"REST, {CLIENTS} clients ÷ the same chunks through psycopg", "rest", "chunks", 0.5),
    Bar(f"REST, {MANY} clients ÷ one row per reading through psycopg", "rest of many", "rows", 3.0),
    Bar(f"REST, {CLIENTS} clients ÷ one row per reading through psycopg", "rest", "rows", 3.0),
    Bar(f"REST, {MANY} clients ÷ the same with the rows as three arrays", "rest of many", "rows of arrays", 3.0),
    Bar(f"REST, {CLIENTS} clients ÷ the same with the rows as three arrays", "rest", "rows of arrays", 3.0),
    Bar("REST ÷ InfluxDB, each with all of the machine", "rest at best", "influx", 1.0),
    Bar(f"WebSocket ÷ REST, {CLIENTS} clients each", "sockets", "rest", 1.0),
    Bar(f"WebSocket, {CLIENTS} clients ÷ REST, {MANY} clients", "sockets", "rest of many", 1.0),
)


async def beside(bench: Bench) -> list[Row]:
    """The same readings by each way, one after the other, for as many seconds."""
    rates: dict[str, float] = {}
    rows: list[Row] = []

    def note(key: str, what: str, amount: Amount, measure: Measure | None = None) -> None:
        readings, seconds = amount
        rates[key] = readings / seconds
        errors = ", ".join(f"{number}× {error}" for error, number in measure.errors.most_common(3)) if measure else ""
        rows.append(("beside", what, f"{rates[key]:,.0f}", f"{readings:,}", "", "", "", "", errors or "0"))

    await each_alone(bench, rates, note)
    *many, other = await start(bench, "Beside", MANY + 1)
    senders = many[:CLIENTS]
    url = database_of(bench.up.data_dir)
    with psycopg.connect(url, autocommit=True) as connection:
        arrays.register(connection)  # pyright: ignore[reportArgumentType] - of its adapters alone
        amount = await chunks(bench, connection, other, bench.seconds, is_whole=False)
        note("raw", "raw chunks through psycopg", amount)
        what = f"rows of both layers through psycopg, {ROWS:,} a statement"
        for key, form, statement, parameters in (
            ("rows", what, STATEMENT_OF_VALUES, values_of_rows),
            ("rows of arrays", f"{what}, as arrays", STATEMENT_OF_ARRAYS, arrays_of_rows),
        ):
            # In a thread: the idle connections of the generator are looked after meanwhile.
            note(key, form, await asyncio.to_thread(by_rows, bench, connection, statement, parameters))
        # Before REST and after it: a machine that becomes slower or faster meanwhile favours neither.
        half = bench.seconds / 2
        readings, seconds = await chunks(bench, connection, other, half, is_whole=True)
        measure, before = Measure(), size_of(connection)
        amount = await taken_in(bench, bench.pool, senders, measure)
        note("rest", f"REST, one process, {CLIENTS} clients", amount, measure)
        per_reading = (size_of(connection) - before) / amount[0]
        measure = Measure()
        amount = await taken_in(bench, bench.pool, many, measure)
        note("rest of many", f"REST, one process, {MANY} clients", amount, measure)
        more, longer = await chunks(bench, connection, other, half, is_whole=True)
        note("chunks", "chunks of both layers through psycopg", (readings + more, seconds + longer))
    measure = Measure()
    note("sockets", f"WebSocket, one process, {CLIENTS} clients", await by_sockets(bench, senders, measure), measure)
    bench.notes.extend(bar.told(rates) for bar in BARS)
    missed = "" if per_reading <= BYTES else " MISSED"
    bench.notes.append(
        f"bytes per reading, both layers, receipts and indexes: {per_reading:.1f} (bar: {BYTES}){missed}"
    )
    return rows


async def each_alone(bench: Bench, rates: dict[str, float], note: Note) -> None:
    """REST and InfluxDB, each on a machine that has nothing else to do, neither for what was stored before."""
    processes = os.cpu_count() or 1
    with bench.another("alone", {}) as alone:
        senders = await start(alone, "Alone", CLIENTS)
        measure = Measure()
        amount = await taken_in(alone, alone.pool, senders, measure)
        note("rest alone", f"REST alone, one process, {CLIENTS} clients", amount, measure)
        url = database_of(alone.up.data_dir)
        with another_api(alone.up, url, processes) as port, closing(Pool("127.0.0.1", port, CLIENTS)) as pool:
            measure = Measure()
            amount = await taken_in(alone, pool, senders, measure)
            note("rest of all", f"REST alone, {processes} processes, {CLIENTS} clients", amount, measure)
    # How many processes make the most of a machine is for whoever sets it up to say.
    rates["rest at best"] = max(rates["rest alone"], rates["rest of all"])
    if shutil.which("influxd") is None:
        bench.notes.append("InfluxDB is left out: there is no influxd on the path (Debian: apt-get install influxdb)")
        return
    # What tells whose readings they are is a part of them: with one letter for it, they are not the same ones.
    whole = [f"reading,capture_session={one.session_id},sensor={one.sensor_id},signal=value" for one in senders]
    short = [f"reading,sensor={place}" for place in range(CLIENTS)]
    for key, what, series in (("influx", "", whole), ("influx, short", ", one tag of one letter", short)):
        with influx(bench.up.home) as port, closing(Pool("127.0.0.1", port, CLIENTS)) as pool:
            measure = Measure()
            amount = await by_lines(min(bench.seconds, LINES_FOR), pool, series, measure)
            note(key, f"InfluxDB alone, {CLIENTS} clients{what}", amount, measure)
    ratio = rates["rest at best"] / rates["influx, short"]
    bench.notes.append(f"REST ÷ InfluxDB that is not told of sessions, sensors and signals: {ratio:.2f}")


async def chunks(
    bench: Bench, connection: psycopg.Connection, recording: Recording, seconds: float, *, is_whole: bool
) -> Amount:
    """The chunk of a batch by itself, each committed, on one connection."""
    sensor = bench.api.bearing(recording.token)
    await sensor.call("POST", "/telemetry", next(recording.bodies))  # makes the series
    where = [UUID(recording.session_id), UUID(recording.sensor_id), "value"]
    found = connection.execute(
        "SELECT profile_id FROM telemetry_series WHERE capture_session_id = %s AND sensor_id = %s AND signal = %s",
        where,
    ).fetchone()
    assert found is not None
    values = VALUES[:BATCH]
    physical = values * 2.5 - 1.0
    raw_statistics, statistics = (columns_of_statistics(statistics_of(layer)) for layer in (values, physical))

    def insert(number: int) -> None:
        stamps = np.arange(BATCH) * 1_000 + (FIRST + number * BATCH * 1_000)
        span = (moment(int(stamps[0])), moment(int(stamps[-1])))
        raw = [False, *span, *raw_statistics, TimestampArray.of(shortened(stamps)), FloatArray.of(values), *where]
        if is_whole:
            layer = [found[0], *statistics, FloatArray.of(physical)]
            connection.execute(RAW_AND_PHYSICAL.encode(), [*raw, *layer], prepare=True, binary=True)
        else:
            connection.execute(RAW.encode(), raw, prepare=True, binary=True)

    return repeated(seconds, insert, BATCH)


_UPSERT = " ON CONFLICT (series_id, at) DO UPDATE SET value = excluded.value, physical = excluded.physical"
STATEMENT_OF_VALUES = "INSERT INTO load_rows VALUES " + ", ".join(["(1, %s, %s, %s)"] * ROWS) + _UPSERT
STATEMENT_OF_ARRAYS = (
    "INSERT INTO load_rows SELECT 1, * FROM unnest(%s::timestamptz[], %s::float8[], %s::float8[])" + _UPSERT
)
"""The fastest way there is to send rows: arrays in binary, made by NumPy."""


def values_of_rows(stamps: Integers) -> Sequence[Any]:
    """The parameters of rows one by one, as programs have them."""
    rows = zip(map(moment, stamps.tolist()), VALUES.tolist(), (VALUES * 2.5 - 1.0).tolist(), strict=True)
    return [value for row in rows for value in row]


def arrays_of_rows(stamps: Integers) -> Sequence[Any]:
    """The parameters of rows as arrays."""
    return [TimestampArray.of(stamps), FloatArray.of(VALUES), FloatArray.of(VALUES * 2.5 - 1.0)]


def by_rows(
    bench: Bench, connection: psycopg.Connection, statement: str, parameters: Callable[[Integers], Sequence[Any]]
) -> Amount:
    """A row per reading, with its raw and its physical value."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS load_rows"
        " (series_id bigint, at timestamptz, value float8, physical float8, PRIMARY KEY (series_id, at))"
    )

    def insert(number: int) -> None:
        stamps = np.arange(ROWS) * 1_000 + (FIRST + number * ROWS * 1_000)
        connection.execute(statement.encode(), parameters(stamps), prepare=True, binary=True)

    try:
        return repeated(bench.seconds, insert, ROWS)
    finally:
        connection.execute("DROP TABLE load_rows")


def repeated(seconds: float, insert: Callable[[int], None], readings: int) -> Amount:
    """How many readings are inserted in so many seconds."""
    insert(0)
    number, began = 1, time.perf_counter()
    while time.perf_counter() < began + seconds:
        insert(number)
        number += 1
    return (number - 1) * readings, time.perf_counter() - began


def size_of(connection: psycopg.Connection) -> int:
    """The bytes of everything that telemetry is kept in."""
    found = connection.execute(
        "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) AS name", [list(TABLES)]
    )
    (size,) = found.fetchone() or (0,)
    return int(size)


async def by_sockets(bench: Bench, recordings: Sequence[Recording], measure: Measure) -> Amount:
    """A socket per sensor, on which some frames are always on their way."""
    most = round(bench.seconds * MOST_PER_SECOND / len(recordings))
    frames = [[b'{"seq":%d,%s' % (seq, next(recording.bodies)[1:]) for seq in range(most)] for recording in recordings]
    before = await stored(bench, recordings)
    url = f"ws://127.0.0.1:{bench.up.port}/api/v1/telemetry/ws"
    began = time.perf_counter()

    async def client(recording: Recording, frames: Sequence[bytes]) -> None:
        headers = {"Authorization": f"Bearer {recording.token}"}
        async with connect(url, additional_headers=headers, compression=None, ping_interval=None) as channel:
            waiting: deque[int] = deque()
            for seq, frame in enumerate(frames):
                if time.perf_counter() > began + bench.seconds:
                    break
                await channel.send(frame, text=True)
                waiting.append(seq)
                if len(waiting) == IN_FLIGHT:
                    check(await channel.recv(), waiting.popleft())
            while waiting:
                check(await channel.recv(), waiting.popleft())

    def check(answer: Any, seq: int) -> None:
        told = json.loads(answer)
        if (told["seq"], told.get("accepted")) != (seq, BATCH):
            measure.errors[f"answered {answer[:200]}"] += 1

    await asyncio.gather(*map(client, recordings, frames))
    took = time.perf_counter() - began
    return await stored(bench, recordings) - before, took


@contextmanager
def another_api(up: Up, url: str, processes: int) -> Iterator[int]:
    """The port of an API of several processes on the same database."""
    port = free_port()
    settings = {
        **settings_of(LocalKeys(up.data_dir)),
        "EXPERIMENT_DATABASE_URL": url,
        "EXPERIMENT_LOG_LEVEL": "warning",
    }
    program = [*COMMAND, "api", "--host", "127.0.0.1", "--port", str(port), "--processes", str(processes)]
    with subprocess.Popen(program, cwd=up.home, env=environment(up.home, settings)) as process:
        try:
            wait_for(port)
            yield port
        finally:
            process.terminate()


@contextmanager
def influx(home: Path) -> Iterator[int]:
    """The port of an InfluxDB with nothing in it."""
    folder, port = Path(mkdtemp(dir=home, prefix="influx-")), free_port()
    settings = folder / "influxdb.conf"
    settings.write_text(INFLUX_SETTINGS.format(home=folder, port=port))
    with (
        (folder / "log.txt").open("wb") as log,
        subprocess.Popen(["influxd", "-config", str(settings)], stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(port)
            yield port
        finally:
            process.terminate()


async def by_lines(seconds: float, pool: Pool, series: Sequence[str], measure: Measure) -> Amount:
    """The readings as line protocol, in requests of as many as a batch has; a client for each of the series."""
    head = f"Host: 127.0.0.1:{pool.port}\r\n"

    def request(path: str, body: bytes) -> bytes:
        return f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    status, answer = await pool.ask(request("/query?q=CREATE%20DATABASE%20load", b""))
    assert status == 200, answer
    values = [f"{value:g}" for value in VALUES[:BATCH]]

    def body(one: str, number: int) -> bytes:
        first = FIRST + number * BATCH * 1_000
        return "\n".join(f"{one} value={value} {first + place * 1_000}" for place, value in enumerate(values)).encode()

    most = round(seconds * MOST_PER_SECOND / len(series))
    requests = [[request("/write?db=load&precision=u", body(one, number)) for number in range(most)] for one in series]
    accepted = 0
    began = time.perf_counter()

    async def client(mine: Sequence[bytes]) -> None:
        nonlocal accepted
        for one in mine:
            if time.perf_counter() > began + seconds:
                return
            try:
                status, answer = await pool.ask(one)
            except (OSError, ConnectionBroken, TimeoutError) as error:
                measure.errors[type(error).__name__] += 1
                continue
            if status == 204:
                accepted += BATCH
            else:
                measure.errors[f"{status} {answer[:100]!r}"] += 1

    await asyncio.gather(*map(client, requests))
    return accepted, time.perf_counter() - began


def wait_for(port: int) -> None:
    """Until somebody listens."""
    deadline = time.monotonic() + STARTING
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
