"""Events in Redis: a stream for each project."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from structlog import get_logger

from experiment_domain.kernel.cloudevents import cloud_event
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.relays import EventSink, SinkAway

PREFIX = "experiment:events:"
"""With a project's id behind it, the name of its stream."""
STREAMS = "experiment:streams"
"""The set of the projects that have one."""
FIELD = "cloudevent"
CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 10.0

_Entry = tuple[int, int]

log = get_logger(__name__)


class RedisStreams(EventSink):
    """Adds each event, as structured CloudEvents in JSON, to the stream of its project.

    Streams are bounded by age, `kept_for` seconds by the clock of Redis. What a consumer group has not read, or not
    acknowledged, stays beyond it: a group that nobody reads for any more has to be destroyed.
    """

    def __init__(self, url: str, kept_for: float) -> None:
        self._kept_for = int(kept_for * 1000)
        self._redis = Redis.from_url(
            url, socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=ANSWER_TIMEOUT, decode_responses=True
        )

    async def publish(self, events: Sequence[RecordedEvent]) -> None:
        # Commands of a pipeline go over one connection and are done in their order; when it breaks, what arrived are
        # the first ones.
        async with _away(), self._redis.pipeline(transaction=False) as pipeline:
            for recorded in events:
                entry = msgspec.json.encode(cloud_event(recorded))
                pipeline.xadd(stream_of(recorded), {FIELD: entry})  # pyright: ignore[reportArgumentType]
            pipeline.sadd(STREAMS, *{str(recorded.event.project_id) for recorded in events})
            await pipeline.execute()

    async def tidy(self) -> None:
        async with _away():
            seconds, microseconds = await self._redis.time()
            oldest = (max(0, seconds * 1000 + microseconds // 1000 - self._kept_for), 0)
            async for project_id in self._redis.sscan_iter(STREAMS):
                await self._trim(project_id, oldest)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _trim(self, project_id: str, oldest: _Entry) -> None:
        stream = PREFIX + project_id
        try:
            groups = await self._redis.xinfo_groups(stream)
        except ResponseError:  # there is no such stream any more
            await self._redis.srem(STREAMS, project_id)  # pyright: ignore[reportGeneralTypeIssues]
            return
        unread = {group["name"]: await self._first_unread(stream, group) for group in groups}
        bound = min([oldest, *unread.values()])
        behind = [name for name, first in unread.items() if await self._has_any(stream, first, oldest)]
        if behind:
            log.warning("a stream is kept beyond its age for groups that are behind", stream=stream, groups=behind)
        await self._redis.xtrim(stream, minid=_text(bound), approximate=False)  # pyright: ignore[reportArgumentType]

    async def _first_unread(self, stream: str, group: Mapping[str, Any]) -> _Entry:
        """The first entry that a group may still want: not delivered, or not acknowledged."""
        milliseconds, number = _entry(group["last-delivered-id"])
        first = (milliseconds, number + 1)
        if group["pending"]:
            pending = await self._redis.xpending(stream, group["name"])
            if pending["min"]:
                first = min(first, _entry(pending["min"]))
        return first

    async def _has_any(self, stream: str, first: _Entry, end: _Entry) -> bool:
        return first < end and bool(await self._redis.xrange(stream, _text(first), f"({_text(end)}", count=1))


def stream_of(recorded: RecordedEvent) -> str:
    """The name of the stream that an event goes to."""
    return f"{PREFIX}{recorded.event.project_id}"


@asynccontextmanager
async def _away() -> AsyncGenerator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise SinkAway(f"{type(error).__name__}: {error}") from error


def _entry(text: str) -> _Entry:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)


def _text(entry: Iterable[int]) -> str:
    return "-".join(map(str, entry))
