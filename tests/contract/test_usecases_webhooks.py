"""What can be done with webhooks: by owners, and by the service that delivers."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from experiment_adapters.webhooks.box import AesGcmBox
from experiment_adapters.webhooks.sender import HttpWebhookSender
from experiment_adapters.webhooks.settings import WebhookSettings
from experiment_domain import Services, System, Work
from experiment_domain.kernel.clock import SystemClock
from experiment_domain.kernel.entity import Page
from experiment_domain.kernel.errors import Conflict, Invalid, InvalidTransition, NotFound, Refusal, VersionMismatch
from experiment_domain.usecases import delivering, webhook_deliveries
from experiment_domain.usecases.delivering import work_off_webhooks
from experiment_domain.usecases.webhooks import WEBHOOKS, WebhookWithSecret
from experiment_domain.webhooks.deliveries import DeliveryStatus, WebhookAttempt, WebhookDelivery
from experiment_domain.webhooks.secrets import NoSecretBox, Unreadable
from experiment_domain.webhooks.sending import DeliveryPolicy, Outcome, WebhookMessage
from experiment_domain.webhooks.subscriptions import SubscriptionStatus
from laboratory import SECRET_KEY, Laboratory
from receiver import Receiver, hang, status

PENDING, DELIVERED, DEAD = DeliveryStatus
SOON = 20.0


@pytest.fixture
def lab(units_of_work: Any, runner: asyncio.Runner) -> Laboratory:
    return runner.run(sending(units_of_work))


async def sending(units: Any, **policy: Any) -> Laboratory:
    """A laboratory that sends to this machine, by the system's clock, and tries again soon."""
    lab = await Laboratory.open(units)
    policy = {"delays": (0.05, 0.1), "trips_after": 100, **policy}
    lab.services = Services(
        units_of_work=units,
        clock=SystemClock(),
        box=AesGcmBox(SECRET_KEY),
        webhook_sender=HttpWebhookSender(WebhookSettings(allow_private=True, timeout=2.0)),
        delivery_policy=DeliveryPolicy(**policy),
    )
    return lab


async def deliveries(lab: Laboratory, made: WebhookWithSecret, **which: Any) -> list[WebhookDelivery]:
    """The deliveries of a webhook, oldest first."""

    def page(work: Work) -> Awaitable[Page[WebhookDelivery]]:
        return work.webhook_deliveries.page(made.subscription.id, limit=500, **which)

    return list(reversed((await lab.ask(page)).items))


async def work_until(lab: Laboratory, condition: Callable[[], Awaitable[object]]) -> None:
    """Deliver until a condition holds."""
    is_over = False
    working = asyncio.create_task(work_off_webhooks(lab.services, seconds=SOON, stopping=lambda: is_over))
    try:
        async with asyncio.timeout(SOON):
            while not await condition():
                assert not working.done() or await working
                await asyncio.sleep(0.02)
    finally:
        is_over = True
        await working


async def settle(lab: Laboratory, made: WebhookWithSecret, count: int) -> list[WebhookDelivery]:
    """Deliver until so many deliveries of a webhook are not pending any more."""

    async def are_settled() -> bool:
        found = await deliveries(lab, made)
        return len([each for each in found if each.status is not PENDING]) == count

    await work_until(lab, are_settled)
    return await deliveries(lab, made)


def verified(received: Any, secret: str) -> Any:
    return Webhook(secret).verify(received.body, dict(received.headers))


@pytest.mark.covers("webhooks.create", "webhook_deliveries.fan_out", "webhook_deliveries.claim")
@pytest.mark.covers("webhook_deliveries.conclude")
async def test_an_event_is_delivered_signed_and_once(lab: Laboratory):
    async with Receiver().serving() as receiver:
        made = await lab.webhook(url=receiver.url("/hook"), event_types=["run.*"])
        run = await lab.run(start=True)
        (first, second) = await settle(lab, made, 2)
        assert [each.event_type for each in (first, second)] == ["run.created", "run.started"]
        assert {each.status for each in (first, second)} == {DELIVERED}
        assert len(receiver.received) == 2
        for received in receiver.received:
            told = verified(received, made.secret)
            assert told == json.loads(received.body)
            assert received.headers["content-type"] == "application/cloudevents+json"
            assert (told["specversion"], told["id"]) == ("1.0", received.id)
            assert told["subject"] == f"run/{run.id}"
            with pytest.raises(WebhookVerificationError):
                verified(evolve(received, body=received.body + b" "), made.secret)
        assert {UUID(each.id) for each in receiver.received} == {first.event_id, second.event_id}
        await work_off_webhooks(lab.services, seconds=0.1)
        assert len(receiver.received) == 2


