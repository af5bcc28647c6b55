"""Webhooks in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import newest_first, one_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_adapters.memory.store import StoredClaim
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.webhooks.deliveries import (
    Cursor,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookDeliveryRepository,
)
from experiment_domain.webhooks.subscriptions import (
    HEALTH,
    LISTENING,
    SubscriptionStatus,
    WebhookSubscription,
    WebhookSubscriptionRepository,
)


class MemoryWebhookSubscriptions(MemoryRepository[WebhookSubscription], WebhookSubscriptionRepository):
    """Subscriptions."""

    rows = attrgetter("webhook_subscriptions")
    noun = "webhook subscription"

    def add(self, subscription: WebhookSubscription) -> None:
        self._transaction.refers(self._store.projects, subscription.project_id, "project")
        self._transaction.insert(
            self._store.webhook_subscriptions, subscription.id, subscription, "webhook subscription"
        )

    def remove(self, subscription: WebhookSubscription) -> None:
        self._transaction.remove(self._store.webhook_subscriptions, subscription, "webhook subscription")
        for delivery in list(self._store.webhook_deliveries.values()):
            if delivery.subscription_id == subscription.id:
                self._transaction.drop(self._store.webhook_deliveries, delivery.id)

    async def page(
        self,
        project_ids: Collection[UUID],
        *,
        statuses: Collection[SubscriptionStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[WebhookSubscription]:
        self._transaction.settle()
        found = [
            subscription
            for subscription in self._store.webhook_subscriptions.values()
            if subscription.project_id in project_ids and one_of(subscription.status, statuses)
        ]
        return newest_first(found, limit, after)

    async def listening(self, project_ids: Collection[UUID]) -> Sequence[WebhookSubscription]:
        self._transaction.settle()
        found = [
            subscription
            for subscription in self._store.webhook_subscriptions.values()
            if subscription.project_id in project_ids and subscription.status in LISTENING
        ]
        return sorted(found, key=attrgetter("created_at", "id"))

    async def of_ids(self, subscription_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Sequence[WebhookSubscription]:
        self._transaction.settle()
        rows = self._store.webhook_subscriptions
        return [rows[subscription_id] for subscription_id in sorted(subscription_ids) if subscription_id in rows]

    def note_health(self, subscription: WebhookSubscription) -> None:
        kept = self._store.webhook_subscriptions.get(subscription.id)
        if kept is not None:
            health = {name: getattr(subscription, name) for name in HEALTH}
            self._transaction.put(self._store.webhook_subscriptions, kept.id, evolve(kept, **health))


class MemoryWebhookDeliveries(MemoryRepository[WebhookDelivery], WebhookDeliveryRepository):
    """Deliveries, their attempts, and who makes one."""

    rows = attrgetter("webhook_deliveries")
    noun = "webhook delivery"

    def add(self, delivery: WebhookDelivery) -> None:
        self._transaction.refers(self._store.webhook_subscriptions, delivery.subscription_id, "webhook subscription")
        self._transaction.insert(self._store.webhook_deliveries, delivery.id, delivery, "webhook delivery")

    def add_all(self, deliveries: Sequence[WebhookDelivery]) -> None:
        known = {(kept.subscription_id, kept.event_id) for kept in self._store.webhook_deliveries.values()}
        for delivery in deliveries:
            if (delivery.subscription_id, delivery.event_id) not in known:
                self.add(delivery)

    async def cursor(self) -> Cursor | None:
        self._transaction.settle()
        return Cursor(place=self._store.webhook_cursor.get("place", "0"))

    def move_cursor(self, place: str) -> None:
        self._transaction.put(self._store.webhook_cursor, "place", place)

    async def page(
        self,
        subscription_id: UUID,
        *,
        statuses: Collection[DeliveryStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[WebhookDelivery]:
        self._transaction.settle()
        found = [delivery for delivery in self._of(subscription_id) if one_of(delivery.status, statuses)]
        return newest_first(found, limit, after)

    def log(self, attempts: Sequence[WebhookAttempt]) -> None:
        for attempt in attempts:
            self._transaction.append(self._store.webhook_attempts, attempt)

    async def attempts_of(self, delivery_id: UUID) -> Sequence[WebhookAttempt]:
        self._transaction.settle()
        found = (attempt for attempt in self._store.webhook_attempts if attempt.delivery_id == delivery_id)
        # How long the receiver asked to be left alone is not kept: the delivery says when it is tried again.
        return [evolve(attempt, outcome=evolve(attempt.outcome, retry_after=None)) for attempt in found]

    async def claim(
        self, worker: UUID, lasting: timedelta, *, most: int, per_endpoint: int
    ) -> Sequence[WebhookDelivery]:
        self._transaction.settle()
        now = _now()
        turns: list[tuple[int, datetime, UUID, WebhookDelivery]] = []
        for endpoint in self._store.webhook_subscriptions.values():
            is_blocked = endpoint.blocked_until is not None and endpoint.blocked_until > now
            if endpoint.status is not SubscriptionStatus.ACTIVE or is_blocked:
                continue
            pending = [delivery for delivery in self._of(endpoint.id) if delivery.status is DeliveryStatus.PENDING]
            taken = sum(self._is_claimed(delivery, now) for delivery in pending)
            due = sorted(
                (_due_at(delivery), delivery.id, delivery)
                for delivery in pending
                if not self._is_claimed(delivery, now) and _due_at(delivery) <= now
            )
            room = max(0, max(1, per_endpoint >> endpoint.failures) - taken)
            turns += [(taken + turn, *each) for turn, each in enumerate(due[:room])]
        claimed: list[WebhookDelivery] = []
        for *_, delivery in sorted(turns, key=lambda each: each[:3])[:most]:
            begun = evolve(delivery, attempts=delivery.attempts + 1)
            self._transaction.put(self._store.webhook_deliveries, begun.id, begun)
            self._transaction.put(self._store.claims, begun.id, StoredClaim(worker=worker, until=now + lasting))
            claimed.append(begun)
        return claimed

    async def claimed(self, delivery_ids: Collection[UUID], worker: UUID) -> Sequence[WebhookDelivery]:
        self._transaction.settle()
        found = (self._store.webhook_deliveries.get(delivery_id) for delivery_id in sorted(delivery_ids))
        return [
            delivery
            for delivery in found
            if delivery is not None
            and delivery.status is DeliveryStatus.PENDING
            and (claim := self._store.claims.get(delivery.id)) is not None
            and claim.worker == worker
        ]

    def release(self, delivery_ids: Collection[UUID]) -> None:
        for delivery_id in delivery_ids:
            self._transaction.drop(self._store.claims, delivery_id)

    async def dead_of(self, subscription_id: UUID, since: datetime, limit: int) -> Sequence[WebhookDelivery]:
        self._transaction.settle()
        found = [
            delivery
            for delivery in self._of(subscription_id)
            if delivery.status is DeliveryStatus.DEAD and delivery.finished_at and delivery.finished_at >= since
        ]
        return sorted(found, key=attrgetter("finished_at", "id"))[:limit]

    async def stranded(self, limit: int) -> Sequence[WebhookDelivery]:
        self._transaction.settle()
        now, endpoints = _now(), self._store.webhook_subscriptions
        found = [
            delivery
            for delivery in self._store.webhook_deliveries.values()
            if delivery.status is DeliveryStatus.PENDING
            and not self._is_claimed(delivery, now)
            and endpoints[delivery.subscription_id].status is SubscriptionStatus.DISABLED
        ]
        return sorted(found, key=attrgetter("id"))[:limit]

    async def forget(self, before: datetime, *, most: int) -> int:
        self._transaction.settle()
        old = sorted(
            (delivery for delivery in self._store.webhook_deliveries.values() if delivery.created_at < before),
            key=attrgetter("created_at"),
        )[:most]
        for delivery in old:
            self._transaction.drop(self._store.webhook_deliveries, delivery.id)
        return len(old)

    def _of(self, subscription_id: UUID) -> list[WebhookDelivery]:
        rows = self._store.webhook_deliveries.values()
        return [delivery for delivery in rows if delivery.subscription_id == subscription_id]

    def _is_claimed(self, delivery: WebhookDelivery, now: datetime) -> bool:
        claim = self._store.claims.get(delivery.id)
        return claim is not None and claim.worker is not None and claim.until > now


def _due_at(delivery: WebhookDelivery) -> datetime:
    return delivery.next_attempt_at or datetime.min.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC)
