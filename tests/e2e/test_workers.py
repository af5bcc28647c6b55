"""Workers beside each other, over a real Redis: killed, cut off, poisoned, and without anything to do."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest
import redis

from counting import counted
from fix_redis import RedisServer
from workers import SOON, STOPS_WITHIN, Running, until, worker

pytestmark = pytest.mark.e2e

TAKEN_OVER_WITHIN = 10.0
WORK_TAKEN_OVER_WITHIN = 30.0
MOST_QUERIES = 5.0
LONG = bool(os.environ.get("HYPOTHESIS_PROFILE") == "nightly")

# A worker whose chores are only these: one that is done often, and one that is poison.
WITH_CHORES = """
import os, signal
from datetime import timedelta
from functools import partial
import experiment_worker.main as main
from experiment_domain.usecases import chores as module
from experiment_domain.usecases.chores import Routine, work_off_chores
from experiment_worker import work
from experiment_worker.work import Kind

async def often(services, is_over):
    return 1

async def poison(services, is_over):
    os.kill(os.getpid(), signal.SIGKILL)

module.CLAIM_LASTS = timedelta(seconds=float(os.environ["CLAIM"]))
chores = {"often": often, "poison": poison}
routines = {name: Routine(chores[name], timedelta(seconds=0.2)) for name in os.environ["CHORES"].split(",")}
main.WORK = {"chores": Kind(work_off=partial(work_off_chores, routines=routines, watcher=work._Log()), every=0.5)}
main.main()
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def settings(postgres_url: str, redis_url: str, chores: str = "often") -> dict[str, str]:
    return {
        "EXPERIMENT_DATABASE_URL": postgres_url,
        "EXPERIMENT_REDIS_URL": redis_url,
        "CHORES": chores,
        "CLAIM": "20" if LONG else "2",
    }


def with_chores(stack: ExitStack, more: dict[str, str]) -> Running:
    return stack.enter_context(worker(more, (sys.executable, "-W", "error", "-c", WITH_CHORES)))


def done(url: str, name: str = "often") -> object:
    """When a chore was done last."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT done_at FROM chores WHERE name = %s", [name]).fetchone()
        return row and row[0]


def goes_on(url: str, within: float, name: str = "often") -> float:
    """How many seconds it took until the chore was done again."""
    before, began = done(url, name), time.monotonic()
    until(lambda: done(url, name) not in (None, before), within)
    return time.monotonic() - began


def leads(running: Running) -> bool:
    """Whether it is this one that nudges, as far as it knows."""
    told = [line["event"] for line in running.lines() if line["event"].startswith("gives ")]
    return told[-1:] == ["gives the nudges"]


def test_one_nudges_and_soon_another_one_when_it_is_cut_off_or_killed(
    postgres_url: str, redis_url: str, stack: ExitStack
) -> None:
    workers = [with_chores(stack, settings(postgres_url, redis_url)) for _ in range(2)]
    for one in workers:
        one.wait_for("worker started")
    until(lambda: any(map(leads, workers)), TAKEN_OVER_WITHIN)
    goes_on(postgres_url, WORK_TAKEN_OVER_WITHIN)
    assert sorted(map(leads, workers)) == [False, True]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND datname = current_database()"
        )
    until(lambda: sum(len(one.told("gives the nudges")) for one in workers) == 2, TAKEN_OVER_WITHIN)
    until(lambda: sorted(map(leads, workers)) == [False, True], TAKEN_OVER_WITHIN)
    second, first = sorted(workers, key=leads)
    first.kill()
    until(lambda: leads(second), TAKEN_OVER_WITHIN)
    goes_on(postgres_url, WORK_TAKEN_OVER_WITHIN)
    second.stop()


def test_another_one_nudges_soon_when_the_one_that_did_is_stopped(
    postgres_url: str, redis_url: str, stack: ExitStack
) -> None:
    workers = [with_chores(stack, settings(postgres_url, redis_url)) for _ in range(2)]
    for one in workers:
        one.wait_for("worker started")
    until(lambda: any(map(leads, workers)), TAKEN_OVER_WITHIN)
    second, first = sorted(workers, key=leads)
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: leads(second), TAKEN_OVER_WITHIN)
    goes_on(postgres_url, WORK_TAKEN_OVER_WITHIN)
    first.process.send_signal(signal.SIGCONT)
    first.wait_for("gives no nudges any more")
    for one in workers:
        one.stop()


def test_what_a_killed_worker_was_at_is_taken_over_and_poison_laid_aside(
    postgres_url: str, redis_url: str, stack: ExitStack
) -> None:
    """One worker at a time, each started when the one before it is dead."""
    tries = 10 if LONG else 1
    more = settings(postgres_url, redis_url, "poison,often")
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO chores (name, due_at, attempts) VALUES ('poison', clock_timestamp(), %s)", [10 - tries]
        )
        for _ in range(tries):
            running = with_chores(stack, more)
            assert running.process.wait(SOON) == -signal.SIGKILL
        running = with_chores(stack, more)
        began = time.monotonic()
        running.wait_for("chore laid aside", chore="poison")
        assert time.monotonic() - began < WORK_TAKEN_OVER_WITHIN
        goes_on(postgres_url, WORK_TAKEN_OVER_WITHIN)
        running.stop()
        row = admin.execute(
            "SELECT attempts, error, due_at - clock_timestamp() > '50 minutes' FROM chores WHERE name = 'poison'"
        ).fetchone()
    assert row == (0, "10 workers in a row ended without a word while they were at it.", True)


def test_work_goes_on_when_redis_is_emptied_killed_and_back_with_nothing(
    postgres_url: str, own_redis: RedisServer, stack: ExitStack
) -> None:
    running = with_chores(stack, settings(postgres_url, own_redis.url))
    goes_on(postgres_url, WORK_TAKEN_OVER_WITHIN)
    with closing(redis.Redis.from_url(own_redis.url)) as client:
        client.flushall()
    assert goes_on(postgres_url, 60) < 60
    own_redis.kill()
    running.wait_for("the broker is away")
    own_redis.start()
    assert goes_on(postgres_url, 60) < 60
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(STOPS_WITHIN) == 0


def test_an_idle_worker_asks_little_of_its_database(postgres_url: str, redis_url: str) -> None:
    seconds = 60.0 if LONG else 6.0
    with ExitStack() as stack:
        door = stack.enter_context(counted(postgres_url))
        more = {"EXPERIMENT_DATABASE_URL": door.url, "EXPERIMENT_REDIS_URL": redis_url, "EXPERIMENT_LOG_LEVEL": "debug"}
        running = stack.enter_context(worker(more))
        running.wait_for("chore done", chore="forget_signs_of_life")
        time.sleep(1)
        before = door.statements
        time.sleep(seconds)
        rate = (door.statements - before) / seconds
        running.stop()
    assert 0 < rate < MOST_QUERIES
