"""Events from their commit to receivers of webhooks, at a steady pace; and a backlog beside dead endpoints."""

import time
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from entities import SettableClock
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from laboratory import SECRET_KEY, Laboratory
from load.bench import Bench, database_of, until
from load.events import record, record_steadily
from load.measures import Measure, Row, percentile
from receiver import Receiver, hang

EVENTS_PER_SECOND = 50
LIMIT = 1.0
"""Seconds within which 99 of 100 events are to be at their receiver."""
ENDPOINTS, DEAD, EVENTS = 100, 10, 100
MOST = 1.2
"""How many times as long healthy endpoints may take beside dead ones."""
SETTINGS = {"EXPERIMENT_SECRET_KEY": SECRET_KEY.decode(), "EXPERIMENT_WEBHOOK_ALLOW_PRIVATE": "true"}
FILTER = ["run.tagged"]


async def webhooks(bench: Bench) -> list[Row]:
    """An open loop, then the same backlog to healthy endpoints alone, and to them beside those that never answer."""
    with bench.another("webhooks", SETTINGS) as its, Receiver().in_thread() as receiver:
        url = database_of(its.up.data_dir)
        async with PostgresUnitsOfWork.open(url) as units:
            lab = await Laboratory.open(units, SettableClock(datetime.now(UTC)))
            rows = [await _open_loop(bench, lab, receiver)]
            alone = await _backlog(url, lab, receiver, "alone", dead=0)
            beside = await _backlog(url, lab, receiver, "beside", dead=DEAD)
    for kind, took in (("backlog, alone", alone), ("backlog, beside dead ones", beside)):
        measure = Measure(latencies=took)
        if missing := EVENTS * (ENDPOINTS - DEAD) - len(took):
            measure.errors["missing"] = missing
        rows.append(measure.row("webhooks", kind, max(took)))
    ratio = max(beside) / max(alone)
    what = f"{ENDPOINTS * EVENTS:,} deliveries, {DEAD} endpoints of {ENDPOINTS} dead: {ratio:.2f} × alone"
    bench.held_to(what, f"at most {MOST:g}", ratio <= MOST)
    return rows


async def _open_loop(bench: Bench, lab: Laboratory, receiver: Receiver) -> Row:
    made = await lab.webhook(url=receiver.url("/open"), event_types=FILTER)
    # A worker that is still being started delivers nothing: what is measured is one that runs.
    committed = await record(lab.units, lab.project.id, 1)

    async def are_there() -> bool:
        return committed.keys() <= {each.id for each in receiver.at("/open")}

    await until(are_there)
    committed = await record_steadily(lab.units, lab.project.id, rate=EVENTS_PER_SECOND, seconds=bench.seconds)
    await until(are_there)
    await lab.do(lambda work: work.webhooks.delete(made.subscription.id))
    offset = time.time() - time.monotonic()  # receivers tell the time of loops, which is the monotonic one
    arrived = {each.id: each.at + offset for each in reversed(receiver.at("/open"))}
    measure = Measure([max(0.0, arrived[name] - at) for name, at in committed.items() if name in arrived])
    if missing := len(committed.keys() - arrived.keys()):
        measure.errors["missing"] = missing
    reached = percentile(sorted(measure.latencies), 0.99)
    what = f"from commit to receiver at {EVENTS_PER_SECOND} events/s, p99: {reached * 1_000:,.0f} ms"
    bench.held_to(what, f"at most {LIMIT * 1_000:,.0f} ms", reached <= LIMIT)
    return measure.row("webhooks", f"{EVENTS_PER_SECOND} events/s", bench.seconds)


async def _backlog(url: str, lab: Laboratory, receiver: Receiver, name: str, *, dead: int) -> list[float]:
    """When each delivery to a healthy endpoint arrived, in seconds from the first one on."""
    paths = [f"/{name}/{place}" for place in range(ENDPOINTS)]
    ids: dict[str, UUID] = {}
    for path in paths:
        made = await lab.webhook(url=receiver.url(path), event_types=FILTER)
        ids[path] = made.subscription.id
        await lab.do(lambda work: work.webhooks.pause(ids[path]))  # noqa: B023
    await record(lab.units, lab.project.id, EVENTS)
    healthy = frozenset(paths[DEAD:])
    with psycopg.connect(url, autocommit=True) as database:

        async def are_pending() -> bool:
            (count,) = database.execute(
                "SELECT count(*) FROM webhook_deliveries WHERE subscription_id = ANY(%s)", [list(ids.values())]
            ).fetchone() or (0,)
            return count >= ENDPOINTS * EVENTS

        async def are_there() -> bool:
            return sum(each.path in healthy for each in receiver.received) >= len(healthy) * EVENTS

        await until(are_pending)
        receiver.answers.update(dict.fromkeys(paths[:DEAD], hang))
        active = [ids[path] for path in paths[DEAD - dead :]]
        database.execute("UPDATE webhook_subscriptions SET status = 'active' WHERE id = ANY(%s)", [active])
        await until(are_there)
        database.execute("DELETE FROM webhook_subscriptions WHERE id = ANY(%s)", [list(ids.values())])
    arrived = {(each.path, each.id): each.at for each in receiver.received if each.path in healthy}
    first = min(arrived.values())
    return [at - first for at in arrived.values()]