async def test_an_event_is_delivered_at_once_beside_an_attempt_that_hangs(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experiment_domain.usecases.delivering.LOOKS_EVERY", SOON)
    async with Receiver().serving() as receiver:
        receiver.answers["/hung"] = hang
        hung = await lab.webhook(url=receiver.url("/hung"), event_types=["experiment.created"])
        await lab.webhook(url=receiver.url("/open"), event_types=["run.created"])
        experiment = await lab.experiment()
        attempts: Sequence[WebhookAttempt] | None = None

        async def is_told() -> bool:
            nonlocal attempts
            if receiver.at("/hung") and not receiver.at("/open"):
                await lab.run(experiment)
                await asyncio.sleep(0.5)
            if receiver.at("/open") and attempts is None:
                (waiting,) = await deliveries(lab, hung)
                attempts = await lab.ask(lambda work: work.webhook_deliveries.attempts(waiting.id))
            return attempts is not None

        await work_until(lab, is_told)
        assert attempts == []


async def test_filters_choose(lab: Laboratory):
    async with Receiver().serving() as receiver:
        exact = await lab.webhook(url=receiver.url("/exact"), event_types=["run.started", "experiment.created"])
        prefix = await lab.webhook(url=receiver.url("/prefix"), event_types=["run.*"])
        every = await lab.webhook(url=receiver.url("/every"), event_types=["*"])
        await lab.run(start=True)
        await settle(lab, every, 4)
        await settle(lab, exact, 2)
        await settle(lab, prefix, 2)

        def types(path: str) -> list[str]:
            return sorted(json.loads(each.body)["type"] for each in receiver.at(path))

        assert types("/exact") == ["experiment.created", "run.started"]
        assert types("/prefix") == ["run.created", "run.started"]
        assert types("/every") == ["experiment.created", "experiment.started", "run.created", "run.started"]


async def test_events_of_before_and_of_other_projects_are_not_told(lab: Laboratory):
    async with Receiver().serving() as receiver:
        await lab.run()
        made = await lab.webhook(url=receiver.url())
        other = await sending(lab.units)
        await other.run()
        experiment = await lab.experiment()
        (delivery,) = await settle(lab, made, 1)
        assert (delivery.event_type, delivery.created_by) == ("experiment.created", "system")
        assert json.loads(receiver.received[0].body)["subject"] == f"experiment/{experiment.id}"


@pytest.mark.covers("webhook_deliveries.attempts", "webhook_deliveries.history", "webhook_deliveries.page")
async def test_what_fails_is_tried_again_with_the_same_id_and_body(lab: Laboratory):
    async with Receiver().serving() as receiver:
        receiver.answers["/"] = [status(500, b"not now"), status(302, location="/"), status(204)]
        made = await lab.webhook(url=receiver.url())
        await lab.experiment()
        (delivery,) = await settle(lab, made, 1)
        assert (delivery.status, delivery.attempts, delivery.last_status) == (DELIVERED, 3, 204)
        assert len({(each.id, each.body) for each in receiver.received}) == 1
        log = await lab.ask(lambda work: work.webhook_deliveries.attempts(delivery.id))
        assert [attempt.outcome.status_code for attempt in log] == [500, 302, 204]
        assert [attempt.outcome.answer for attempt in log] == ["not now", "", ""]
        assert all(attempt.outcome.latency > 0 for attempt in log)
        (step,) = await lab.ask(lambda work: work.webhook_deliveries.history(delivery.id))
        assert (step.source, step.target, step.actor, step.reason) == ("pending", "delivered", "system", None)
        found = await lab.ask(lambda work: work.webhooks.get(made.subscription.id))
        assert (found.failures, found.failing_since, found.version) == (0, None, 1)


@pytest.mark.covers("webhook_deliveries.redeliver", "webhook_deliveries.redeliver_dead")
async def test_the_dead_are_brought_back(lab: Laboratory):
    async with Receiver().serving() as receiver:
        receiver.answers["/"] = status(500, b"no")
        made = await lab.webhook(url=receiver.url(), event_types=["experiment.created"])
        for _ in range(3):
            await lab.experiment()
        dead = await settle(lab, made, 3)
        assert {(each.status, each.attempts, each.reason) for each in dead} == {
            (DEAD, 3, "tried 3 times, at last answered 500")
        }
        receiver.answers["/"] = status(204)
        one = await lab.do(lambda work: work.webhook_deliveries.redeliver(dead[0].id, reason="it is back"))
        assert (one.status, one.attempts, one.reason) == (PENDING, 0, None)
        assert await lab.do(lambda work: work.webhook_deliveries.redeliver(dead[0].id)) == one
        since = min(each.finished_at for each in dead if each.finished_at)
        count = await lab.do(
            lambda work: work.webhook_deliveries.redeliver_dead(made.subscription.id, since=since, reason="all")
        )
        assert count == 2
        back = await settle(lab, made, 3)
        assert {each.status for each in back} == {DELIVERED}
        assert len(await lab.ask(lambda work: work.webhook_deliveries.attempts(dead[1].id))) == 4
        steps = await lab.history("webhook_delivery", dead[1].id)
        assert [(step.target, step.actor, step.reason) for step in steps] == [
            ("dead", "system", "tried 3 times, at last answered 500"),
            ("pending", lab.owner.id, "all"),
            ("delivered", "system", None),
        ]
        actions = {(record.target_type, record.action) for record in await lab.audit()}
        assert {("webhook_delivery", "redeliver"), ("webhook_subscription", "redeliver")} <= actions
        with pytest.raises(InvalidTransition):
            await lab.do(
                lambda work: (
                    work.webhook_deliveries.redeliver(back[0].id, reason=None)
                    if False
                    else work.webhook_deliveries.redeliver(back[0].id)
                )
            )


async def test_an_idle_worker_hears_of_the_dead_that_are_brought_back(lab: Laboratory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivering, "IDLES_FOR", 10 * SOON)
    async with Receiver().serving() as receiver:
        receiver.answers["/"] = status(500)
        made = await lab.webhook(url=receiver.url(), event_types=["experiment.created"])
        await lab.experiment()
        (dead,) = await settle(lab, made, 1)
        receiver.answers["/"] = status(204)
        assert dead.finished_at is not None
        brought_back = False

        async def is_delivered() -> bool:
            nonlocal brought_back
            if not brought_back:
                await asyncio.sleep(1.0)  # the worker has looked, and found nothing
                brought_back = True
                since = dead.finished_at or dead.created_at
                await lab.do(lambda work: work.webhook_deliveries.redeliver_dead(made.subscription.id, since=since))
            (found,) = await deliveries(lab, made)
            return found.status is DELIVERED

        await work_until(lab, is_delivered)


@pytest.mark.covers("webhooks.resume", "webhooks.get", "webhooks.history")
async def test_410_disables_at_once(lab: Laboratory):
    async with Receiver().serving() as receiver:
        receiver.answers["/as-good-as-a-password"] = status(410)
        made = await lab.webhook(url=receiver.url("/as-good-as-a-password"), event_types=["experiment.created"])
        watching = await lab.webhook(url=receiver.url("/watching"), event_types=["webhook.*"])
        await lab.experiment()
        (gone,) = await settle(lab, made, 1)
        assert (gone.status, gone.attempts, gone.reason) == (DEAD, 1, "tried once, at last answered 410")
        found = await lab.ask(lambda work: work.webhooks.get(made.subscription.id))
        assert found.status is SubscriptionStatus.DISABLED
        (step,) = await lab.ask(lambda work: work.webhooks.history(found.id))
        assert (step.target, step.actor, step.reason) == ("disabled", "system", "its endpoint answered 410 Gone")
        (told,) = await settle(lab, watching, 1)
        assert told.event_type == "webhook.disabled"
        said = json.loads(receiver.at("/watching")[0].body)["data"]
        assert (said["reason"], said["origin"]) == ("its endpoint answered 410 Gone", receiver.url(""))
        # All who may read the project hear of it, and only owners know the whole URL.
        assert b"as-good-as-a-password" not in receiver.at("/watching")[0].body
        # What happens while it is disabled is not for it.
        await lab.experiment()
        await work_off_webhooks(lab.services, seconds=0.1)
        assert len(await deliveries(lab, made)) == 1
        for refused in (
            lambda work: work.webhook_deliveries.test(found.id),
            lambda work: work.webhook_deliveries.redeliver(gone.id),
            lambda work: work.webhook_deliveries.redeliver_dead(found.id, since=gone.created_at),
        ):
            with pytest.raises(Conflict):
                await lab.do(refused)
        resumed = await lab.do(lambda work: work.webhooks.resume(found.id))
        assert (resumed.status, resumed.failures) == (SubscriptionStatus.ACTIVE, 0)


async def test_an_endpoint_of_before_says_nothing_of_the_one_after_it(lab: Laboratory):
    async with Receiver().serving() as receiver:
        made = await lab.webhook(url=receiver.url("/before"), event_types=["experiment.created"])

        async def moved(writer: asyncio.StreamWriter) -> None:
            await lab.do(lambda work: work.webhooks.edit(made.subscription.id, url=receiver.url("/after")))
            await status(410, Retry_After="3600")(writer)

        receiver.answers["/before"] = moved
        await lab.experiment()
        (delivery,) = await settle(lab, made, 1)
        assert (delivery.status, delivery.attempts) == (DELIVERED, 2)
        assert [each.path for each in receiver.received] == ["/before", "/after"]
        found = await lab.ask(lambda work: work.webhooks.get(made.subscription.id))
        assert (found.status, found.failures) == (SubscriptionStatus.ACTIVE, 0)


@pytest.mark.covers("webhook_deliveries.bury")
async def test_what_a_disabled_webhook_leaves_behind_dies(units_of_work: Any, runner: asyncio.Runner):
    lab = await sending(units_of_work, delays=(60.0,), gives_up_after=timedelta(), trips_after=100)
    async with Receiver().serving() as receiver:
        receiver.answers["/"] = status(500)
        made = await lab.webhook(url=receiver.url(), event_types=["experiment.created"])
        await lab.experiment()

        async def is_disabled() -> bool:
            found = await lab.ask(lambda work: work.webhooks.get(made.subscription.id))
            return found.status is SubscriptionStatus.DISABLED

        await work_until(lab, is_disabled)
    (left,) = await deliveries(lab, made)
    assert left.status is PENDING
    assert await lab.do(lambda work: work.webhook_deliveries.bury(), by=System()) == 1
    (buried,) = await deliveries(lab, made)
    assert (buried.status, buried.reason) == (DEAD, "the webhook is disabled")
    assert await lab.do(lambda work: work.webhook_deliveries.bury(), by=System()) == 0


@pytest.mark.covers("webhooks.pause", "webhooks.resume")
async def test_what_happens_during_a_pause_is_delivered_after_it(lab: Laboratory):
    async with Receiver().serving() as receiver:
        made = await lab.webhook(url=receiver.url(), event_types=["experiment.created"])
        await lab.do(lambda work: work.webhooks.pause(made.subscription.id, reason="maintenance"))
        await lab.experiment()
        await work_off_webhooks(lab.services, seconds=0.3)
        assert [each.status for each in await deliveries(lab, made)] == [PENDING]
        assert receiver.connections == 0
        with pytest.raises(Conflict):
            await lab.do(lambda work: work.webhook_deliveries.test(made.subscription.id))
        await lab.do(lambda work: work.webhooks.resume(made.subscription.id))
        await settle(lab, made, 1)
        assert len(receiver.received) == 1


@pytest.mark.covers("webhook_deliveries.test")
async def test_a_test_is_delivered_at_once_and_tried_once(lab: Laboratory):
    async with Receiver().serving() as receiver:
        made = await lab.webhook(url=receiver.url(), event_types=["run.finished"])
        receiver.answers["/"] = [status(500), status(204)]
        for _ in range(2):
            await lab.do(lambda work: work.webhook_deliveries.test(made.subscription.id))
            await asyncio.sleep(0.01)
            await settle(lab, made, len(receiver.received) + 1)
        failed, passed = await deliveries(lab, made)
        assert (failed.status, failed.reason) == (DEAD, "tried once, at last answered 500")
        assert (passed.status, passed.event_type) == (DELIVERED, "webhook.test")
        told = verified(receiver.received[-1], made.secret)
        assert (told["type"], told["subject"]) == ("webhook.test", f"webhook_subscription/{made.subscription.id}")
        assert told["actor"] == lab.owner.id


@pytest.mark.covers("webhooks.rotate_secret")
async def test_both_secrets_count_during_a_rotation(lab: Laboratory):
    async with Receiver().serving() as receiver:
        made = await lab.webhook(url=receiver.url(), event_types=["experiment.created"])
        rotated = await lab.do(lambda work: work.webhooks.rotate_secret(made.subscription.id, grace=60.0))
        assert rotated.secret != made.secret
        await lab.experiment()
        await settle(lab, made, 1)
        for secret in (made.secret, rotated.secret):
            assert verified(receiver.received[0], secret)
        last = await lab.do(lambda work: work.webhooks.rotate_secret(made.subscription.id, grace=0.0))
        assert last.subscription.previous_secret_dies_at is None
        await lab.experiment()
        await settle(lab, made, 2)
        assert verified(receiver.received[1], last.secret)
        for secret in (made.secret, rotated.secret):
            with pytest.raises(WebhookVerificationError):
                verified(receiver.received[1], secret)
        with pytest.raises(Invalid):
            await lab.do(lambda work: work.webhooks.rotate_secret(made.subscription.id, grace=8 * 86_400.0))


async def test_secrets_are_shown_once_and_written_nowhere(lab: Laboratory):
    made = await lab.webhook()
    rotated = await lab.do(lambda work: work.webhooks.rotate_secret(made.subscription.id))
    edited = await lab.do(lambda work: work.webhooks.edit(made.subscription.id, description="other"))
    await lab.do(lambda work: work.webhooks.delete(made.subscription.id))
    written = f"{made!r} {rotated!r} {edited!r} {await lab.audit()!r} {lab.services!r}"
    for secret in (made.secret, rotated.secret):
        assert secret not in written
        assert secret.removeprefix("whsec_") not in written
        raw = base64.b64decode(secret.removeprefix("whsec_"))
        assert len(raw) == 32
        assert raw not in edited.sealed_secret + (edited.previous_sealed_secret or b"")
    assert "sealed" not in written


async def test_a_secret_opens_only_for_its_own_webhook(lab: Laboratory):
    one, other = await lab.webhook(), await lab.webhook()
    box = lab.services.box
    about = f"webhook_subscription/{one.subscription.id}".encode()
    assert box.open(one.subscription.sealed_secret, about) == one.secret
    with pytest.raises(Unreadable):
        box.open(other.subscription.sealed_secret, about)


async def test_an_unknown_key_is_an_error_of_the_delivery(lab: Laboratory):
    async with Receiver().serving() as receiver:
        made = await lab.webhook(url=receiver.url(), event_types=["experiment.created"])
        await lab.experiment()
        lab.services = evolve(lab.services, box=NoSecretBox())
        await work_off_webhooks(lab.services, seconds=0.1)
        (waiting,) = await deliveries(lab, made)
        assert (waiting.status, waiting.attempts) == (PENDING, 0)
        lab.services = evolve(lab.services, box=AesGcmBox(SECRET_KEY[::-1]))
        (dead,) = await settle(lab, made, 1)
        assert "sealed under a key that is not known" in str(dead.reason)
        assert receiver.connections == 0
    lab.services = evolve(lab.services, box=NoSecretBox())
    with pytest.raises(Refusal) as refusal:
        await lab.webhook()
    assert refusal.value.code == "no_secret_key"


@pytest.mark.covers("webhooks.edit", "webhooks.delete", "webhook_deliveries.get")
async def test_a_webhook_is_edited_and_deleted_with_its_deliveries(lab: Laboratory):
    made = await lab.webhook()
    await lab.do(lambda work: work.webhook_deliveries.test(made.subscription.id))
    (listed,) = await deliveries(lab, made)
    delivery = await lab.ask(lambda work: work.webhook_deliveries.get(listed.id))
    assert delivery == listed
    with pytest.raises(VersionMismatch):
        await lab.do(lambda work: work.webhooks.edit(made.subscription.id, if_version=7, description="x"))
    edited = await lab.do(
        lambda work: work.webhooks.edit(
            made.subscription.id, url="http://other.example/", event_types=["run.*", "run.*"]
        )
    )
    assert (edited.url, edited.event_types, edited.version) == ("http://other.example/", ("run.*",), 2)
    await lab.do(lambda work: work.webhooks.delete(made.subscription.id, if_version=2))
    for question in (
        lambda work: work.webhooks.get(made.subscription.id),
        lambda work: work.webhook_deliveries.get(delivery.id),
    ):
        with pytest.raises(NotFound):
            await lab.ask(question)
    assert [record.action for record in (await lab.audit())[-4:]] == ["create", "test", "update", "delete"]


@pytest.mark.covers("webhooks.page")
async def test_a_project_has_so_many_webhooks_and_no_more(lab: Laboratory):
    async def make(work: Work, count: int = WEBHOOKS - 1) -> None:
        for _ in range(count):
            await work.webhooks.create(
                project_id=lab.project.id, url="https://hooks.example/", event_types=["run.tagged"]
            )

    await lab.do(make)
    answers = await asyncio.gather(*(lab.webhook() for _ in range(3)), return_exceptions=True)
    assert sorted(getattr(each, "code", "made") for each in answers) == ["made", *2 * ["too_many_webhooks"]]
    found = await lab.ask(lambda work: work.webhooks.page(limit=1))
    await lab.do(lambda work: work.webhooks.delete(found.items[0].id))
    await lab.webhook()


async def test_lists_hold_what_the_caller_owns(lab: Laboratory):
    ours = [await lab.webhook() for _ in range(3)]
    await lab.do(lambda work: work.webhooks.pause(ours[1].subscription.id))
    other = await sending(lab.units)
    theirs = await other.webhook()
    found = await lab.ask(lambda work: work.webhooks.page())
    assert [each.id for each in found.items] == [made.subscription.id for made in reversed(ours)]
    paused = await lab.ask(lambda work: work.webhooks.page(statuses=[SubscriptionStatus.PAUSED]))
    assert [each.id for each in paused.items] == [ours[1].subscription.id]
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.webhooks.page([theirs.subscription.project_id]))
    assert list((await lab.ask(lambda work: work.webhooks.page(), by=lab.viewer)).items) == []


