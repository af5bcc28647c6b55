"""What the repositories of webhooks promise."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import evolve

from entities import NOW, a_delivery, a_project, a_subscription, fresh, later
from experiment_domain.kernel.entity import Lock
from experiment_domain.projects import Project
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.webhooks.deliveries import DeliveryStatus, WebhookAttempt, WebhookDelivery
from experiment_domain.webhooks.sending import Outcome
from experiment_domain.webhooks.subscriptions import SubscriptionStatus, WebhookSubscription
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, committed, keep, kept, refused, save

ACTIVE, PAUSED, DISABLED = SubscriptionStatus
PENDING, DELIVERED, DEAD = DeliveryStatus
LONG, OVER = timedelta(seconds=60), timedelta(0)
FULL: dict[str, Any] = {
    "url": "https://hooks.example/" + "x" * 1_900,
    "event_types": ("*", "run.*"),
    "description": ODD_TEXT,
    "status": DISABLED,
    "sealed_secret": bytes(range(256)),
    "previous_sealed_secret": b"\0",
    "previous_secret_dies_at": later(60),
    "failures": 2**31 - 1,
    "failing_since": NOW,
    "blocked_until": later(1),
    "version": 4,
}
FULL_DELIVERY: dict[str, Any] = {
    "event_type": "capture.backfill.started",
    "body": ODD_TEXT,
    "status": DEAD,
    "attempts": 9,
    "next_attempt_at": later(5),
    "finished_at": later(6),
    "last_status": 599,
    "reason": ODD_TEXT,
    "version": 7,
}


async def _a_project(units: UnitsOfWork) -> Project:
    project = a_project()
    await keep(units, project)
    return project


async def _a_kept(units: UnitsOfWork, **values: Any) -> WebhookSubscription:
    subscription = a_subscription(await _a_project(units), **values)
    await keep(units, subscription)
    return subscription


@pytest.mark.parametrize("values", [{}, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("lock", Lock)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, values: dict[str, Any], lock: Lock):
    subscription = await _a_kept(units_of_work, **values)
    for more in ({}, FULL_DELIVERY):
        delivery = a_delivery(subscription, **more)
        await keep(units_of_work, delivery)
        async with units_of_work.begin(SYSTEM) as uow:
            assert await uow.webhook_subscriptions.get(subscription.id, lock) == subscription
            assert await uow.webhook_deliveries.get(delivery.id, lock) == delivery


async def test_two_writers_do_not_overwrite_each_other(units_of_work: UnitsOfWork):
    subscription = await _a_kept(units_of_work)
    paused = subscription.pause(at=later(1)).result
    await save(units_of_work, paused)
    assert await kept(units_of_work, subscription) == paused
    async with refused(units_of_work, "version_mismatch") as uow:
        uow.webhook_subscriptions.save(subscription.edit(at=later(2), description="x").result)


async def test_health_is_kept_beside_the_version(units_of_work: UnitsOfWork):
    subscription = await _a_kept(units_of_work)
    failing = evolve(subscription, failures=3, failing_since=NOW, blocked_until=later(9))
    async with committed(units_of_work) as uow:
        uow.webhook_subscriptions.note_health(evolve(failing, url="https://other.example/", version=9))
    assert await kept(units_of_work, subscription) == failing
    async with committed(units_of_work) as uow:
        uow.webhook_subscriptions.note_health(a_subscription())  # it was removed meanwhile


async def test_a_subscription_is_of_a_project_and_a_delivery_of_a_subscription(units_of_work: UnitsOfWork):
    async with refused(units_of_work, "reference_missing") as uow:
        uow.webhook_subscriptions.add(a_subscription())
    async with refused(units_of_work, "reference_missing") as uow:
        uow.webhook_deliveries.add(a_delivery())
    async with refused(units_of_work, "reference_missing") as uow:
        uow.webhook_deliveries.add_all([a_delivery()])


async def test_removing_takes_deliveries_and_their_log_along(units_of_work: UnitsOfWork):
    subscription, other = await _a_kept(units_of_work), await _a_kept(units_of_work)
    delivery, left = a_delivery(subscription), a_delivery(other)
    await keep(units_of_work, delivery, left)
    async with committed(units_of_work) as uow:
        uow.webhook_deliveries.log([_attempt(delivery, 1)])
        uow.webhook_subscriptions.remove(subscription)
    assert await kept(units_of_work, subscription) is None
    assert await kept(units_of_work, delivery) is None
    assert await kept(units_of_work, left) == left
    async with refused(units_of_work, "version_mismatch") as uow:
        uow.webhook_subscriptions.remove(subscription)


@pytest.mark.parametrize("limit", [1, 3, 8])
@pytest.mark.parametrize("statuses", [(), [ACTIVE], [PAUSED, DISABLED]])
async def test_pages_of_subscriptions(units_of_work: UnitsOfWork, limit: int, statuses: Collection[SubscriptionStatus]):
    projects = [await _a_project(units_of_work) for _ in range(2)]
    made = [
        a_subscription(projects[place % 2], status=list(SubscriptionStatus)[place % 3], created_at=later(place // 2))
        for place in range(8)
    ]
    await keep(units_of_work, *made)
    await _a_kept(units_of_work)
    pages = await all_pages(
        lambda limit, after: ask(
            units_of_work,
            lambda uow: uow.webhook_subscriptions.page(
                [project.id for project in projects], statuses=statuses, limit=limit, after=after
            ),
        ),
        limit,
    )
    expected = sorted(made, key=lambda each: (each.created_at, each.id), reverse=True)
    found = [each for page in pages for each in page]
    assert found == [each for each in expected if not statuses or each.status in statuses]
    listening = await ask(units_of_work, lambda uow: uow.webhook_subscriptions.listening([projects[0].id]))
    assert {each.id for each in listening} == {
        each.id for each in made if each.project_id == projects[0].id and each.status is not DISABLED
    }
    some = await ask(units_of_work, lambda uow: uow.webhook_subscriptions.of_ids([made[3].id, made[1].id, fresh()]))
    assert list(some) == sorted([made[1], made[3]], key=lambda each: each.id)


async def test_an_event_becomes_one_delivery_of_each_subscription(units_of_work: UnitsOfWork):
    one = await _a_kept(units_of_work)
    other = a_subscription(None, project_id=one.project_id)
    await keep(units_of_work, other)
    event = fresh()
    first = [a_delivery(subscription, event_id=event) for subscription in (one, other)]
    again = [a_delivery(one, event_id=event), a_delivery(one, event_id=fresh())]
    for deliveries in (first, again, []):
        async with committed(units_of_work) as uow:
            uow.webhook_deliveries.add_all(deliveries)
    for each, is_kept in ((first[0], True), (first[1], True), (again[0], False), (again[1], True)):
        assert await kept(units_of_work, each) == (each if is_kept else None)


async def test_the_cursor_moves(units_of_work: UnitsOfWork):
    async with committed(units_of_work) as uow:
        cursor = await uow.webhook_deliveries.cursor()
        assert cursor is not None
        place = await uow.events.latest()
        uow.webhook_deliveries.move_cursor(place)
    async with units_of_work.begin(SYSTEM) as uow:
        cursor = await uow.webhook_deliveries.cursor()
        assert cursor is not None
        assert cursor.place == place


async def test_attempts_are_kept_in_their_order(units_of_work: UnitsOfWork):
    subscription = await _a_kept(units_of_work)
    delivery, other = a_delivery(subscription), a_delivery(subscription)
    await keep(units_of_work, delivery, other)
    for part in ([], [_attempt(delivery, 3), _attempt(other, 2)], [_attempt(delivery, 1)]):
        async with committed(units_of_work) as uow:
            uow.webhook_deliveries.log(part)
    found = await ask(units_of_work, lambda uow: uow.webhook_deliveries.attempts_of(delivery.id))
    assert list(found) == [_attempt(delivery, 3), _attempt(delivery, 1)]


def _attempt(delivery: WebhookDelivery, seconds: float) -> WebhookAttempt:
    outcome = Outcome(status_code=500, error=None, latency=0.25, answer=ODD_TEXT)
    return WebhookAttempt(delivery_id=delivery.id, at=later(seconds), outcome=outcome)


async def claim(
    units: UnitsOfWork, *, most: int = 100, per_endpoint: int = 3, worker: UUID | None = None, lasting: timedelta = LONG
) -> Sequence[WebhookDelivery]:
    async with committed(units) as uow:
        return await uow.webhook_deliveries.claim(worker or fresh(), lasting, most=most, per_endpoint=per_endpoint)


async def empty(units: UnitsOfWork) -> None:
    """Claim what other tests have left."""
    while await claim(units, most=1_000, per_endpoint=1_000, lasting=timedelta(hours=1)):
        pass


async def test_what_is_due_is_claimed_once(units_of_work: UnitsOfWork):
    await empty(units_of_work)
    subscription = await _a_kept(units_of_work)
    soon = datetime.now(UTC) + timedelta(hours=1)
    due = [a_delivery(subscription), a_delivery(subscription, next_attempt_at=later(1), attempts=2)]
    not_due = [
        a_delivery(subscription, next_attempt_at=soon),
        a_delivery(subscription, status=DEAD),
        a_delivery(subscription, status=DELIVERED),
    ]
    await keep(units_of_work, *due, *not_due)
    worker = fresh()
    claimed = await claim(units_of_work, worker=worker)
    assert {(each.id, each.attempts) for each in claimed} == {(due[0].id, 1), (due[1].id, 3)}
    assert await claim(units_of_work) == []
    ids = [each.id for each in (*due, *not_due)]
    async with units_of_work.begin(SYSTEM) as uow:
        assert {each.id for each in await uow.webhook_deliveries.claimed(ids, worker)} == {each.id for each in due}
        assert list(await uow.webhook_deliveries.claimed(ids, fresh())) == []
    async with committed(units_of_work) as uow:
        uow.webhook_deliveries.release([due[0].id])
    assert [each.id for each in await claim(units_of_work)] == [due[0].id]


async def test_a_claim_ends_by_itself(units_of_work: UnitsOfWork):
    await empty(units_of_work)
    subscription = await _a_kept(units_of_work)
    await keep(units_of_work, a_delivery(subscription))
    dead, worker = fresh(), fresh()
    (first,) = await claim(units_of_work, worker=dead, lasting=OVER)
    (again,) = await claim(units_of_work, worker=worker)
    assert (again.id, again.attempts) == (first.id, 2)
    async with units_of_work.begin(SYSTEM) as uow:
        assert list(await uow.webhook_deliveries.claimed([first.id], dead)) == []


@pytest.mark.parametrize(
    "values",
    [{"status": PAUSED}, {"status": DISABLED}, {"blocked_until": datetime.now(UTC) + timedelta(hours=1)}],
    ids=["paused", "disabled", "blocked"],
)
async def test_who_is_not_to_be_sent_to_is_passed_over(units_of_work: UnitsOfWork, values: dict[str, Any]):
    await empty(units_of_work)
    subscription = await _a_kept(units_of_work, **values)
    await keep(units_of_work, a_delivery(subscription))
    assert await claim(units_of_work) == []


async def test_an_endpoint_has_so_many_at_once_whoever_claims(units_of_work: UnitsOfWork):
    await empty(units_of_work)
    healthy, failing = await _a_kept(units_of_work), await _a_kept(units_of_work, failures=7)
    await keep(units_of_work, *(a_delivery(each) for each in (healthy, failing) for _ in range(6)))

    async def counts(**how: Any) -> tuple[int, int]:
        found = [each.subscription_id for each in await claim(units_of_work, **how)]
        return found.count(healthy.id), found.count(failing.id)

    assert await counts(most=2) == (1, 1)
    assert await counts() == (2, 0)
    assert await counts() == (0, 0)
    assert await counts(per_endpoint=5) == (2, 0)


async def test_who_has_the_fewest_under_way_comes_first(units_of_work: UnitsOfWork):
    await empty(units_of_work)
    busy, idle = await _a_kept(units_of_work), await _a_kept(units_of_work)
    await keep(units_of_work, *(a_delivery(busy) for _ in range(9)))
    assert len(await claim(units_of_work, per_endpoint=2)) == 2
    await keep(units_of_work, *(a_delivery(idle) for _ in range(9)))
    for _ in range(2):
        found = [each.subscription_id for each in await claim(units_of_work, most=1, per_endpoint=9)]
        assert found == [idle.id]


async def test_the_dead_of_a_subscription(units_of_work: UnitsOfWork):
    subscription, other = await _a_kept(units_of_work), await _a_kept(units_of_work)
    dead = [a_delivery(subscription, status=DEAD, finished_at=later(seconds)) for seconds in (3, 1, 2)]
    rest = [a_delivery(subscription), a_delivery(other, status=DEAD, finished_at=later(3))]
    await keep(units_of_work, *dead, *rest)
    async with units_of_work.begin(SYSTEM) as uow:
        for since, limit, places in ((NOW, 9, [1, 2, 0]), (later(2), 9, [2, 0]), (NOW, 2, [1, 2]), (later(4), 9, [])):
            found = await uow.webhook_deliveries.dead_of(subscription.id, since, limit)
            assert list(found) == [dead[place] for place in places]


async def test_what_disabled_subscriptions_leave_behind(units_of_work: UnitsOfWork):
    disabled, paused = await _a_kept(units_of_work, status=DISABLED), await _a_kept(units_of_work, status=PAUSED)
    left = [a_delivery(disabled) for _ in range(3)]
    await keep(units_of_work, *left, a_delivery(disabled, status=DEAD), a_delivery(paused))
    async with units_of_work.begin(SYSTEM) as uow:
        found = await uow.webhook_deliveries.stranded(1_000)
        assert {each.id for each in left} <= {each.id for each in found}
        assert {each.status for each in found} == {PENDING}
        assert paused.id not in {each.subscription_id for each in found}
        assert len(await uow.webhook_deliveries.stranded(2)) == 2


async def test_the_old_are_forgotten(units_of_work: UnitsOfWork):
    subscription = await _a_kept(units_of_work)
    ages = [a_delivery(subscription, created_at=NOW - timedelta(days=days)) for days in (9_000, 8_999, 8_998)]
    await keep(units_of_work, *ages)
    async with committed(units_of_work) as uow:
        assert await uow.webhook_deliveries.forget(NOW - timedelta(days=8_998), most=1) == 1
        assert await uow.webhook_deliveries.forget(NOW - timedelta(days=8_998), most=9) == 1
    assert [await kept(units_of_work, each) for each in ages] == [None, None, ages[2]]


@pytest.mark.postgres
async def test_two_workers_that_claim_at_once_share(runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork):
    units = postgres_units_of_work
    await empty(units)
    subscriptions = [await _a_kept(units) for _ in range(5)]
    await keep(units, *(a_delivery(each) for each in subscriptions for _ in range(20)))
    workers: dict[UUID, list[WebhookDelivery]] = {fresh(): [] for _ in range(4)}

    async def work(worker: UUID) -> None:
        for _ in range(15):
            workers[worker] += await claim(units, worker=worker, most=4, per_endpoint=6)

    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(work(worker))
    claimed = [each for found in workers.values() for each in found]
    assert len({each.id for each in claimed}) == len(claimed) == 30
    for subscription in subscriptions:
        assert sum(each.subscription_id == subscription.id for each in claimed) == 6


@pytest.mark.postgres
async def test_one_worker_at_a_time_holds_the_cursor(runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork):
    units = postgres_units_of_work
    async with units.begin(SYSTEM) as one, units.begin(SYSTEM) as other:
        assert await one.webhook_deliveries.cursor() is not None
        assert await other.webhook_deliveries.cursor() is None


@pytest.mark.postgres
def test_what_the_application_may_do(module_postgres_url: str) -> None:
    with psycopg.connect(module_postgres_url) as database:
        found = database.execute(
            "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type)"
            " FROM information_schema.role_table_grants"
            " WHERE grantee = 'experiment_app' AND table_name LIKE 'webhook_%' GROUP BY 1"
        ).fetchall()
    assert dict(found) == {
        "webhook_attempts": "INSERT SELECT",
        "webhook_cursor": "SELECT UPDATE",
        "webhook_deliveries": "DELETE INSERT SELECT UPDATE",
        "webhook_subscriptions": "DELETE INSERT SELECT UPDATE",
    }
