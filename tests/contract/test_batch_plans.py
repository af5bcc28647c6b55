"""What PostgreSQL reads to keep batches of many sensors: as much, however much there is of them already."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from attrs import evolve
from psycopg import _queries

from entities import a_batch, a_column
from experiment_adapters.postgres.telemetry.appending import (
    _KEEPING,  # pyright: ignore[reportPrivateUsage]
    _KEEPING_PRESUMED,  # pyright: ignore[reportPrivateUsage]
    append_presumed,
)
from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork, PostgresUnitsOfWork
from experiment_domain.kernel.access import System
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.store import Chunk, Intake, Presumed, Receipt
from laboratory import Laboratory

SENSORS, EARLIER = 8, 1_000
MOST_ROWS = 20 * SENSORS
"""An entry or two of each index for a batch. All there is of one kind in its session, or of its sensor, is far more."""

_FILL = """
INSERT INTO telemetry_series (capture_session_id, sensor_id, signal)
SELECT capture_session_id, sensor_id, number::text FROM telemetry_series, generate_series(1, %(earlier)s) AS number;
INSERT INTO telemetry_chunks (transaction_id, capture_session_id, series_id, late, starts_at, ends_at, count,
    minimum, maximum, mean, squares, first, last, timestamps, "values")
SELECT pg_current_xact_id(), capture_session_id, id, false, at, at, 1, 0, 0, 0, 0, 0, 0, ARRAY[at], ARRAY[0]
FROM telemetry_series, generate_series(1, %(earlier)s) AS number, to_timestamp(number) AS at WHERE signal = 'value';
INSERT INTO telemetry_batches (sensor_id, capture_session_id, key, digest, accepted, late, received_at)
SELECT sensor_id, capture_session_id, number::text, '', 1, 0, to_timestamp(number)
FROM telemetry_series, generate_series(1, %(earlier)s) AS number WHERE signal = 'value';
WITH earlier AS (
    SELECT gen_random_uuid() AS id, number + 1 AS ordinal, session, pin FROM capture_sessions AS session
    JOIN capture_session_pins AS pin ON pin.capture_session_id = session.id, generate_series(1, %(earlier)s) AS number
), sessions AS (
    INSERT INTO capture_sessions
    SELECT (jsonb_populate_record(session, jsonb_build_object('id', id, 'ordinal', ordinal, 'status', 'succeeded'))).*
    FROM earlier
)
INSERT INTO capture_session_pins
SELECT (jsonb_populate_record(pin, jsonb_build_object('capture_session_id', id))).* FROM earlier;
INSERT INTO telemetry_marks
    (capture_session_id, sensor_id, late, starts_at, ends_at, received_from, received_to, readings, marks)
SELECT capture_session_id, sensor_id, false, at, at, at, at, 1, '{1}'
FROM telemetry_series, generate_series(1, %(earlier)s) AS number, to_timestamp(number) AS at WHERE signal = 'value'
"""
_ROWS_READ = "SELECT sum(pg_stat_get_xact_tuples_returned(oid))::integer FROM pg_class WHERE relname ~ %s"
_TABLES = "^(sensors|projects|capture_session|run_vigils|telemetry_)"


@pytest.mark.postgres
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("planned", ["for nothing", "unanalyzed", "analyzed"])
async def test_batches_of_many_sensors_are_kept_by_what_indexes_lead_to(
    runner: asyncio.Runner, postgres_url: str, plans: str, planned: str
) -> None:
    async with PostgresUnitsOfWork.open(postgres_url) as units:
        lab = await Laboratory.open(units)
        presumed = await _presumed(lab)
        async with units.begin(System()) as uow:
            assert isinstance(uow, PostgresUnitOfWork)
            statements = uow._statements
            statements.write(f"SET LOCAL plan_cache_mode = {plans}", [])
            if planned == "for nothing":  # a plan that was made when there was next to nothing is kept for some time
                assert len(await append_presumed(statements, _with_key(presumed, "first")).rows()) == SENSORS
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                for statement in _FILL.split(";"):
                    connection.execute(statement.encode(), {"earlier": EARLIER})
                if planned == "analyzed":
                    connection.execute("ANALYZE")
            before = await statements.ask(_ROWS_READ, [_TABLES]).value()
            kept = await append_presumed(statements, presumed).rows()
            assert len(kept) == SENSORS
            assert await statements.ask(_ROWS_READ, [_TABLES]).value() - before < MOST_ROWS


@pytest.mark.postgres
def test_what_decides_sees_what_was_committed_before_its_locks_were_there(postgres_url: str) -> None:
    """Any other kind of function runs by what its caller sees."""
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT provolatile FROM pg_proc WHERE proname = 'batches_that_hold'").fetchall()
    assert found == [("v",)]


def test_the_statements_are_short_enough_for_what_is_known_of_them_to_be_kept() -> None:
    for statement in (*_KEEPING.values(), *_KEEPING_PRESUMED.values()):
        assert len(statement) <= _queries.MAX_CACHED_STATEMENT_LENGTH
        assert statement.count("%s") <= _queries.MAX_CACHED_STATEMENT_PARAMS


def _with_key(presumed: Sequence[Presumed], key: str) -> list[Presumed]:
    """Those batches under another key."""
    return [evolve(one, intake=evolve(one.intake, receipt=evolve(one.intake.receipt, key=key))) for one in presumed]


async def _presumed(lab: Laboratory) -> list[Presumed]:
    """A batch of each of some sensors, for sessions of their own."""
    presumed: list[Presumed] = []
    for _ in range(SENSORS):
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        session = await lab.session(run)
        await lab.ingest(made, a_batch(a_column([0], [0.0]), session=session.id))
        sensor = await lab.ask(lambda work: work.sensors.get(made.sensor.id))  # noqa: B023
        receipt = Receipt(
            capture_session_id=session.id,
            sensor_id=sensor.id,
            key="next",
            digest=b"",
            accepted=1,
            late=0,
            received_at=lab.clock.at,
            starts_at=lab.clock.at,
        )
        chunk = Chunk(column=a_column([micros(lab.clock.at)], [1.0]), physical=None)
        intake = Intake(receipt=receipt, project_id=lab.project.id, profile_id=None, is_late=False, chunks=[chunk])
        presumed.append(Presumed(sensor=sensor, future_tolerance=lab.project.future_tolerance, intake=intake))
    return presumed