async def test_a_lost_claim_counts_for_nothing(lab: Laboratory):
    """A worker that was taken for dead, and comes back with its outcome after another one has claimed."""
    made = await lab.webhook(event_types=["experiment.created"])
    await lab.experiment()
    dead_worker, worker = UUID(int=1), UUID(int=2)

    async def claimed(by: UUID, lasting: float) -> Any:
        return await lab.do(
            lambda work: work.webhook_deliveries.claim(by, most=10, lasting=timedelta(seconds=lasting)), by=System()
        )

    await lab.do(lambda work: work.webhook_deliveries.fan_out(), by=System())
    (first,) = await claimed(dead_worker, 0.0)
    (second,) = await claimed(worker, 30.0)
    assert (first.delivery.id, first.delivery.attempts, second.delivery.attempts) == (second.delivery.id, 1, 2)
    assert list(await claimed(UUID(int=3), 30.0)) == []
    outcomes = [(first, Outcome(status_code=500))]
    await lab.do(lambda work: work.webhook_deliveries.conclude(dead_worker, outcomes), by=System())
    (delivery,) = await deliveries(lab, made)
    assert (delivery.status, delivery.last_status) == (PENDING, None)
    await lab.do(
        lambda work: work.webhook_deliveries.conclude(worker, [(second, Outcome(status_code=204))]), by=System()
    )
    (delivery,) = await deliveries(lab, made)
    assert delivery.status is DELIVERED


