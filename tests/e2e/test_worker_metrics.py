"""The metrics of real workers, as they are scraped."""

import asyncio
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from entities import SettableClock, a_project, a_sensor
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.sensors import SensorStatus
from experiment_worker.work import WORK
from keeping import SYSTEM, keep
from laboratory import SECRET_KEY, Laboratory
from receiver import Receiver, status
from servers import free_port
from workers import until, worker

pytestmark = pytest.mark.e2e

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def settings(url: str, port: int, **more: str) -> dict[str, str]:
    return {
        "EXPERIMENT_DATABASE_URL": url,
        "EXPERIMENT_SECRET_KEY": SECRET_KEY.decode(),
        "EXPERIMENT_WEBHOOK_ALLOW_PRIVATE": "true",
        "EXPERIMENT_WEBHOOK_RETRY_DELAYS": "0.1,600",
        "EXPERIMENT_WORKER_METRICS_PORT": str(port),
        **more,
    }


def scraped(port: int) -> tuple[str, Samples]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return text, samples


def value(port: int, name: str, **labels: str) -> float:
    return scraped(port)[1].get((f"experiment_worker_{name}", frozenset(labels.items())), 0.0)


async def in_laboratory(url: str, do: Callable[[Laboratory], Any]) -> Any:
    async with PostgresUnitsOfWork.open(url) as units:
        return await do(await Laboratory.open(units, SettableClock(datetime.now(UTC))))


async def a_silent_sensor(url: str) -> None:
    project = a_project()
    sensor = a_sensor(project, status=SensorStatus.ACTIVE)
    async with PostgresUnitsOfWork.open(url) as units:
        await keep(units, project, sensor)
        async with units.begin(SYSTEM) as uow:
            uow.sensors.renew_sign_of_life(sensor.id, datetime.now(UTC) - timedelta(minutes=6))
            await uow.commit()


@pytest.mark.covers("worker.look_at_sensors")
def test_a_worker_tells_what_it_does_and_no_secret(postgres_url: str) -> None:
    port = free_port()
    secrets: list[str] = []

    async def subscribe_and_tell(lab: Laboratory) -> None:
        for path in ("/hook", "/broken"):
            made = await lab.webhook(url=receiver.url(path), event_types=["run.created"])
            secrets.extend((made.secret, str(made.subscription.id), str(lab.project.id)))
        for _ in range(3):
            await lab.run()

    asyncio.run(a_silent_sensor(postgres_url))
    with Receiver().in_thread() as receiver:
        receiver.answers["/broken"] = status(500)
        with worker(settings(postgres_url, port)) as running:
            running.wait_for("worker started")
            asyncio.run(in_laboratory(postgres_url, subscribe_and_tell))
            until(lambda: value(port, "webhook_attempts_total", result="delivered") == 3)
            until(lambda: value(port, "webhook_attempts_total", result="failed") == 6)
            assert value(port, "webhook_delay_seconds_count") == 3
            assert value(port, "webhook_attempt_duration_seconds_count", result="failed") == 6
            until(lambda: value(port, "chore_things_total", chore="look_at_sensors") == 1)
            assert value(port, "chores_total", chore="look_at_sensors", result="done") >= 1
            assert value(port, "chore_duration_seconds_count", chore="look_at_sensors") >= 1
            until(lambda: value(port, "runs_total", kind="chores", result="done") >= 1)
            text, samples = scraped(port)
            told = {dict(labels)["kind"] for name, labels in samples if name == "experiment_worker_waiting"}
            assert told == WORK.keys()
            for secret in (*secrets, SECRET_KEY.decode(), "127.0.0.1", "/hook"):
                assert secret.removeprefix("whsec_") not in text
            running.stop()
    with psycopg.connect(postgres_url) as connection:
        events = connection.execute("SELECT type FROM outbox WHERE type LIKE 'sensor.o%'").fetchall()
    assert events == [("sensor.offline",)]


def test_what_waits_and_how_far_a_relay_is_behind_is_told(postgres_url: str, redis_url: str) -> None:
    port = free_port()

    async def leave_work(lab: Laboratory) -> None:
        await lab.webhook(event_types=["run.created"])
        await lab.run()

    asyncio.run(in_laboratory(postgres_url, leave_work))
    more = settings(postgres_url, port, EXPERIMENT_REDIS_URL=redis_url)
    del more["EXPERIMENT_SECRET_KEY"]  # what cannot be signed waits
    with worker(more) as running:
        running.wait_for("worker started")
        until(lambda: value(port, "relayed_events_total", sink="redis") > 0)
        until(lambda: value(port, "waiting", kind="webhooks") == 1)
        assert value(port, "left_behind", kind="webhooks") == 0
        until(lambda: ("experiment_worker_relay_lag_seconds", frozenset({("sink", "redis")})) in scraped(port)[1])
        running.stop()


def test_a_port_that_is_taken_is_told_and_none_is_opened_unasked(postgres_url: str) -> None:
    port = free_port()
    with worker(settings(postgres_url, port)) as first:
        first.wait_for("worker started")
        with worker(settings(postgres_url, port)) as second:
            assert second.process.wait(30) == 1
        first.stop()
    with worker(settings(postgres_url, 0)) as running:
        running.wait_for("worker started")
        with pytest.raises(OSError):  # noqa: PT011 - whatever the system says of a port that nobody listens on
            scraped(port)
        running.stop()
