"""Workers that relay, killed and left alone by everybody: each event arrives all the same, and in order."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from attrs import define, field
from hypothesis import settings

from entities import a_project, fresh, later
from experiment_adapters.embedded import EmbeddedPostgres
from experiment_adapters.postgres import migrations
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_adapters.streams.redis import FIELD, PREFIX
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.projects import Project
from fix_kafka import MockKafka
from fix_redis import RedisServer
from keeping import committed, keep
from workers import Running, until, worker

pytestmark = pytest.mark.e2e

IS_NIGHTLY = settings.get_current_profile_name() == "nightly"
KILLS, BURST = (50, 2_000) if IS_NIGHTLY else (1, 1_500)
ARRIVES_WITHIN = 90.0
TOPIC = "experiment.events"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@define
class Writer:
    """Records events of some subjects, each with its number within its subject."""

    url: str
    project: Project = field(factory=a_project)
    recorded: dict[str, int] = field(factory=lambda: defaultdict(int))

    @property
    def total(self) -> int:
        return sum(self.recorded.values())

    def begin(self) -> None:
        async def begin() -> None:
            async with PostgresUnitsOfWork.open(self.url) as units:
                await keep(units, self.project)

        asyncio.run(begin())

    def record(self, count: int) -> None:
        async def record() -> None:
            async with PostgresUnitsOfWork.open(self.url) as units:
                left = count
                while left:
                    portion = min(left, random.randrange(1, 50))
                    async with committed(units) as uow:
                        uow.events.record(*(self._event() for _ in range(portion)))
                    left -= portion

        asyncio.run(record())

    def check(self, arrived: Sequence[str | bytes], since: "dict[str, int] | None" = None) -> None:
        """Each event after those of `since` at least once, and the first arrivals of each subject in order."""
        seen = dict[str, None]()
        firsts = defaultdict[str, list[int]](list)
        for raw in arrived:
            event = json.loads(raw)
            if event["id"] not in seen:
                seen[event["id"]] = None
                firsts[event["subject"]].append(event["data"]["n"])
        for subject, count in self.recorded.items():
            start = (since or {}).get(subject, 0)
            assert [n for n in firsts[subject] if n > start] == list(range(start + 1, count + 1))

    def _event(self) -> RecordedEvent:
        subject = f"run/{random.randrange(10)}"
        self.recorded[subject] += 1
        data = {"n": self.recorded[subject]}
        event = Event(type="run.tagged", project_id=self.project.id, subject=subject, at=later(0), data=data)
        return RecordedEvent(id=fresh(), event=event, actor="ann")


@define
class Sinks:
    """What has arrived where."""

    writer: Writer
    client: Any
    kafka: MockKafka
    _consumer: Any = None
    _from_kafka: list[bytes] = field(factory=list[bytes])

    def in_redis(self) -> list[str]:
        try:
            return [entry[FIELD] for _, entry in self.client.xrange(f"{PREFIX}{self.writer.project.id}")]
        except redis.RedisError:
            return []

    def in_kafka(self) -> list[bytes]:
        if self._consumer is None:
            if TOPIC not in self.kafka.topics():
                return []
            self._consumer = self.kafka.consumer(TOPIC)
        self._from_kafka += [message.value() for message in self._consumer.consume(10_000, 0.2) if not message.error()]
        return self._from_kafka

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


def ids(arrived: Sequence[str | bytes]) -> set[str]:
    return {json.loads(raw)["id"] for raw in arrived}


def sinks_of(stack: ExitStack, writer: Writer, redis_url: str) -> tuple[Sinks, dict[str, str]]:
    """The sinks, and the settings of workers that relay to them."""
    kafka = stack.enter_context(MockKafka())
    client = stack.enter_context(closing(redis.Redis.from_url(redis_url, decode_responses=True)))
    more = {
        "EXPERIMENT_DATABASE_URL": writer.url,
        "EXPERIMENT_REDIS_URL": redis_url,
        "EXPERIMENT_KAFKA_BROKERS": ",".join(kafka.brokers),
    }
    return stack.enter_context(closing(Sinks(writer, client, kafka))), more


def test_workers_are_killed_while_they_relay(postgres_url: str, redis_url: str, stack: ExitStack) -> None:
    writer = Writer(postgres_url)
    writer.begin()
    sinks, more = sinks_of(stack, writer, redis_url)
    workers: list[Running] = [stack.enter_context(worker(more)) for _ in range(2)]
    for one in workers:
        one.wait_for("worker started")
    for number in range(KILLS):
        writer.record(BURST)
        before = len(sinks.in_redis())
        until(lambda: len(sinks.in_redis()) > before, ARRIVES_WITHIN)  # noqa: B023 - in the midst of it
        workers[number % 2].kill()
        workers[number % 2] = stack.enter_context(worker(more))
        sinks.in_kafka()  # the mock cluster forgets what is beyond 5 MiB in a partition
    until(lambda: len(ids(sinks.in_redis())) == writer.total, ARRIVES_WITHIN)
    until(lambda: len(ids(sinks.in_kafka())) == writer.total, ARRIVES_WITHIN)
    writer.check(sinks.in_redis())
    writer.check(sinks.in_kafka())
    for one in workers:
        one.wait_for("worker started")
        one.stop()


@pytest.mark.skipif(not IS_NIGHTLY, reason="it takes long: `nox -s nightly` does it")
def test_servers_go_away_and_come_back_with_or_without_what_they_had(
    data_dir: Path, own_redis: RedisServer, stack: ExitStack
) -> None:
    server = EmbeddedPostgres(data_dir)
    writer = Writer(server.start())
    stack.callback(server.stop)
    migrations.upgrade(writer.url)
    writer.begin()
    sinks, more = sinks_of(stack, writer, own_redis.url)
    running = stack.enter_context(worker(more))
    running.wait_for("worker started")
    writer.record(100)
    until(lambda: len(ids(sinks.in_redis())) == len(ids(sinks.in_kafka())) == 100, ARRIVES_WITHIN)
    before = dict(writer.recorded)
    own_redis.kill()
    # One sink being away does not hold up the other.
    writer.record(100)
    until(lambda: len(ids(sinks.in_kafka())) == 200, ARRIVES_WITHIN)
    own_redis.start()
    until(lambda: len(ids(sinks.in_redis())) == 100, ARRIVES_WITHIN)
    writer.check(sinks.in_redis(), before)
    sinks.client.flushall()
    before = dict(writer.recorded)
    writer.record(100)
    until(lambda: len(ids(sinks.in_redis())) == 100, ARRIVES_WITHIN)
    server.stop()
    until(lambda: running.told("events wait for their sink"), ARRIVES_WITHIN)
    writer.url = server.start()
    assert writer.url == more["EXPERIMENT_DATABASE_URL"]
    writer.record(100)
    until(lambda: len(ids(sinks.in_redis())) == 200, ARRIVES_WITHIN)
    until(lambda: len(ids(sinks.in_kafka())) == 400, ARRIVES_WITHIN)
    writer.check(sinks.in_redis(), before)
    writer.check(sinks.in_kafka())
    running.process.terminate()
    assert running.process.wait(30) == 0
