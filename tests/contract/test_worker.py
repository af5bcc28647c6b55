"""The worker's parts: nudges in their time, actors on a broker, who leads, and what is held open for them."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from inspect import isawaitable
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import structlog
from dramatiq import Broker, Worker
from dramatiq.errors import ConnectionClosed
from redis.exceptions import ConnectionError as RedisAway

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_adapters.postgres.leadership import Leadership
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_domain import Services
from experiment_domain.kernel.errors import Unavailable
from experiment_worker.actors import actors_of
from experiment_worker.brokers import STALE_AFTER, broker_of
from experiment_worker.main import THREADS
from experiment_worker.schedule import LOOKS_EVERY, Schedule
from experiment_worker.work import WORK, Kind
from servers import free_port


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def let_pass(schedule: Schedule, time: Time, seconds: float) -> None:
    """Tick as often as the schedule asks for."""
    end = time.now + seconds
    while True:
        wait = schedule.tick()
        assert 0 < wait <= LOOKS_EVERY
        if time.now + wait > end:
            time.now = end
            return
        time.now += wait


def test_nudges_come_at_once_and_then_at_their_intervals():
    time, given = Time(), list[tuple[str, float]]()

    def nudge(name: str) -> Callable[[], None]:
        return lambda: given.append((name, time.now - 1000))

    let_pass(Schedule({nudge("often"): 10.0, nudge("rarely"): 25.0}, time), time, 35.0)
    assert [at for name, at in given if name == "often"] == [0, 10, 20, 30]
    assert [at for name, at in given if name == "rarely"] == [0, 25]


def test_what_was_missed_is_not_made_up_for():
    time, given = Time(), list[float]()
    schedule = Schedule({lambda: given.append(time.now): 10.0}, time)
    schedule.tick()
    time.now += 95.0
    let_pass(schedule, time, 9.0)
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
        let_pass(schedule, time, 15.0)
    assert tries == [1000.0, 1010.0]
    assert [entry["log_level"] for entry in logs] == ["info", "warning", "warning"]


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
def working(broker: Broker, threads: int = 2) -> Iterator[Worker]:
    worker = Worker(broker, worker_timeout=50, worker_threads=threads)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=10_000)
        broker.close()


def doing(work: Callable[[], Any], every: float = 10.0, at_once: int = 1, seconds: float = 60.0) -> Kind:
    async def work_off(services: Services, *, seconds: float, stopping: Callable[[], bool]) -> int:
        result = work()
        return await result if isawaitable(result) else result

    return Kind(work_off=work_off, every=every, at_once=at_once, seconds=seconds)


def actors_on(broker: Broker, **work: Kind) -> Any:
    return actors_of(broker, Services(units_of_work=MemoryUnitsOfWork()), work)


def test_a_nudge_leads_to_work_between_opening_and_closing():
    held = Held()
    broker = broker_of(None, held.open())
    actors = actors_on(broker, sweep=doing(lambda: 3), idle=doing(lambda: 0))
    with structlog.testing.capture_logs() as logs, working(broker):
        assert held.told == ["opened"]
        actors["sweep"].send()
        actors["idle"].send()
        joined(broker)
        assert held.told == ["opened"]
    assert held.told == ["opened", "closed"]
    assert [(entry["kind"], entry["count"]) for entry in logs if entry["event"] == "worked off"] == [("sweep", 3)]


def test_nudges_beyond_what_may_be_done_at_once_are_for_nothing():
    tries, free = list[int](), threading.Event()

    async def slow() -> int:
        tries.append(1)
        await asyncio.to_thread(free.wait, 10)
        return 1

    broker = broker_of(None, Held().open())
    actors = actors_on(broker, slow=doing(slow, at_once=2), quick=doing(lambda: tries.append(2) or 1))
    with working(broker, threads=4):
        for _ in range(6):
            actors["slow"].send()
        until(lambda: len(tries) == 2)
        actors["quick"].send()
        until(lambda: tries == [1, 1, 2])
        free.set()
        joined(broker)
        assert tries == [1, 1, 2]
        actors["slow"].send()
        until(lambda: tries == [1, 1, 2, 1])


@pytest.mark.parametrize(
    ("error", "event", "level"),
    [
        (Unavailable("away"), "the database is away; work waits in its rows", "warning"),
        (ZeroDivisionError(), "work broke off", "error"),
    ],
)
def test_what_breaks_off_is_told_and_nothing_is_tried_again_before_the_next_nudge(
    error: Exception, event: str, level: str
):
    tries = list[int]()

    def broken() -> int:
        tries.append(1)
        raise error

    broker = broker_of(None, Held().open())
    actors = actors_on(broker, broken=doing(broken))
    with structlog.testing.capture_logs() as logs, working(broker):
        actors["broken"].send()
        joined(broker)
        assert len(tries) == 1
        actors["broken"].send()
        joined(broker)
    assert len(tries) == 2
    assert [(entry["event"], entry["log_level"]) for entry in logs if "kind" in entry] == [(event, level)] * 2


def test_work_that_hangs_is_broken_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiment_worker.actors.PATIENCE", 0.1)
    broker = broker_of(None, Held().open())
    actors = actors_on(broker, hanging=doing(lambda: asyncio.sleep(3600), seconds=0.0))
    with structlog.testing.capture_logs() as logs, working(broker):
        actors["hanging"].send()
        joined(broker)
    assert [entry["kind"] for entry in logs if entry["event"] == "work broke off"] == ["hanging"]


def test_work_without_an_end_goes_on_until_the_worker_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiment_worker.actors.PATIENCE", 0.0)
    stopping, told = threading.Event(), list[float]()

    async def work_off(services: Services, *, seconds: float, stopping: Callable[[], bool]) -> int:
        told.append(seconds)
        while not stopping():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.01)
        return 7

    broker = broker_of(None, Held().open())
    kind = Kind(work_off=work_off, every=10.0, seconds=math.inf)
    actors = actors_of(broker, Services(units_of_work=MemoryUnitsOfWork()), {"endless": kind}, stopping.is_set)
    with structlog.testing.capture_logs() as logs, working(broker):
        actors["endless"].send()
        until(lambda: told)
        time.sleep(0.1)
        stopping.set()
        joined(broker)
    assert told == [math.inf]
    assert [(entry["event"], entry["count"]) for entry in logs if "kind" in entry] == [("worked off", 7)]


def test_delivering_webhooks_has_no_end_at_which_events_would_wait_for_endpoints_that_hang():
    assert WORK["webhooks"].seconds == math.inf


def test_nudges_that_piled_up_are_passed_over():
    tries = list[int]()
    broker: Any = broker_of(None, Held().open())
    actors = actors_on(broker, sweep=doing(lambda: tries.append(1) or 1))
    stale = actors["sweep"].message()
    for age in (2 * STALE_AFTER, STALE_AFTER + 1_000, 0):
        broker.enqueue(stale.copy(message_id=f"of {age}", message_timestamp=stale.message_timestamp - age))
    with working(broker):
        joined(broker)
    assert tries == [1]
    assert broker.dead_letters == []


def test_every_kind_of_work_has_an_actor_and_a_thread():
    broker = broker_of(None, Held().open())
    actors = actors_of(broker, Services(units_of_work=MemoryUnitsOfWork()), WORK)
    assert actors.keys() == WORK.keys() == broker.get_declared_actors()
    assert sum(kind.at_once for kind in WORK.values()) < THREADS
    assert all(0 < kind.every <= 10 for kind in WORK.values())


def test_without_redis_a_nudge_is_lost_and_no_more():
    broker = broker_of(f"redis://127.0.0.1:{free_port()}/0", Held().open())
    actors = actors_on(broker, sweep=doing(lambda: 0))
    with structlog.testing.capture_logs() as logs:
        assert Schedule({actors["sweep"].send: 1.0}).tick() <= 1
    assert [entry["event"] for entry in logs] == ["gives the nudges", "the broker is away; a nudge was lost"]
    broker.close()


def joined(broker: Any) -> None:
    broker.join("default", timeout=10_000)


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def leadership(postgres_url: str) -> Iterator[Callable[[], Leadership]]:
    """Makes processes' parts in one leadership."""
    made = list[Leadership]()

    def make() -> Leadership:
        made.append(Leadership(DatabaseSettings(url=postgres_url), "schedule"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_one_leads_until_its_connection_is_gone(leadership: Callable[[], Leadership], postgres_url: str):
    first, second, other = leadership(), leadership(), Leadership(DatabaseSettings(url=postgres_url), "relay")
    with closing(other):
        assert [first.holds(), first.holds(), second.holds(), other.holds()] == [True, True, False, True]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND datname = current_database()"
        )
    until(second.holds)
    assert first.holds() is False  # it has noticed
    assert first.holds() is False  # and stands in line again
    second.close()
    until(first.holds)


def test_who_is_stopped_does_not_lead_for_long(leadership: Callable[[], Leadership], postgres_url: str):
    second = leadership()
    with closing(Leadership(DatabaseSettings(url=postgres_url), "schedule", silent_for=0.5)) as first:
        for _ in range(20):
            assert (first.holds(), second.holds()) == (True, False)
            time.sleep(0.05)
        until(second.holds)  # without a word from the first, whose connection is still open
        assert first.holds() is False  # it has noticed
        assert first.holds() is False


def test_nobody_leads_without_a_database():
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with closing(Leadership(DatabaseSettings(url=url), "schedule")) as leadership:
        assert leadership.holds() is False


def test_only_who_leads_nudges_and_it_looks_often():
    time, given, leads = Time(), list[float](), [False]
    schedule = Schedule({lambda: given.append(time.now): 10.0}, time, leads=lambda: leads[0])
    for turn in range(40):
        leads[0] = 5 <= turn < 20
        wait = schedule.tick()
        assert wait <= LOOKS_EVERY
        time.now += wait
    assert given
    assert all(later - earlier == 10 for earlier, later in pairwise(given))
    assert 1000 + 5 * LOOKS_EVERY <= given[0] <= 1000 + 6 * LOOKS_EVERY
    assert given[-1] <= 1000 + 20 * LOOKS_EVERY
