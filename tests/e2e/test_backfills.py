"""Backfills by real workers."""

import asyncio

import psycopg
import pytest

from entities import a_batch, a_column
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.backfills import Backfill
from laboratory import Laboratory
from workers import worker

pytestmark = pytest.mark.e2e


async def a_backfill(url: str) -> Backfill:
    """One that waits to be worked off, of three chunks of 1,000 readings."""
    async with PostgresUnitsOfWork.open(url) as units:
        lab = await Laboratory.open(units)
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        await lab.profile(made, 2, 0)
        session = await lab.session(run)
        for number in range(3):
            stamps = range(number * 1_000, (number + 1) * 1_000)
            await lab.ingest(made, a_batch(a_column(stamps, [stamp / 7 for stamp in stamps]), session=session.id))
        await lab.stop(session)
        second = await lab.profile(made, 3, 0.5)
        requested = await lab.do(
            lambda work: work.backfills.request(session.id, profile_id=second.id, sensor_id=made.sensor.id)
        )
        return requested.backfill


@pytest.mark.covers("worker.backfills")
def test_a_worker_converts_readings_again(postgres_url: str) -> None:
    backfill = asyncio.run(a_backfill(postgres_url))
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url}) as running:
        running.wait_for("worked off", kind="backfills")
        running.stop()
    with psycopg.connect(postgres_url) as connection:
        # How many chunks they lay in is left open: the same worker merges chunks.
        done = connection.execute("SELECT status, readings_converted FROM backfills").fetchall()
        assert done == [("succeeded", 3_000)]
        layer = connection.execute("SELECT profile_id FROM telemetry_layers WHERE is_current").fetchone()
        assert layer == (backfill.profile_id,)