async def test_what_workers_vanish_over_again_and_again_dies(units_of_work: Any, runner: asyncio.Runner):
    lab = await sending(units_of_work, delays=(0.05,))
    made = await lab.webhook(event_types=["experiment.created"])
    await lab.experiment()
    await lab.do(lambda work: work.webhook_deliveries.fan_out(), by=System())
    for number in range(1, 13):
        (dispatch,) = await lab.do(
            lambda work: work.webhook_deliveries.claim(UUID(int=1), most=1, lasting=timedelta()), by=System()
        )
        assert dispatch.delivery.attempts == number
    assert not await lab.do(
        lambda work: work.webhook_deliveries.claim(UUID(int=1), most=1, lasting=timedelta()), by=System()
    )
    (delivery,) = await deliveries(lab, made)
    assert (delivery.status, delivery.reason) == (DEAD, "10 workers ended without a word while they attempted it")


@pytest.mark.covers("webhook_deliveries.forget")
async def test_old_deliveries_are_forgotten(lab: Laboratory):
    made = await lab.webhook()
    await lab.do(lambda work: work.webhook_deliveries.test(made.subscription.id))
    clock = lab.services.clock

    class Later(SystemClock):
        def now(self) -> Any:
            return clock.now() + timedelta(days=31)

    assert await lab.do(lambda work: work.webhook_deliveries.forget(), by=System()) == 0
    lab.services = evolve(lab.services, clock=Later())
    assert await lab.do(lambda work: work.webhook_deliveries.forget(), by=System()) >= 1
    assert await deliveries(lab, made) == []


