"""What can be done with deliveries of webhooks: by people, who look at them, and by the service, which makes them."""

import json
import random
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.cloudevents import cloud_event
from experiment_domain.kernel.entity import Change, Lock, Page, Position, StatusChange, created
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.kernel.values import told
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.recording import Recorder
from experiment_domain.usecases.webhooks import CALLED
from experiment_domain.usecases.webhooks import NOUN as SUBSCRIPTION
from experiment_domain.webhooks.deliveries import (
    KEPT_FOR,
    REDELIVERED_AT_ONCE,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
)
from experiment_domain.webhooks.sending import LOSSES, DeliveryPolicy, Outcome
from experiment_domain.webhooks.subscriptions import SubscriptionStatus, WebhookSubscription

NOUN = "webhook_delivery"
EVENTS_AT_ONCE = 500
"""How many events one transaction makes deliveries of, at most."""
DELIVERIES_AT_ONCE = 2_000
"""How many deliveries it makes, at most, but for those of one event: hundreds of webhooks may want each of them."""
BURIED_AT_ONCE = 1_000
FORGOTTEN_AT_ONCE = 5_000


@frozen(kw_only=True)
class Dispatch:
    """A delivery that is to be attempted now, and where to."""

    delivery: WebhookDelivery
    subscription: WebhookSubscription


