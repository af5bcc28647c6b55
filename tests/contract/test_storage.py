"""How many bytes a reading takes, indexes, receipts and dead rows included."""

import os

import psycopg
import pytest

from entities import NOW, SettableClock, a_batch, a_column
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.telemetry.batches import micros
from experiment_domain.usecases.compaction import compact_telemetry
from laboratory import Laboratory
from recorded import Recording, bytes_stored

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(3_600)]

IS_NIGHT = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
HOURS = 24 if IS_NIGHT else 1
EVERY = 60
"""Seconds between two vacuums, as autovacuum would do, and so between two rounds of the worker."""


async def _recording(lab: Laboratory) -> None:
    """A session with a first reading, which makes the series."""
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.profile(made, 2, 0)
    await lab.session(run)
    await lab.ingest(made, a_batch(a_column([micros(NOW) - 1_000_000], [0.0])))


def _vacuum(connection: psycopg.Connection) -> None:
    for name in ("batches", "series", "chunks", "physical_chunks", "marks"):
        connection.execute(f"VACUUM telemetry_{name}".encode())


async def test_a_reading_a_second(runner: object, postgres_url: str):
    """A day of single readings: chunks and receipts are compacted as they come, and dead rows vacuumed."""
    clock = SettableClock()
    readings = HOURS * 3_600
    async with PostgresUnitsOfWork.open(postgres_url) as units:
        lab = await Laboratory.open(units, clock)
        await _recording(lab)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            empty = bytes_stored(connection)
            recording = Recording.found(connection, NOW)
            for first in range(0, readings, EVERY):
                recording.add(connection, first=first, count=EVERY, each=1)
                clock.pass_by(EVERY)
                await compact_telemetry(lab.services, lambda: False)
                _vacuum(connection)
            running = bytes_stored(connection) - empty
            clock.pass_by(3_600)
            for _ in range(3):
                await compact_telemetry(lab.services, lambda: False)
                _vacuum(connection)
            over = bytes_stored(connection) - empty
            assert connection.execute("SELECT sum(count) FROM telemetry_chunks").fetchone() == (readings + 1,)
            assert connection.execute("SELECT sum(cardinality(marks)) FROM telemetry_marks").fetchone() == (
                readings + 1,
            )
    print(f"{readings:,} readings: {running / readings:.1f} bytes each while it runs, {over / readings:.1f} afterwards")
    # What is always there for the newest ones counts for less, the longer it goes on.
    newest = 800_000
    assert over < 40 * readings if IS_NIGHT else over < 34 * readings + newest


async def test_batches_of_a_thousand(runner: object, postgres_url: str):
    async with PostgresUnitsOfWork.open(postgres_url) as units:
        lab = await Laboratory.open(units)
        await _recording(lab)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        empty = bytes_stored(connection)
        Recording.found(connection, NOW).add(connection, first=0, count=300, each=1_000)
        _vacuum(connection)
        stored = (bytes_stored(connection) - empty) / 300_000
    print(f"batches of 1,000, both layers: {stored:.1f} bytes each")
    assert stored <= 20


def test_no_statistics_are_made_of_readings(postgres_url: str) -> None:
    """ANALYZE would count the elements of arrays: it takes sixteen times as long for ten thousand chunks."""
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(
            "SELECT attrelid::regclass::text, attname, attstattarget FROM pg_attribute"
            " JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type ON pg_type.oid = atttypid"
            " WHERE relkind = 'r' AND (relname LIKE 'telemetry%' OR relname LIKE 'scalar%') AND typcategory = 'A'"
        ).fetchall()
    assert len(found) >= 14
    assert [(table, column) for table, column, target in found if target != 0] == []