async def test_what_many_webhooks_want_is_made_in_parts(lab: Laboratory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webhook_deliveries, "DELIVERIES_AT_ONCE", 5)
    made = [await lab.webhook(event_types=["experiment.created"]) for _ in range(2)]
    events = 7
    for _ in range(events):
        await lab.experiment()

    async def count() -> int:
        return sum([len(await deliveries(lab, each)) for each in made])

    counts = [0]
    more = True
    while more:
        more = await lab.do(lambda work: work.webhook_deliveries.fan_out(), by=System())
        counts.append(await count())
    steps = [after - before for before, after in pairwise(counts) if after > before]
    assert steps == [4, 4, 4, 2]
    for each in made:
        assert len({delivery.event_id for delivery in await deliveries(lab, each)}) == events
    monkeypatch.setattr(webhook_deliveries, "DELIVERIES_AT_ONCE", 1)
    await lab.experiment()
    await lab.do(lambda work: work.webhook_deliveries.fan_out(), by=System())
    assert await count() == 2 * events + 2  # those of one event go together, however many they are


async def test_an_attempt_that_breaks_off_ends_no_other_one(lab: Laboratory):
    class Faulty(HttpWebhookSender):
        async def send(self, message: WebhookMessage) -> Outcome:
            if message.url.endswith("/strange"):
                raise OverflowError("a number of the receiver's")
            return await super().send(message)

    lab.services = evolve(lab.services, webhook_sender=Faulty(WebhookSettings(allow_private=True, timeout=2.0)))
    told: list[str] = []
    async with Receiver().serving() as receiver:
        strange = await lab.webhook(url=receiver.url("/strange"), event_types=["experiment.created"])
        other = await lab.webhook(url=receiver.url("/other"), event_types=["experiment.created"])
        await lab.experiment()
        await work_off_webhooks(lab.services, seconds=1.0, failed=lambda _, error: told.append(str(error)))
    (delivered,), (dead,) = await deliveries(lab, other), await deliveries(lab, strange)
    assert (delivered.status, delivered.attempts) == (DELIVERED, 1)
    assert (dead.status, dead.reason) == (DEAD, "tried 3 times, at last the attempt broke off: OverflowError")
    assert told == 3 * ["a number of the receiver's"]


async def test_one_dead_endpoint_keeps_nobody_waiting(units_of_work: Any, runner: asyncio.Runner):
    from receiver import hang

    lab = await sending(units_of_work, delays=(60.0,), trips_after=2)
    async with Receiver().serving() as receiver:
        receiver.answers["/hangs"] = hang
        slow = await lab.webhook(url=receiver.url("/hangs"), event_types=["experiment.created"])
        fast = await lab.webhook(url=receiver.url("/fast"), event_types=["experiment.created"])
        for _ in range(20):
            await lab.experiment()
        began = asyncio.get_running_loop().time()
        await settle(lab, fast, 20)
        last = max(each.at for each in receiver.at("/fast"))
        assert last - began < 2.0  # before the first attempt at the other one has timed out
        assert len(receiver.at("/hangs")) <= lab.services.delivery_policy.per_endpoint
        found = await lab.ask(lambda work: work.webhooks.get(slow.subscription.id))
        assert found.failures == lab.services.delivery_policy.per_endpoint
        assert found.blocked_until is not None
