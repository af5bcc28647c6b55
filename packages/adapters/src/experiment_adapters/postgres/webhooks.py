"""Webhooks in PostgreSQL: subscriptions, their deliveries, and which worker makes which attempt."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import LOCKS, NAMES, Order, Table, columns_of, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.kernel.entity import Change, Lock, Page, Position
from experiment_domain.kernel.news import EVENTS
from experiment_domain.webhooks.deliveries import (
    Cursor,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookDeliveryRepository,
)
from experiment_domain.webhooks.sending import Outcome
from experiment_domain.webhooks.subscriptions import (
    HEALTH,
    LISTENING,
    SubscriptionStatus,
    WebhookSubscription,
    WebhookSubscriptionRepository,
)

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)

SUBSCRIPTIONS = Table(
    WebhookSubscription, "webhook_subscriptions", {"event_types": NAMES, "status": enum(SubscriptionStatus)}
)
DELIVERIES = Table(
    WebhookDelivery,
    "webhook_deliveries",
    {"status": enum(DeliveryStatus)},
    written={"due_at": lambda delivery: delivery.next_attempt_at or AT_ONCE},
)
NEWEST_FIRST = Order.by("-created_at")

_ADDED = ("id", "project_id", "version", "created_at", "updated_at", "created_by", "subscription_id", "event_id")
_ADD = f"""
INSERT INTO webhook_deliveries ({", ".join(_ADDED)}, event_type, body, status, attempts, due_at)
SELECT *, 'pending', 0, %s FROM unnest(%s::uuid[], %s::uuid[], %s::integer[], %s::timestamptz[], %s::timestamptz[],
    %s::text[], %s::uuid[], %s::uuid[], %s::text[], %s::text[])
ON CONFLICT (subscription_id, event_id) DO NOTHING
"""
_HEALTH = f"UPDATE webhook_subscriptions SET {', '.join(f'{name} = %s' for name in HEALTH)} WHERE id = %s"

# An endpoint is held while its deliveries are claimed: of two that claim at once, the other passes it over. It may
# still see the deliveries as they were before; then the last condition holds for none of those that are taken.
_CLAIM = f"""
WITH free AS (
    SELECT id, greatest(1, %s::integer >> least(failures, 30)) AS room FROM webhook_subscriptions AS endpoint
    WHERE status = 'active' AND coalesce(blocked_until <= clock_timestamp(), true) AND EXISTS (
        SELECT FROM webhook_deliveries
        WHERE subscription_id = endpoint.id AND status = 'pending' AND due_at <= clock_timestamp()
            AND coalesce(claimed_until <= clock_timestamp(), true)
    )
    FOR NO KEY UPDATE SKIP LOCKED
), due AS (
    SELECT waiting.id FROM free
    CROSS JOIN LATERAL (
        SELECT count(*) AS taken FROM webhook_deliveries
        WHERE subscription_id = free.id AND claimed_by IS NOT NULL AND claimed_until > clock_timestamp()
    ) AS under_way
    CROSS JOIN LATERAL (
        SELECT id, due_at, row_number() OVER (ORDER BY due_at, id) AS turn FROM webhook_deliveries
        WHERE subscription_id = free.id AND status = 'pending' AND due_at <= clock_timestamp()
            AND coalesce(claimed_until <= clock_timestamp(), true)
        ORDER BY due_at, id LIMIT greatest(0, free.room - under_way.taken)
    ) AS waiting
    ORDER BY under_way.taken + waiting.turn, waiting.due_at, waiting.id LIMIT %s
)
UPDATE webhook_deliveries
SET claimed_by = %s, claimed_until = clock_timestamp() + %s, attempts = attempts + 1
FROM due WHERE webhook_deliveries.id = due.id AND status = 'pending'
    AND coalesce(claimed_until <= clock_timestamp(), true)
