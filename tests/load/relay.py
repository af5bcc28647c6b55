"""Events from their commit to Redis Streams, beside an API: python tests/load/relay.py [--rate 2000] [--seconds 20].

Events are recorded at their time whatever becomes of the earlier ones. How long one took is from then to the time that
Redis gave its entry, by the clock of this machine. Afterwards, a backlog of as many is relayed as fast as it goes.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from entities import a_project, fresh
from experiment_adapters.embedded import EmbeddedPostgres
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_adapters.streams.redis import FIELD, PREFIX
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.projects import Project
from fix_redis import RedisServer
from fix_up import Up
from keeping import committed, keep
from load.measures import Measure, Row, machine, table

TURN = 0.02
"""Seconds between two transactions that record events."""
SUBJECTS = 100
WAITS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=2_000, help="events per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they are recorded")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="experiment-load-")))
        home.chmod(0o711)  # PostgreSQL does not run as root, and has to pass
        url = stack.enter_context(EmbeddedPostgres(home / "database"))
        server = stack.enter_context(RedisServer())
        more = {"EXPERIMENT_DATABASE_URL": url, "EXPERIMENT_REDIS_URL": server.url}
        stack.enter_context(Up(home, more=more)).wait_until_ready()
        client = stack.enter_context(closing(redis.Redis.from_url(server.url, decode_responses=True)))
        rows = asyncio.run(_measure(url, client, options.rate, options.seconds))
    print(machine(), table(rows), sep="\n\n")
    return 1 if any(row[-1] != "0" for row in rows) else 0


async def _measure(url: str, client: Any, rate: int, seconds: float) -> list[Row]:
    async with PostgresUnitsOfWork.open(url) as units:
        project = a_project()
        await keep(units, project)
        count = await _record(units, project, rate, seconds)
        took = _arrivals(client, project, 0, count)
        rows = [_row("open loop", took, count, seconds)]
        began = time.monotonic()
        async with committed(units) as uow:
            uow.events.record(*(_event(project, number) for number in range(count)))
        backlog = _arrivals(client, project, count, count)
        rows.append(_row("backlog", backlog, count, time.monotonic() - began))
    return rows


async def _record(units: PostgresUnitsOfWork, project: Project, rate: int, seconds: float) -> int:
    began, count = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate) - count
        if due:
            async with committed(units) as uow:
                uow.events.record(*(_event(project, count + number) for number in range(due)))
            count += due
        await asyncio.sleep(TURN)
    return count


def _event(project: Project, number: int) -> RecordedEvent:
    event = Event(
        type="run.tagged",
        project_id=project.id,
        subject=f"run/{number % SUBJECTS}",
        at=datetime.now(UTC),
        data={"tags": ["nightly", "rig 7"], "n": number},
    )
    return RecordedEvent(id=fresh(), event=event, actor="ann")


def _arrivals(client: Any, project: Project, after: int, count: int) -> list[float]:
    """How many seconds each of the next events took, when they have all arrived."""
    stream, deadline = f"{PREFIX}{project.id}", time.monotonic() + WAITS
    while client.xlen(stream) < after + count and time.monotonic() < deadline:
        time.sleep(0.05)
    entries = client.xrange(stream)[after:]
    return [
        int(entry_id.partition("-")[0]) / 1_000 - datetime.fromisoformat(event["time"]).timestamp()
        for entry_id, fields in entries
        for event in [msgspec.json.decode(fields[FIELD])]
    ]


def _row(kind: str, took: list[float], count: int, seconds: float) -> Row:
    measure = Measure(latencies=took)
    if len(took) < count:
        measure.errors["missing"] = count - len(took)
    return measure.row("relay to Redis", kind, seconds)


if __name__ == "__main__":
    sys.exit(main())
