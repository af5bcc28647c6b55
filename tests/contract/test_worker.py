"""The worker's parts: nudges in their time, actors on a broker, and what is held open for them."""

import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from dramatiq import Broker, Worker
from dramatiq.errors import ConnectionClosed
from redis.exceptions import ConnectionError as RedisAway

from entities import a_project, a_sensor
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain import Services, System
from experiment_domain.idempotency import KEPT_FOR, IdempotencyKey, RememberedAnswer
from experiment_domain.sensors import SIGNS_KEPT_FOR, Sensor, SignsWindow
from experiment_worker.actors import Actors
from experiment_worker.brokers import broker_of
from experiment_worker.schedule import Schedule
from keeping import ask, keep


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nudges_come_at_once_and_then_at_their_intervals():
    time, given = Time(), list[str]()
    schedule = Schedule({lambda: given.append("often"): 10.0, lambda: given.append("rarely"): 25.0}, time)
    waits = list[float]()
    for _ in range(6):
        waits.append(schedule.tick())
        time.now += waits[-1]
    assert given == ["often", "rarely", "often", "often", "rarely", "often", "often"]
    assert waits == [10.0, 10.0, 5.0, 5.0, 10.0, 10.0]


def test_what_was_missed_is_not_made_up_for():
    time, given = Time(), list[float]()
    schedule = Schedule({lambda: given.append(time.now): 10.0}, time)
    schedule.tick()
    time.now += 95.0
    assert schedule.tick() == 10.0
    assert given == [1000.0, 1095.0]


def test_a_schedule_stops_while_it_waits():
    stop, nudged = threading.Event(), threading.Event()
    running = threading.Thread(target=Schedule({nudged.set: 3600.0}).run, args=[stop])
    running.start()
    assert nudged.wait(10)
    stop.set()
    running.join(10)
    assert not running.is_alive()


@pytest.mark.parametrize("error", [ConnectionClosed("gone"), RedisAway("gone")])
def test_a_lost_broker_is_survived(error: Exception):
    time, tries = Time(), list[float]()

    def nudge() -> None:
        tries.append(time.now)
        raise error

    schedule = Schedule({nudge: 10.0}, time)
    with structlog.testing.capture_logs() as logs:
        time.now += schedule.tick()
        schedule.tick()
    assert tries == [1000.0, 1010.0]
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"]


def test_a_fault_of_a_nudge_is_not_taken_for_a_lost_broker():
    def nudge() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Schedule({nudge: 10.0}).tick()


class Held:
    """Something that is open while actors run, and tells when."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        self.told.append("opened")
        yield
        self.told.append("closed")


@contextmanager
def working(broker: Broker) -> Iterator[Worker]:
    worker = Worker(broker, worker_timeout=50, worker_threads=2)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=10_000)
        broker.close()


async def keep_answers(services: Services) -> None:
    async with services.begin(System()) as work:
        for name, age in {"old": KEPT_FOR + timedelta(minutes=1), "new": timedelta(hours=1)}.items():
            answer = RememberedAnswer(fingerprint=b"f", content=b"c", answered_at=datetime.now(UTC) - age)
            work.idempotency.remember(IdempotencyKey(principal="ada", key=name), answer)


def test_an_actor_forgets_old_answers_between_opening_and_closing():
    import asyncio

    services, held = Services(units_of_work=MemoryUnitsOfWork()), Held()
    asyncio.run(keep_answers(services))
    broker: Any = broker_of(None, held.open())
    actors = Actors.on(broker, services)
    with structlog.testing.capture_logs() as logs, working(broker):
        assert held.told == ["opened"]
        actors.forget_first_answers.send()
        broker.join("default", timeout=10_000)
        assert held.told == ["opened"]
    assert held.told == ["opened", "closed"]
    assert [entry["count"] for entry in logs if entry["event"] == "first answers forgotten"] == [1]


async def give_signs(services: Services, sensor: Sensor, *ages: timedelta) -> None:
    async with services.units_of_work.begin(System()) as uow:
        for age in ages:
            uow.sensors.renew_sign_of_life(sensor.id, datetime.now(UTC) - age)
        await uow.commit()


def test_an_actor_forgets_old_signs_of_life_however_many(monkeypatch: pytest.MonkeyPatch):
    import asyncio

    monkeypatch.setattr("experiment_worker.actors.FORGOTTEN_AT_ONCE", 4)
    services = Services(units_of_work=MemoryUnitsOfWork())
    project = a_project()
    sensor = a_sensor(project)
    asyncio.run(keep(services.units_of_work, project, sensor))
    old = [SIGNS_KEPT_FOR + timedelta(minutes=2 + number) for number in range(9)]
    asyncio.run(give_signs(services, sensor, *old, SIGNS_KEPT_FOR - timedelta(minutes=2), timedelta()))
    broker: Any = broker_of(None, Held().open())
    actors = Actors.on(broker, services)
    with structlog.testing.capture_logs() as logs, working(broker):
        actors.forget_signs_of_life.send()
        broker.join("default", timeout=10_000)
    assert [entry["count"] for entry in logs if entry["event"] == "signs of life forgotten"] == [9]
    window = SignsWindow.of(start=datetime.now(UTC) - 2 * SIGNS_KEPT_FOR, end=None, bucket=1_200, now=datetime.now(UTC))
    left = asyncio.run(ask(services.units_of_work, lambda uow: uow.sensors.signs_of_life(sensor.id, window)))
    assert sum(signs.count for signs in left) == 2


def test_stopping_does_not_wait_for_retries():
    class Broken(MemoryUnitsOfWork):
        def begin(self, principal: Any, *, read_only: bool = False) -> Any:
            tried.set()
            raise OSError("away")

    tried, held = threading.Event(), Held()
    broker: Any = broker_of(None, held.open())
    actors = Actors.on(broker, Services(units_of_work=Broken()))
    with working(broker) as worker:
        actors.forget_first_answers.send()
        assert tried.wait(10)
        until(lambda: any(consumer.delay_queue.qsize() for consumer in worker.consumers.values()))
    assert held.told == ["opened", "closed"]


def test_without_redis_a_nudge_is_lost_and_no_more():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    broker = broker_of(f"redis://127.0.0.1:{port}/0", Held().open())
    actors = Actors.on(broker, Services(units_of_work=MemoryUnitsOfWork()))
    with structlog.testing.capture_logs() as logs:
        assert 0 < Schedule({actors.forget_first_answers.send: 10.0}).tick() <= 10
    assert [entry["event"] for entry in logs] == ["the broker is away; a nudge was lost"]
    broker.close()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