class WebhookDeliveryUseCases(UseCases):
    """Deliveries. Who holds both holds the subscription first.

    `fan_out`, `claim` and `conclude` are for the service itself, each a unit of work: see `work_off_webhooks`.
    """

    def __init__(self, recorder: Recorder, policy: DeliveryPolicy) -> None:
        super().__init__(recorder)
        self._policy = policy

    @requires(Permission.ADMINISTER)
    async def test(self, permit: Permit, subscription_id: UUID) -> WebhookDelivery:
        """Try an active subscription out: an event of the type `webhook.test`, to it alone, which is tried once."""
        found = await self.uow.webhook_subscriptions.get(subscription_id, Lock.SHARE)
        subscription = await permit.holds(found, CALLED)
        subscription.check_active()
        actor = (await permit.grants()).actor
        event = subscription.test(at=self.recorder.now)
        recorded = RecordedEvent(id=self.recorder.ids.new(), event=event, actor=actor)
        return await self.recorder.keep(
            self.uow.webhook_deliveries, created(self._delivery(recorded, subscription, by=actor)), NOUN, "test"
        )

    @requires(Permission.ADMINISTER)
    async def get(self, permit: Permit, delivery_id: UUID) -> WebhookDelivery:
        """One delivery."""
        return await permit.holds(await self.uow.webhook_deliveries.get(delivery_id), "webhook delivery")

    @requires(Permission.ADMINISTER)
    async def page(
        self,
        permit: Permit,
        subscription_id: UUID,
        *,
        statuses: Collection[DeliveryStatus] = (),
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[WebhookDelivery]:
        """The deliveries of a subscription, newest first."""
        await permit.holds(await self.uow.webhook_subscriptions.get(subscription_id), CALLED)
        return await self.uow.webhook_deliveries.page(subscription_id, statuses=statuses, limit=limit, after=after)

    @requires(Permission.ADMINISTER)
    async def attempts(self, permit: Permit, delivery_id: UUID) -> Sequence[WebhookAttempt]:
        """What came of each attempt, oldest first."""
        await self._found(permit, delivery_id)
        return await self.uow.webhook_deliveries.attempts_of(delivery_id)

    @requires(Permission.ADMINISTER)
    async def history(self, permit: Permit, delivery_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await self._found(permit, delivery_id)
        return await self.uow.history.of(NOUN, delivery_id)

    @requires(Permission.ADMINISTER)
    async def redeliver(
        self, permit: Permit, delivery_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> WebhookDelivery:
        """dead → pending: it is tried from now on as often as a new one."""
        found = await self._found(permit, delivery_id)
        await self._subscription(found.subscription_id)
        held = await self.uow.webhook_deliveries.get(delivery_id, Lock.UPDATE)
        delivery = await permit.holds(held, "webhook delivery", if_version)
        change = delivery.redeliver(at=self.recorder.now)
        return await self.recorder.keep(self.uow.webhook_deliveries, change, NOUN, "redeliver", reason=reason)

    @requires(Permission.ADMINISTER)
    async def redeliver_dead(
        self, permit: Permit, subscription_id: UUID, *, since: datetime, reason: str | None = None
    ) -> int:
        """dead → pending for those of a subscription that died at `since` or later; how many they are.

        They are the oldest `REDELIVERED_AT_ONCE`, where there are more: the same again brings back the next ones.
        """
        await permit.holds(await self.uow.webhook_subscriptions.get(subscription_id), CALLED)
        subscription = await self._subscription(subscription_id)
        found = await self.uow.webhook_deliveries.dead_of(subscription_id, since, REDELIVERED_AT_ONCE)
        changes = [delivery.redeliver(at=self.recorder.now) for delivery in found]
        await self.recorder.note_all(self.uow.webhook_deliveries, changes, NOUN, reason=reason)
        after = {"since": told(since), "count": len(changes)}
        await self.recorder.audit(SUBSCRIPTION, str(subscription_id), subscription.project_id, "redeliver", after=after)
        return len(changes)

    @requires(Permission.WORK)
    async def fan_out(self, permit: Permit, *, most: int = EVENTS_AT_ONCE) -> bool:
        """Make deliveries of the next events, in the order of commits; whether there may be more.

        False as well where another worker is at it.
        """
        permit.service()
        cursor = await self.uow.webhook_deliveries.cursor()
        if cursor is None:
            return False
        part = await self.uow.events.since(cursor.place, limit=most)
        if not part.events:
            return False
        recorded = [placed.recorded for placed in part.events]
        listening = await self.uow.webhook_subscriptions.listening({each.event.project_id for each in recorded})
        of_project: dict[UUID, list[WebhookSubscription]] = {}
        for subscription in listening:
            of_project.setdefault(subscription.project_id, []).append(subscription)
        made: list[WebhookDelivery] = []
        place, more = part.place, part.more
        for number, each in enumerate(recorded):
            wanted = [
                subscription
                for subscription in of_project.get(each.event.project_id, ())
                if subscription.wants(each.event.type) and each.event.at >= subscription.created_at
            ]
            if made and len(made) + len(wanted) > DELIVERIES_AT_ONCE:
                place, more = part.events[number - 1].place, True
                break
            made += [self._delivery(each, subscription, by="system") for subscription in wanted]
        self.uow.webhook_deliveries.add_all(made)
        self.uow.webhook_deliveries.move_cursor(place)
        return more

    @requires(Permission.WORK)
    async def claim(
        self, permit: Permit, worker: UUID, *, most: int, lasting: timedelta | None = None
    ) -> Sequence[Dispatch]:
        """At most so many deliveries that are due, for `worker` alone."""
        permit.service()
        if lasting is None:
            lasting = self._policy.claim_lasts
        claimed = await self.uow.webhook_deliveries.claim(
            worker, lasting, most=most, per_endpoint=self._policy.per_endpoint
        )
        if not claimed:
            return ()
        subscriptions = await self.uow.webhook_subscriptions.of_ids({each.subscription_id for each in claimed})
        by_id = {subscription.id: subscription for subscription in subscriptions}
        lost = [each for each in claimed if each.attempts > self._policy.tries + LOSSES]
        if lost:
            reason = f"{LOSSES} workers ended without a word while they attempted it"
            changes = [delivery.die(reason, at=self.recorder.now) for delivery in lost]
            await self._settle(changes, {delivery.id for delivery in lost})
        return [
            Dispatch(delivery=delivery, subscription=by_id[delivery.subscription_id])
            for delivery in claimed
            if delivery not in lost and delivery.subscription_id in by_id
        ]

    @requires(Permission.WORK)
    async def conclude(
        self, permit: Permit, worker: UUID, outcomes: Sequence[tuple[Dispatch, Outcome]]
    ) -> Sequence[timedelta]:
        """Note what came of attempts that are still the worker's own, and disable endpoints that are of no use.

        After how long those of them are due again that are.
        """
        permit.service()
        endpoints = {dispatch.subscription.id for dispatch, _ in outcomes}
        held = await self.uow.webhook_subscriptions.of_ids(endpoints, Lock.UPDATE)
        ids = {dispatch.delivery.id: outcome for dispatch, outcome in outcomes}
        # What the endpoint of before said says nothing of the one that a person has put in its place meanwhile.
        urls = {subscription.id: subscription.url for subscription in held}
        elsewhere = {
            dispatch.delivery.id
            for dispatch, _ in outcomes
            if urls.get(dispatch.subscription.id) != dispatch.subscription.url
        }
        deliveries = await self.uow.webhook_deliveries.claimed(ids.keys(), worker)
        now = self.recorder.now
        self.uow.webhook_deliveries.log(
            [WebhookAttempt(delivery_id=each.id, at=now, outcome=ids[each.id]) for each in deliveries]
        )
        changes = [
            delivery.attempted(
                ids[delivery.id],
                self._policy,
                chance=random.random(),  # noqa: S311 - it spreads load
                at=now,
                is_elsewhere=delivery.id in elsewhere,
            )
            for delivery in deliveries
        ]
        await self._settle(changes, {delivery.id for delivery in deliveries})
        blocked: dict[UUID, datetime | None] = {}
        for subscription in held:
            ours = [
                ids[delivery.id]
                for delivery in deliveries
                if delivery.subscription_id == subscription.id and delivery.id not in elsewhere
            ]
            blocked[subscription.id] = await self._note(subscription, ours, now)
        return [
            max(after.next_attempt_at, blocked[after.subscription_id] or now) - now
            for after in (change.result for change in changes)
            if after.next_attempt_at is not None
        ]

    @requires(Permission.WORK)
    async def bury(self, permit: Permit, *, most: int = BURIED_AT_ONCE) -> int:
        """pending → dead for deliveries of disabled subscriptions; how many they are."""
        permit.service()
        found = await self.uow.webhook_deliveries.stranded(most)
        changes = [delivery.die("the webhook is disabled", at=self.recorder.now) for delivery in found]
        await self._settle(changes, {delivery.id for delivery in found})
        return len(changes)

    @requires(Permission.WORK)
    async def forget(self, permit: Permit, *, most: int = FORGOTTEN_AT_ONCE) -> int:
        """Remove deliveries that are older than they are kept; how many they were."""
        permit.service()
        return await self.uow.webhook_deliveries.forget(self.recorder.now - KEPT_FOR, most=most)

    def _delivery(self, recorded: RecordedEvent, subscription: WebhookSubscription, *, by: str) -> WebhookDelivery:
        return WebhookDelivery.of(
            recorded,
            subscription,
            delivery_id=self.recorder.ids.new(),
            body=json.dumps(cloud_event(recorded), ensure_ascii=False, separators=(",", ":")),
            at=self.recorder.now,
            by=by,
        )

    async def _settle(self, changes: Sequence[Change[WebhookDelivery]], claimed: Collection[UUID]) -> None:
        """Keep what became of deliveries, and end their claims."""
        reasons: Mapping[UUID, str | None] = {change.result.id: change.result.reason for change in changes}
        await self.recorder.note_all(self.uow.webhook_deliveries, changes, NOUN, reasons=reasons)
        self.uow.webhook_deliveries.release(claimed)

    async def _note(
        self, subscription: WebhookSubscription, outcomes: Sequence[Outcome], now: datetime
    ) -> datetime | None:
        """Keep how an endpoint has been doing, and disable it where it is of no use; until when it is left alone."""
        after = subscription
        for outcome in outcomes:
            after = after.answered(outcome, self._policy, at=now)
        if after is not subscription:
            self.uow.webhook_subscriptions.note_health(after)
        if subscription.status is not SubscriptionStatus.ACTIVE:
            return after.blocked_until
        reason = None
        if any(outcome.is_gone for outcome in outcomes):
            reason = "its endpoint answered 410 Gone"
        elif after.has_failed_for(now) >= self._policy.gives_up_after:
            reason = f"its endpoint has done nothing but fail for {self._policy.gives_up_after.days} days"
        if reason is not None:
            change = after.disable(at=now, reason=reason)
            await self.recorder.keep(self.uow.webhook_subscriptions, change, SUBSCRIPTION, "disable", reason=reason)
        return after.blocked_until

    async def _found(self, permit: Permit, delivery_id: UUID) -> WebhookDelivery:
        return await permit.holds(await self.uow.webhook_deliveries.get(delivery_id), "webhook delivery")

    async def _subscription(self, subscription_id: UUID) -> WebhookSubscription:
        """The subscription of what is brought back, held: it must not be disabled."""
        (subscription,) = await self.uow.webhook_subscriptions.of_ids([subscription_id], Lock.SHARE)
        subscription.check_not_disabled()
        return subscription
