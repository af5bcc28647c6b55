"""Event sinks on the real thing: a Redis, and the Kafka that librdkafka brings along."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from cloudevents.core.formats.json import JSONFormat
from redis.asyncio import Redis

from entities import fresh, later
from experiment_adapters.streams import kafka
from experiment_adapters.streams.kafka import Kafka
from experiment_adapters.streams.redis import FIELD, STREAMS, RedisStreams, stream_of
from experiment_domain.kernel.cloudevents import cloud_event
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.relays import SinkAway
from fix_kafka import MockKafka
from keeping import ODD_TEXT
from servers import free_port

PROJECT, OTHER = fresh(), fresh()


def some_events(count: int, project_id=PROJECT, subjects: int = 3) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            id=fresh(),
            event=Event(
                type="run.tagged",
                project_id=project_id,
                subject=f"run/{number % subjects}",
                at=later(number),
                data={"n": number, "text": ODD_TEXT},
            ),
            actor="ann",
        )
        for number in range(count)
    ]


def check_by_sdk(raw: str | bytes, recorded: RecordedEvent) -> None:
    """The SDK reads from it what we have written, and has filled in nothing."""
    attributes = json.loads(raw)
    assert attributes == cloud_event(recorded)
    event = JSONFormat().read(None, raw)
    assert (event.get_id(), event.get_type(), event.get_subject()) == (
        str(recorded.id),
        recorded.event.type,
        recorded.event.subject,
    )
    assert event.get_time() == recorded.event.at
    assert event.get_data() == dict(recorded.event.data)
    assert event.get_extension("projectid") == str(recorded.event.project_id)


@asynccontextmanager
async def streams(url: str, kept_for: float = 3600.0) -> AsyncGenerator[tuple[RedisStreams, Redis]]:
    sink = RedisStreams(url, kept_for)
    try:
        async with Redis.from_url(url, decode_responses=True) as client:
            yield sink, client
    finally:
        await sink.close()


async def in_stream(client: Any, recorded: RecordedEvent) -> list[str]:
    return [entry[FIELD] for _, entry in await client.xrange(stream_of(recorded))]


async def test_each_project_has_a_stream_of_cloud_events(runner: asyncio.Runner, redis_url: str):
    mine, theirs = some_events(7), some_events(3, OTHER)
    async with streams(redis_url) as (sink, client):
        await sink.publish([*mine[:4], *theirs])
        await sink.publish(mine[4:])
        for events in (mine, theirs):
            found = await in_stream(client, events[0])
            assert len(found) == len(events)
            for raw, recorded in zip(found, events, strict=True):
                check_by_sdk(raw, recorded)
        await sink.tidy()
        assert len(await in_stream(client, mine[0])) == 7


async def test_streams_are_bounded_by_age(runner: asyncio.Runner, redis_url: str):
    old, new = some_events(3), some_events(2)
    async with streams(redis_url, kept_for=0.5) as (sink, client):
        await sink.publish(old)
        await asyncio.sleep(0.6)
        await sink.publish(new)
        await sink.tidy()
        assert [json.loads(raw)["id"] for raw in await in_stream(client, new[0])] == [str(one.id) for one in new]
        await client.flushdb()
        await sink.publish(new)
        await client.delete(stream_of(new[0]))
        await sink.tidy()
        assert await client.smembers(STREAMS) == set()


async def test_what_a_group_has_not_read_or_not_acknowledged_stays_and_is_told_of(
    runner: asyncio.Runner, redis_url: str
):
    events = some_events(6)
    stream = stream_of(events[0])
    async with streams(redis_url, kept_for=0.0) as (sink, client):

        async def left() -> int:
            await asyncio.sleep(0.01)
            with structlog.testing.capture_logs() as logs:
                await sink.tidy()
            length = await client.xlen(stream)
            assert [entry["groups"] for entry in logs] == ([["slow"]] if length else [])
            return length

        await sink.publish(events)
        await client.xgroup_create(stream, "slow", id="0")
        await client.xgroup_create(stream, "quick", id="$")
        assert await left() == 6
        taken: Any
        ((_, taken),) = await client.xreadgroup("slow", "one", {stream: ">"}, count=4)
        assert await left() == 6
        await client.xack(stream, "slow", taken[0][0], taken[2][0])
        assert await left() == 5  # the second one is still being worked on
        await client.xack(stream, "slow", taken[1][0])
        assert await left() == 3
        await client.xack(stream, "slow", taken[3][0])
        assert await left() == 2  # the last two were never delivered
        await client.xreadgroup("slow", "one", {stream: ">"}, noack=True)
        assert await left() == 0


async def test_a_redis_that_is_away_is_told_as_such(runner: asyncio.Runner):
    sink = RedisStreams(f"redis://127.0.0.1:{free_port()}/0", 60.0)
    for attempt in (sink.publish(some_events(1)), sink.tidy()):
        with pytest.raises(SinkAway):
            await attempt
    await sink.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockKafka]:
    with MockKafka() as cluster:
        yield cluster


async def test_kafka_gets_cloud_events_by_subject_in_order(runner: asyncio.Runner, cluster: MockKafka):
    events = some_events(200, subjects=9)
    sink = Kafka(cluster.brokers, "mine", {})
    await sink.publish(events[:120])
    await sink.publish(events[120:])
    await sink.close()
    found = cluster.read("mine", len(events))
    by_subject: dict[str, list[RecordedEvent]] = {}
    for recorded in events:
        by_subject.setdefault(recorded.event.subject, []).append(recorded)
    for subject, expected in by_subject.items():
        mine = [message for message in found if message.key() == subject.encode()]
        assert len({message.partition() for message in mine}) == 1
        assert {tuple(message.headers() or ()) for message in mine} == {
            (("content-type", b"application/cloudevents+json"),)
        }
        for message, recorded in zip(mine, expected, strict=True):
            check_by_sdk(message.value() or b"", recorded)


async def test_a_kafka_that_is_away_is_told_as_such(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka, "ARRIVES_WITHIN", 0.3)
    events: Sequence[RecordedEvent] = some_events(5)
    sink = Kafka([f"127.0.0.1:{free_port()}"], "mine", {})
    with pytest.raises(SinkAway, match="5 events have not arrived"):
        await sink.publish(events)
    await sink.close()


async def test_an_option_that_librdkafka_does_not_know_is_told(runner: asyncio.Runner):
    sink = Kafka(["127.0.0.1:9"], "mine", {"no.such.option": "1"})
    with pytest.raises(SinkAway, match=r"no\.such\.option"):
        await sink.publish(some_events(1))
    await sink.close()
