"""What every `Backlog` promises, and how far behind relays are."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

import psycopg
import pytest

from entities import fresh
from experiment_adapters.postgres.backlog import _WAITING
from experiment_domain import Services, System
from experiment_domain.backlog import Waiting
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.relays import EventSink
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.relaying import Relay, lag
from experiment_domain.webhooks.sending import Outcome
from keeping import ask, committed
from laboratory import Laboratory


@pytest.fixture
def lab(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Laboratory:
    return runner.run(Laboratory.open(units_of_work))


class Taking(EventSink):
    """Takes all events."""

    async def publish(self, events: Sequence[RecordedEvent]) -> None:
        pass

    async def tidy(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def waiting(lab: Laboratory) -> Mapping[str, Waiting]:
    return await ask(lab.units, lambda uow: uow.backlog.waiting())


def beyond(now: Waiting, before: Waiting) -> tuple[int, int]:
    return now.count - before.count, now.left_behind - before.left_behind


async def test_deliveries_wait_are_under_way_left_behind_and_done(lab: Laboratory):
    while await lab.do(lambda work: work.webhook_deliveries.fan_out(), by=System()):
        pass
    before = (await waiting(lab))["webhooks"]
    made = await lab.webhook(event_types=["run.created"])
    await lab.run()
    await lab.run()
    await lab.do(lambda work: work.webhook_deliveries.fan_out(), by=System())
    assert beyond((await waiting(lab))["webhooks"], before) == (2, 0)
    await lab.do(lambda work: work.webhooks.pause(made.subscription.id))
    assert beyond((await waiting(lab))["webhooks"], before) == (0, 0)
    await lab.do(lambda work: work.webhooks.resume(made.subscription.id))
    worker = fresh()

    async def claim(lasting: float) -> int:
        found = await lab.do(
            lambda work: work.webhook_deliveries.claim(worker, most=100, lasting=timedelta(seconds=lasting)),
            by=System(),
        )
        mine = [each for each in found if each.subscription.id == made.subscription.id]
        if not lasting:
            return len(mine)
        await lab.do(
            lambda work: work.webhook_deliveries.conclude(worker, [(each, Outcome(status_code=204)) for each in mine]),
            by=System(),
        )
        return len(mine)

    assert await claim(0) == 2  # over at once: as one of a worker that was killed long ago
    assert beyond((await waiting(lab))["webhooks"], before)[1] >= 2
    assert await claim(3600) == 2
    assert beyond((await waiting(lab))["webhooks"], before)[0] <= 0


async def test_every_kind_is_counted(lab: Laboratory):
    name = f"sweep {fresh()}"
    before = await waiting(lab)
    assert before.keys() == {"backfills", "chores", "exports", "webhooks"}
    async with committed(lab.units) as uow:
        assert await uow.chores.claim([name], fresh(), timedelta()) is not None
    assert beyond((await waiting(lab))["chores"], before["chores"]) == (1, 1)
    async with committed(lab.units) as uow:
        assert await uow.chores.claim([name], fresh(), timedelta(hours=1)) is not None
    assert beyond((await waiting(lab))["chores"], before["chores"]) == (0, 0)


async def test_a_relay_is_as_far_behind_as_its_oldest_event(lab: Laboratory):
    services, name = Services(units_of_work=lab.units, clock=lab.clock), f"sink {fresh()}"
    await lab.experiment()
    lab.clock.pass_by(90)
    assert await lag(services, name) >= timedelta(seconds=90)
    relay = Relay(services, name, Taking())
    while (await relay.step())[1]:
        pass
    assert await lag(services, name) == timedelta()
    await lab.experiment()
    lab.clock.pass_by(7)
    assert await lag(services, name) == timedelta(seconds=7)


@pytest.mark.postgres
def test_the_backlog_is_counted_by_indexes(postgres_url: str):
    """Beside 50,000 deliveries that are done."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO projects (id, version, created_at, updated_at, created_by, name, raw_readers, physical_only,"
            " auto_close_after, future_tolerance)"
            " VALUES ('00000000-0000-7000-8000-000000000001', 1, now(), now(), 'ann', 'P', '{}', false, 60, 300)"
        )
        connection.execute(
            "INSERT INTO webhook_subscriptions (id, project_id, version, created_at, updated_at, created_by, url,"
            " event_types, status, sealed_secret, failures) SELECT gen_random_uuid(), id, 1, now(), now(), 'ann', 'u',"
            " '{*}', 'active', '', 0 FROM projects, generate_series(1, 10)"
        )
        connection.execute(
            "INSERT INTO webhook_deliveries (id, project_id, version, created_at, updated_at, created_by,"
            " subscription_id, event_id, event_type, body, status, attempts, due_at) SELECT gen_random_uuid(),"
            " project_id, 1, now(), now(), 'ann', id, gen_random_uuid(), 'x', '{}',"
            " CASE WHEN number % 100 = 0 THEN 'pending' ELSE 'delivered' END, 1, now()"
            " FROM webhook_subscriptions, generate_series(1, 5000) AS number"
        )
        connection.execute("ANALYZE")
        row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_WAITING}".encode()).fetchone()
        assert row is not None
        assert "webhook_deliveries_due" in json.dumps(row[0])
        assert row[0][0]["Plan"]["Shared Hit Blocks"] + row[0][0]["Plan"]["Shared Read Blocks"] < 1_500
        counts = dict(connection.execute(f"SELECT kind, count FROM ({_WAITING}) AS w (kind, count, l)".encode()))
        assert counts == {"backfills": 0, "chores": 0, "exports": 0, "webhooks": 500}
