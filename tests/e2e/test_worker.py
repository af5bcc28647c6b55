"""The worker as a real process: it works, says what keeps it from that, and stops when it is told to."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import psycopg
import pytest

from entities import a_project, a_sensor
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.sensors import SIGNS_KEPT_FOR
from keeping import SYSTEM, keep

pytestmark = pytest.mark.e2e

COMMAND = (sys.executable, "-W", "error", "-m", "experiment_worker")
SOON = 30.0
STOPS_WITHIN = 8.0


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """That of an operator who has set only this."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("EXPERIMENT_")}, **more}


class Running:
    """A worker, and what it has logged so far."""

    def __init__(self, process: "subprocess.Popen[str]", written: IO[str]) -> None:
        self.process = process
        self._written = written

    def lines(self) -> list[Any]:
        self._written.seek(0)
        return [json.loads(line) for line in self._written.read().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, event: str) -> Any:
        """The first line of this event."""
        deadline = time.monotonic() + SOON
        while True:
            found = [line for line in self.lines() if event in line["event"]]
            if found:
                return found[0]
            assert self.process.poll() is None, self.lines()
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to stop, which must not take long, and leave nothing behind."""
        self.process.send_signal(number)
        assert self.process.wait(STOPS_WITHIN) == 0
        assert self.lines()[-1]["event"] == "worker stopped"
        assert [line for line in self.lines() if line["level"] == "critical"] == []


@contextmanager
def worker(more: Mapping[str, str]) -> Iterator[Running]:
    with (
        tempfile.TemporaryFile("w+") as written,
        subprocess.Popen(COMMAND, env=environment(more), stderr=written, text=True) as process,
    ):
        try:
            yield Running(process, written)
        finally:
            process.kill()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


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
        assert running.wait_for("first answers forgotten")["count"] == 3
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
        assert running.wait_for("signs of life forgotten")["count"] == 3
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
        # A retry waits for its time, which is later than anybody would wait for the worker.
        running.wait_for("Retrying message")
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


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis of its own, or the database of the given one that is for tests."""
    given, program = os.environ.get("EXPERIMENT_TEST_REDIS_URL"), shutil.which("redis-server")
    if given:
        yield given
        return
    if program is None:
        pytest.skip("no Redis for tests: EXPERIMENT_TEST_REDIS_URL is not set, and there is no redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            deadline = time.monotonic() + SOON
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, "Redis ended"
                    assert time.monotonic() < deadline, "Redis did not start"
                    time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


@pytest.mark.covers("worker.forget_first_answers")
def test_it_works_over_redis(postgres_url: str, redis_url: str) -> None:
    keep_answers(postgres_url)
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url, "EXPERIMENT_REDIS_URL": redis_url}) as running:
        assert running.wait_for("worker started")["redis"] is True
        assert running.wait_for("first answers forgotten")["count"] == 3
        assert keys(postgres_url) == {"new"}
        running.stop()


def test_it_outlives_an_absent_redis(postgres_url: str) -> None:
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    with worker({"EXPERIMENT_DATABASE_URL": postgres_url, "EXPERIMENT_REDIS_URL": redis_url}) as running:
        assert "redis" not in running.wait_for("the broker is away")["event"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(2 * STOPS_WITHIN) == 0
