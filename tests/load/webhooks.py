"""Events from their commit to receivers of webhooks: python tests/load/webhooks.py [--rate 50] [--seconds 20].

Events are recorded at their time whatever becomes of the earlier ones; how long one took is from its commit to its
arrival at a receiver, in this process. Then a backlog is delivered to many endpoints: once to the healthy ones alone,
and once beside others that never answer, which must hardly be noticed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from entities import SettableClock, fresh
from experiment_adapters.embedded import EmbeddedPostgres
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.kernel.events import Event, RecordedEvent
from fix_up import Up
from keeping import committed
from laboratory import SECRET_KEY, Laboratory
from load.measures import Measure, Row, machine, table
from receiver import Receiver, hang

ENDPOINTS, DEAD, EVENTS = 100, 10, 100
WAITS = 300.0
MOST = 1.2
"""How many times as long healthy endpoints may take beside dead ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=50, help="events per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they are recorded")
    parser.add_argument("--only-open-loop", action="store_true", help="without the backlogs")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="experiment-load-")))
        home.chmod(0o711)  # PostgreSQL does not run as root, and has to pass
        url = stack.enter_context(EmbeddedPostgres(home / "database"))
        more = {
            "EXPERIMENT_DATABASE_URL": url,
            "EXPERIMENT_SECRET_KEY": SECRET_KEY.decode(),
            "EXPERIMENT_WEBHOOK_ALLOW_PRIVATE": "true",
        }
        stack.enter_context(Up(home, more=more)).wait_until_ready()
        receiver = stack.enter_context(Receiver().in_thread())
        rows = asyncio.run(_measure(url, receiver, options.rate, options.seconds, not options.only_open_loop))
    print(machine(), table(rows), sep="\n\n")
    return 1 if any(row[-1] != "0" for row in rows) else 0


async def _measure(url: str, receiver: Receiver, rate: int, seconds: float, backlogs: bool) -> list[Row]:
    async with PostgresUnitsOfWork.open(url) as units:
        lab = await Laboratory.open(units, SettableClock(datetime.now(UTC)))
        rows = [await _open_loop(lab, receiver, rate, seconds)]
        if not backlogs:
            return rows
        alone = await _backlog(url, lab, receiver, "alone", dead=0)
        beside = await _backlog(url, lab, receiver, "beside", dead=DEAD)
        for kind, took in (("backlog, alone", alone), ("backlog, beside dead ones", beside)):
            measure = Measure(latencies=took)
            missing = EVENTS * (ENDPOINTS - DEAD) - len(took)
            if missing:
                measure.errors["missing"] = missing
            if took is beside and max(beside) > MOST * max(alone):
                measure.errors[f"{max(beside) / max(alone):.2f} times as long"] = 1
            rows.append(measure.row("webhooks", kind, max(took)))
    return rows


async def _open_loop(lab: Laboratory, receiver: Receiver, rate: int, seconds: float) -> Row:
    made = await lab.webhook(url=receiver.url("/open"), event_types=["run.tagged"])
    committed_at: dict[str, float] = {}
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if len(committed_at) < passed * rate:
            event_id = await _record(lab, 1)
            committed_at[str(event_id)] = time.monotonic()
        else:
            await asyncio.sleep(0.001)
    await _until(lambda: len(receiver.at("/open")) >= len(committed_at))
    await lab.do(lambda work: work.webhooks.delete(made.subscription.id))
    arrived = {each.id: each.at for each in reversed(receiver.at("/open"))}
    measure = Measure(latencies=[arrived[name] - at for name, at in committed_at.items() if name in arrived])
    if len(arrived) < len(committed_at):
        measure.errors["missing"] = len(committed_at) - len(arrived)
    if over := sum(latency > 1.0 for latency in measure.latencies) - len(measure.latencies) // 100:
        measure.errors["beyond 1 s, over 1 %"] = max(0, over)
    measure.errors = +measure.errors
    return measure.row("webhooks", "open loop", seconds)


async def _backlog(url: str, lab: Laboratory, receiver: Receiver, name: str, *, dead: int) -> list[float]:
    """When each delivery to a healthy endpoint arrived, in seconds from the first one on."""
    paths = [f"/{name}/{place}" for place in range(ENDPOINTS)]
    ids: dict[str, UUID] = {}
    for path in paths:
        made = await lab.webhook(url=receiver.url(path), event_types=["run.tagged"])
        ids[path] = made.subscription.id
        await lab.do(lambda work: work.webhooks.pause(ids[path]))  # noqa: B023
    await _record(lab, EVENTS)
    with psycopg.connect(url, autocommit=True) as database:

        def pending() -> int:
            row = database.execute(
                "SELECT count(*) FROM webhook_deliveries WHERE subscription_id = ANY(%s)", [list(ids.values())]
            ).fetchone()
            return 0 if row is None else row[0]

        await _until(lambda: pending() >= ENDPOINTS * EVENTS)
        receiver.answers.update(dict.fromkeys(paths[:DEAD], hang))
        healthy = frozenset(paths[DEAD:])
        active = [ids[path] for path in paths[DEAD - dead :]]
        database.execute("UPDATE webhook_subscriptions SET status = 'active' WHERE id = ANY(%s)", [active])
        wanted = len(healthy) * EVENTS
        await _until(lambda: sum(each.path in healthy for each in receiver.received) >= wanted)
        database.execute("DELETE FROM webhook_subscriptions WHERE id = ANY(%s)", [list(ids.values())])
    arrived = {(each.path, each.id): each.at for each in receiver.received if each.path in healthy}
    first = min(arrived.values())
    return [at - first for at in arrived.values()]


async def _record(lab: Laboratory, count: int) -> UUID:
    """Record events in one transaction; the id of the last."""
    now = datetime.now(UTC)
    events = [
        RecordedEvent(
            id=fresh(),
            event=Event(type="run.tagged", project_id=lab.project.id, subject=f"run/{place}", at=now, data={}),
            actor="ann",
        )
        for place in range(count)
    ]
    async with committed(lab.units) as uow:
        uow.events.record(*events)
    return events[-1].id


async def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAITS
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - it is the state of a database and a thread
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
