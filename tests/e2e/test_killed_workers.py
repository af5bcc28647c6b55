"""Workers killed at any moment while they convert and merge, and two at once: it ends as if nothing had been."""

import asyncio
import hashlib
import os
import random
import time
from typing import Any
from uuid import UUID

import psycopg
import pytest

from entities import NOW, a_batch, a_column
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.telemetry.batches import micros
from laboratory import Laboratory
from recorded import Recording
from workers import until, worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3_600)]

KILLS = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 3
CHUNKS = 2_500
EACH = 4
READINGS = CHUNKS * EACH + 1


async def _recorded(url: str, rules: list[float]) -> list[UUID]:
    """A session of many small chunks that is over, and a backfill of it by each rule, one after the other."""
    async with PostgresUnitsOfWork.open(url) as units:
        lab = await Laboratory.open(units)
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        await lab.profile(made, 2, 0)
        session = await lab.session(run)
        await lab.ingest(made, a_batch(a_column([micros(NOW) - 1_000_000], [0.0])))
        with psycopg.connect(url, autocommit=True) as connection:
            Recording.found(connection, NOW).add(connection, first=0, count=CHUNKS, each=EACH)
        await lab.stop(session)
        ids: list[UUID] = []
        for a in rules:
            lab.clock.pass_by(1)
            profile = await lab.profile(made, a, 0.5)
            names = {"profile_id": profile.id, "sensor_id": made.sensor.id}
            requested = await lab.do(lambda work: work.backfills.request(session.id, **names))  # noqa: B023
            ids.append(requested.backfill.id)
        return ids


class Database:
    """What is found in the tables."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, sql: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def raw(self) -> list[tuple[Any, float]]:
        return self.ask(
            "SELECT at, value FROM telemetry_chunks AS chunk,"
            ' unnest(timestamps_of(chunk), "values") AS reading (at, value) ORDER BY at'
        )

    def checksum(self, readings: list[tuple[Any, float]]) -> str:
        return hashlib.sha256(repr(readings).encode()).hexdigest()

    def layer(self, backfill_id: UUID) -> list[tuple[Any, float]]:
        """Timestamps and physical values of what a backfill has made."""
        return self.ask(
            "SELECT at, value FROM backfills"
            " JOIN telemetry_physical_chunks AS physical ON physical.profile_id = backfills.profile_id"
            " JOIN telemetry_chunks AS chunk USING (series_id, position),"
            ' unnest(timestamps_of(chunk), physical."values") AS reading (at, value)'
            " WHERE backfills.id = %s ORDER BY at",
            backfill_id,
        )

    def let_claims_run_out(self) -> None:
        """As time would, in which a worker that was killed does not renew its claim."""
        self.ask("UPDATE backfills SET claimed_until = now() WHERE claimed_by IS NOT NULL")
        self.ask("UPDATE chores SET due_at = now() WHERE claimed_by IS NOT NULL OR name = 'compact_telemetry'")


def test_killed_at_any_moment_it_ends_as_if_nothing_had_been(postgres_url: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rules = [float(number) for number in range(3, 3 + max(2, KILLS // 5))]
    ids = asyncio.run(_recorded(postgres_url, rules))
    found, settings = Database(postgres_url), {"EXPERIMENT_DATABASE_URL": postgres_url}
    raw = found.raw()
    for _ in range(KILLS):
        with worker(settings) as victim:
            victim.wait_for("worker started")
            time.sleep(chance.random() * 0.6)
            victim.kill()
        found.let_claims_run_out()
    with worker(settings), worker(settings):
        until(lambda: not found.ask("SELECT id FROM backfills WHERE status <> 'succeeded'"), 120.0)
        until(lambda: not found.ask("SELECT key FROM telemetry_batches"), 120.0)
    # All of it is merged, and all of it is there, with every layer.
    assert found.ask("SELECT count(*) FROM telemetry_chunks")[0][0] <= 3
    assert found.checksum(found.raw()) == found.checksum(raw)
    assert len(raw) == READINGS
    for backfill_id, a in zip(ids, rules, strict=True):
        expected = [(at, a * value + 0.5) for at, value in raw]
        assert found.checksum(found.layer(backfill_id)) == found.checksum(expected)
        told = found.ask(
            "SELECT type, count(*) FROM outbox WHERE data ->> 'backfill_id' = %s GROUP BY type", str(backfill_id)
        )
        assert dict(told) == {
            "capture.backfill.started": 1,
            "capture.backfill.finished": 1,
            "conversion_profile.applied": 1,
        }
        moves = found.ask(
            "SELECT source, target FROM status_history WHERE entity_id = %s ORDER BY position", backfill_id
        )
        assert moves == [("queued", "running"), ("running", "succeeded")]
        # A step that was killed is rolled back with what it counted: nothing is converted, or counted, twice.
        ((converted,),) = found.ask("SELECT readings_converted FROM backfills WHERE id = %s", backfill_id)
        assert converted == READINGS
    current = found.ask("SELECT id FROM backfills JOIN telemetry_layers USING (profile_id) WHERE is_current")
    assert current == [(ids[-1],)]