RETURNING {DELIVERIES.columns}
"""


class PostgresWebhookSubscriptions(PostgresRepository[WebhookSubscription], WebhookSubscriptionRepository):
    """Keeps subscriptions in `webhook_subscriptions`."""

    table = SUBSCRIPTIONS

    def save(self, subscription: WebhookSubscription) -> None:
        super().save(subscription)
        self._statements.tell(EVENTS)  # where it was resumed, deliveries are waiting

    def remove(self, subscription: WebhookSubscription) -> None:
        SUBSCRIPTIONS.remove(self._statements, subscription.id)

    async def page(
        self,
        project_ids: Collection[UUID],
        *,
        statuses: Collection[SubscriptionStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[WebhookSubscription]:
        conditions = Conditions()
        conditions.within("project_id", project_ids)
        conditions.one_of("status", [str(status) for status in statuses])
        return await page(self._statements, SUBSCRIPTIONS, conditions, order=NEWEST_FIRST, limit=limit, after=after)

    async def listening(self, project_ids: Collection[UUID]) -> Sequence[WebhookSubscription]:
        query = SUBSCRIPTIONS.select("project_id = ANY(%s) AND status = ANY(%s) ORDER BY created_at, id")
        answer = self._statements.ask(query, [list(project_ids), [str(status) for status in LISTENING]])
        return [SUBSCRIPTIONS.entity(row) for row in await answer.rows()]

    async def of_ids(self, subscription_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Sequence[WebhookSubscription]:
        query = SUBSCRIPTIONS.select("id = ANY(%s) ORDER BY id") + LOCKS[lock]
        answer = self._statements.ask(query, [list(subscription_ids)])
        return [SUBSCRIPTIONS.entity(row) for row in await answer.rows()]

    def note_health(self, subscription: WebhookSubscription) -> None:
        self._statements.write(_HEALTH, [*(getattr(subscription, name) for name in HEALTH), subscription.id])


class PostgresWebhookDeliveries(PostgresRepository[WebhookDelivery], WebhookDeliveryRepository):
    """Keeps deliveries in `webhook_deliveries`, and their attempts in `webhook_attempts`."""

    table = DELIVERIES

    def add(self, delivery: WebhookDelivery) -> None:
        super().add(delivery)
        self._statements.tell(EVENTS)  # who makes deliveries of events attempts them, too

    def save(self, delivery: WebhookDelivery) -> None:
        super().save(delivery)
        self._statements.tell(EVENTS)

    def save_all(self, changes: Sequence[Change[WebhookDelivery]], /) -> None:
        super().save_all(changes)
        if any(change.before is not None and change.before.status is DeliveryStatus.DEAD for change in changes):
            self._statements.tell(EVENTS)  # brought back, they are due now

    def add_all(self, deliveries: Sequence[WebhookDelivery]) -> None:
        if deliveries:
            names = (*_ADDED, "event_type", "body")
            rows = ([getattr(delivery, name) for name in names] for delivery in deliveries)
            self._statements.write(_ADD, [AT_ONCE, *columns_of(rows)])

    async def cursor(self) -> Cursor | None:
        self._statements.check_writes()
        query = "SELECT place FROM webhook_cursor FOR UPDATE SKIP LOCKED"
        row = await self._statements.ask(query, ()).row()
        return None if row is None else Cursor(place=row[0])

    def move_cursor(self, place: str) -> None:
        self._statements.write("UPDATE webhook_cursor SET place = %s", [place])

    async def page(
        self,
        subscription_id: UUID,
        *,
        statuses: Collection[DeliveryStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[WebhookDelivery]:
        conditions = Conditions()
        conditions.within("subscription_id", [subscription_id])
        conditions.one_of("status", [str(status) for status in statuses])
        return await page(self._statements, DELIVERIES, conditions, order=NEWEST_FIRST, limit=limit, after=after)

    def log(self, attempts: Sequence[WebhookAttempt]) -> None:
        if attempts:
            self._statements.write(
                "INSERT INTO webhook_attempts (delivery_id, at, status_code, error, latency, answer) SELECT * FROM"
                " unnest(%s::uuid[], %s::timestamptz[], %s::integer[], %s::text[], %s::float8[], %s::text[])",
                columns_of(
                    (
                        attempt.delivery_id,
                        attempt.at,
                        attempt.outcome.status_code,
                        attempt.outcome.error,
                        attempt.outcome.latency,
                        attempt.outcome.answer,
                    )
                    for attempt in attempts
                ),
            )

    async def attempts_of(self, delivery_id: UUID) -> Sequence[WebhookAttempt]:
        answer = self._statements.ask(
            "SELECT at, status_code, error, latency, answer FROM webhook_attempts WHERE delivery_id = %s ORDER BY id",
            [delivery_id],
        )
        return [
            WebhookAttempt(
                delivery_id=delivery_id,
                at=at,
                outcome=Outcome(status_code=status_code, error=error, latency=latency, answer=text),
            )
            for at, status_code, error, latency, text in await answer.rows()
        ]

    async def claim(
        self, worker: UUID, lasting: timedelta, *, most: int, per_endpoint: int
    ) -> Sequence[WebhookDelivery]:
        self._statements.check_writes()
        answer = self._statements.ask(_CLAIM, [per_endpoint, most, worker, lasting])
        return [DELIVERIES.entity(row) for row in await answer.rows()]

    async def claimed(self, delivery_ids: Collection[UUID], worker: UUID) -> Sequence[WebhookDelivery]:
        where = "id = ANY(%s) AND claimed_by = %s AND status = 'pending' ORDER BY id FOR NO KEY UPDATE"
        answer = self._statements.ask(DELIVERIES.select(where), [list(delivery_ids), worker])
        return [DELIVERIES.entity(row) for row in await answer.rows()]

    def release(self, delivery_ids: Collection[UUID]) -> None:
        if delivery_ids:
            self._statements.write(
                "UPDATE webhook_deliveries SET claimed_by = NULL, claimed_until = NULL WHERE id = ANY(%s)",
                [list(delivery_ids)],
            )

    async def dead_of(self, subscription_id: UUID, since: datetime, limit: int) -> Sequence[WebhookDelivery]:
        where = (
            "subscription_id = %s AND status = 'dead' AND finished_at >= %s ORDER BY finished_at, id LIMIT %s"
            " FOR NO KEY UPDATE"
        )
        answer = self._statements.ask(DELIVERIES.select(where), [subscription_id, since, limit])
        return [DELIVERIES.entity(row) for row in await answer.rows()]

    async def stranded(self, limit: int) -> Sequence[WebhookDelivery]:
        where = (
            "status = 'pending' AND coalesce(claimed_until <= clock_timestamp(), true) AND subscription_id IN"
            " (SELECT id FROM webhook_subscriptions WHERE status = 'disabled')"
            " ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"
        )
        answer = self._statements.ask(DELIVERIES.select(where), [limit])
        return [DELIVERIES.entity(row) for row in await answer.rows()]

    async def forget(self, before: datetime, *, most: int) -> int:
        self._statements.check_writes()
        return await self._statements.ask(
            "WITH old AS (SELECT id FROM webhook_deliveries WHERE created_at < %s ORDER BY created_at LIMIT %s"
            " FOR UPDATE SKIP LOCKED), forgotten AS (DELETE FROM webhook_deliveries USING old"
            " WHERE webhook_deliveries.id = old.id RETURNING 1) SELECT count(*) FROM forgotten",
            [before, most],
        ).value()
