"""Events from their commit to Redis Streams, beside an API that has something to do."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from redis.asyncio import Redis

from entities import a_project
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_adapters.streams.redis import FIELD, PREFIX
from experiment_domain.unit_of_work import UnitsOfWork
from fix_redis import RedisServer
from keeping import keep
from load.bench import Bench, database_of, until
from load.events import Committed, record, record_steadily
from load.measures import Measure, Row
from load.mixed import Offered, Stock, offered, stocked

T = TypeVar("T")
EVENTS_PER_SECOND = 2_000
BACKLOG, AT_ONCE = 20_000, 500


async def relay(bench: Bench) -> list[Row]:
    """Events that come at a steady pace, and a backlog that is relayed as fast as it goes; both beside requests."""
    with RedisServer() as server, bench.another("relay", {"EXPERIMENT_REDIS_URL": server.url}) as its:
        async with (
            PostgresUnitsOfWork.open(database_of(its.up.data_dir)) as units,
            aclosing(Redis.from_url(server.url, decode_responses=True)) as client,
        ):
            stock = await stocked(its)
            project = a_project()
            await keep(units, project)
            steady = record_steadily(units, project.id, rate=EVENTS_PER_SECOND, seconds=bench.seconds)
            beside, (committed, took) = await _beside_requests(its, stock, _relayed(client, project.id, 0, steady))
            rows = [
                _row(committed, await _arrived(client, project.id), f"{EVENTS_PER_SECOND:,} events/s", took),
                beside.every.row("relay", f"requests beside them, offered {bench.rate:g}/s", beside.took),
            ]
            backlog = _relayed(client, project.id, len(committed), _backlog(units, project.id))
            beside, (later, took) = await _beside_requests(its, stock, backlog)
            rows += [
                _row(later, await _arrived(client, project.id), f"backlog of {BACKLOG:,}", took),
                beside.every.row("relay", f"requests beside it, offered {bench.rate:g}/s", beside.took),
            ]
    rate = len(later) / took
    bench.held_to(
        f"relayed to Redis beside {bench.rate:g} requests/s: {rate:,.0f} events/s",
        f"at least {EVENTS_PER_SECOND:,}",
        rate >= EVENTS_PER_SECOND,
    )
    return rows


async def _beside_requests(bench: Bench, stock: Stock, doing: Awaitable[T]) -> tuple[Offered, T]:
    return await asyncio.gather(offered(bench, stock), doing)


async def _backlog(units: UnitsOfWork, project_id: UUID) -> Committed:
    found: Committed = {}
    for _ in range(BACKLOG // AT_ONCE):  # in parts, so that requests are sent at their time
        found |= await record(units, project_id, AT_ONCE)
    return found


async def _relayed(
    client: Any, project_id: UUID, before: int, recording: Awaitable[Committed]
) -> tuple[Committed, float]:
    """What was recorded, and how many seconds passed until all of it had arrived behind so many entries."""
    began = time.monotonic()
    committed = await recording

    async def are_there() -> bool:
        return await client.xlen(f"{PREFIX}{project_id}") >= before + len(committed)

    await until(are_there)
    return committed, time.monotonic() - began


async def _arrived(client: Any, project_id: UUID) -> dict[str, float]:
    """When each event arrived first, by the time that Redis gave its entry: that of the same machine."""
    arrived: dict[str, float] = {}
    for entry_id, fields in await client.xrange(f"{PREFIX}{project_id}"):
        arrived.setdefault(msgspec.json.decode(fields[FIELD])["id"], int(entry_id.partition("-")[0]) / 1_000)
    return arrived


def _row(committed: Committed, arrived: dict[str, float], kind: str, seconds: float) -> Row:
    measure = Measure([max(0.0, arrived[name] - at) for name, at in committed.items() if name in arrived])
    if missing := len(committed.keys() - arrived.keys()):
        measure.errors["missing"] = missing
    return measure.row("relay", kind, seconds)
