"""Compaction by real workers."""

import asyncio

import psycopg
import pytest

from entities import a_batch, a_column
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from laboratory import Laboratory
from workers import until, worker

pytestmark = pytest.mark.e2e


async def record(url: str) -> None:
    """One reading after the other, long ago."""
    async with PostgresUnitsOfWork.open(url) as units:
        lab = await Laboratory.open(units)
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        await lab.profile(made, 2, 0)
        await lab.session(run)
        for second in range(70):
            await lab.ingest(made, a_batch(a_column([second], [second / 7])))


@pytest.mark.covers("worker.compact_telemetry")
def test_a_worker_merges_small_chunks(postgres_url: str) -> None:
    asyncio.run(record(postgres_url))
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url}) as running:
        until(lambda: running.told("chore done", chore="compact_telemetry"))
        running.stop()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count FROM telemetry_chunks").fetchall() == [(70,)]
        assert connection.execute("SELECT count FROM telemetry_physical_chunks").fetchall() == [(70,)]
        assert connection.execute("SELECT count(*) FROM telemetry_batches").fetchall() == [(0,)]
        assert connection.execute("SELECT cardinality(marks) FROM telemetry_marks").fetchall() == [(70,)]
