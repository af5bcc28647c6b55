"""The worker as a real process: it works, says what keeps it from that, and stops when it is told to."""

import asyncio
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from entities import a_project, a_sensor
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.sensors import SIGNS_KEPT_FOR
from keeping import SYSTEM, keep
from servers import free_port
from workers import COMMAND, SOON, STOPS_WITHIN, environment, worker

pytestmark = pytest.mark.e2e


def keep_answers(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO idempotency_records (principal, key, fingerprint, content, answered_at)"
            " SELECT 'ada', key, '\\x01', '\\x02', now() - make_interval(hours => hours)"
            " FROM (VALUES ('old', 25), ('older', 26), ('oldest', 700), ('new', 1)) answers (key, hours)"
        )


def keys(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM idempotency_records")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.covers("worker.forget_first_answers")
def test_it_forgets_what_is_old_and_stops(postgres_url: str, number: signal.Signals) -> None:
    keep_answers(postgres_url)
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url}) as running:
        assert running.wait_for("chore done", chore="forget_first_answers")["count"] == 3
        assert keys(postgres_url) == {"new"}
        running.stop(number)


async def give_signs(url: str, *ages: timedelta) -> None:
    """Signs of life of a new sensor."""
    project = a_project()
    sensor = a_sensor(project)
    async with PostgresUnitsOfWork.open(url) as units:
        await keep(units, project, sensor)
        async with units.begin(SYSTEM) as uow:
            for age in ages:
                uow.sensors.renew_sign_of_life(sensor.id, datetime.now(UTC) - age)
            await uow.commit()


@pytest.mark.covers("worker.forget_signs_of_life")
def test_it_forgets_old_signs_of_life(postgres_url: str) -> None:
    old = [SIGNS_KEPT_FOR + timedelta(minutes=2 + number) for number in range(3)]
    asyncio.run(give_signs(postgres_url, *old, SIGNS_KEPT_FOR - timedelta(minutes=2), timedelta()))
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url}) as running:
        assert running.wait_for("chore done", chore="forget_signs_of_life")["count"] == 3
        running.stop()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT sum(count) FROM sensor_signs_of_life").fetchone() == (2,)


def test_it_stops_while_its_database_is_away() -> None:
    port = free_port()
    more = {
        "EXPERIMENT_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/nothing",
        "EXPERIMENT_DATABASE_POOL_TIMEOUT": "0.5",
    }
    with worker(more) as running:
        running.wait_for("the database is away")
        assert running.wait_for("error connecting")["logger"] == "psycopg.pool"
        running.stop()


def test_it_stops_in_the_middle_of_waiting_for_its_database() -> None:
    with worker({"EXPERIMENT_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"}) as running:
        running.wait_for("error connecting")
        running.stop()


def test_without_a_database_it_says_so_and_ends() -> None:
    done = subprocess.run(COMMAND, env=environment({}), capture_output=True, text=True, check=False, timeout=SOON)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("experiment-service worker: EXPERIMENT_DATABASE_URL is not set: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.covers("worker.forget_first_answers")
def test_it_works_over_redis(postgres_url: str, redis_url: str) -> None:
    keep_answers(postgres_url)
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url, "EXPERIMENT_REDIS_URL": redis_url}) as running:
        assert running.wait_for("worker started")["redis"] is True
        assert running.wait_for("chore done", chore="forget_first_answers")["count"] == 3
        assert keys(postgres_url) == {"new"}
        running.stop()


def test_it_outlives_an_absent_redis(postgres_url: str) -> None:
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url, "EXPERIMENT_REDIS_URL": redis_url}) as running:
        assert "redis" not in running.wait_for("the broker is away")["event"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(2 * STOPS_WITHIN) == 0
