"""Deliveries: one per event and subscription, tried until it is taken or dead, and the log of the attempts."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.events import WebhookTest
from experiment_domain.kernel.entity import Change, Entity, Page, Position, Repository, changed, unchanged
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.webhooks.sending import DeliveryPolicy, Outcome
from experiment_domain.webhooks.subscriptions import WebhookSubscription

TEST = WebhookTest.type
"""The type of events that only try out a subscription: each is tried once."""
KEPT_FOR = timedelta(days=30)
"""How long deliveries and their attempts are kept."""
REDELIVERED_AT_ONCE = 10_000
"""How many dead deliveries one command brings back, at most."""


class DeliveryStatus(StrEnum):
    """The statuses of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


WEBHOOK_DELIVERY = Lifecycle(
    "webhook_delivery",
    DeliveryStatus.PENDING,
    {
        DeliveryStatus.PENDING: (DeliveryStatus.DELIVERED, DeliveryStatus.DEAD),
        DeliveryStatus.DEAD: (DeliveryStatus.PENDING,),
    },
)


@frozen(kw_only=True)
class WebhookDelivery(Entity):
    """An event on its way to a subscription. `body` is what is sent, the same at every attempt.

    `attempts` counts those begun since it was made or last brought back; `next_attempt_at` is None where the next one
    is due at once, or there is none. `last_status` is what was answered last; `reason` says why it is dead.
    """

    subscription_id: UUID
    event_id: UUID
    event_type: str
    body: str = field(repr=False, metadata={"secret": True})
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    last_status: int | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls,
        recorded: RecordedEvent,
        subscription: WebhookSubscription,
        *,
        delivery_id: UUID,
        body: str,
        at: datetime,
        by: str,
    ) -> "WebhookDelivery":
        """An event on its way to a subscription of its project."""
        return cls(
            id=delivery_id,
            project_id=subscription.project_id,
            created_at=at,
            updated_at=at,
            created_by=by,
            subscription_id=subscription.id,
            event_id=recorded.id,
            event_type=recorded.event.type,
            body=body,
        )

    def attempted(
        self, outcome: Outcome, policy: DeliveryPolicy, *, chance: float, at: datetime, is_elsewhere: bool = False
    ) -> Change["WebhookDelivery"]:
        """pending → delivered or dead, or still pending for another try; `chance` spreads when.

        Where the next one goes somewhere else (`is_elsewhere`), neither 410 nor Retry-After has a say in it.
        """
        if outcome.is_delivered:
            return self._end(DeliveryStatus.DELIVERED, at, outcome.status_code, None)
        pause = None
        if (is_elsewhere or not outcome.is_gone) and self.event_type != TEST:
            pause = policy.pause(self.attempts, chance, None if is_elsewhere else outcome.retry_after)
        if pause is None:
            tries = "once" if self.attempts <= 1 else f"{self.attempts} times"
            return self._end(DeliveryStatus.DEAD, at, outcome.status_code, f"tried {tries}, at last {outcome.said}")
        return changed(self, at, {"next_attempt_at": at + pause, "last_status": outcome.status_code})

    def die(self, reason: str, *, at: datetime) -> Change["WebhookDelivery"]:
        """pending → dead, without another try."""
        return self._end(DeliveryStatus.DEAD, at, self.last_status, reason)

    def redeliver(self, *, at: datetime) -> Change["WebhookDelivery"]:
        """dead → pending, by a person: it is tried as often as a new one, from now on."""
        if not WEBHOOK_DELIVERY.moves(self.status, DeliveryStatus.PENDING):
            return unchanged(self)
        fresh = {"attempts": 0, "next_attempt_at": None, "finished_at": None, "reason": None}
        return changed(self, at, {"status": DeliveryStatus.PENDING, **fresh})

    def _end(
        self, target: DeliveryStatus, at: datetime, status: int | None, reason: str | None
    ) -> Change["WebhookDelivery"]:
        if not WEBHOOK_DELIVERY.moves(self.status, target):
            return unchanged(self)
        values = {"next_attempt_at": None, "finished_at": at, "last_status": status, "reason": reason}
        return changed(self, at, {"status": target, **values})


@frozen(kw_only=True)
class WebhookAttempt:
    """One attempt of a delivery, which ended at `at`, and what came of it."""

    delivery_id: UUID
    at: datetime
    outcome: Outcome


@frozen(kw_only=True)
class Cursor:
    """Up to which place in the log of events deliveries have been made."""

    place: str


class WebhookDeliveryRepository(Repository[WebhookDelivery], Protocol):
    """Keeps deliveries, their attempts, and which worker makes one. Times of claims are by the database's own clock."""

    @abstractmethod
    def add_all(self, deliveries: Sequence[WebhookDelivery]) -> None:
        """Keep new deliveries, but for those of an event that its subscription has one of already."""

    @abstractmethod
    async def cursor(self) -> Cursor | None:
        """How far events have become deliveries, held until the unit of work ends; None where another one holds it."""

    @abstractmethod
    def move_cursor(self, place: str) -> None:
        """Keep how far events have become deliveries."""

    @abstractmethod
    async def page(
        self,
        subscription_id: UUID,
        *,
        statuses: Collection[DeliveryStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[WebhookDelivery]:
        """The deliveries of a subscription, newest first."""

    @abstractmethod
    def log(self, attempts: Sequence[WebhookAttempt]) -> None:
        """Keep what came of attempts."""

    @abstractmethod
    async def attempts_of(self, delivery_id: UUID) -> Sequence[WebhookAttempt]:
        """The attempts of a delivery, oldest first."""

    @abstractmethod
    async def claim(
        self, worker: UUID, lasting: timedelta, *, most: int, per_endpoint: int
    ) -> Sequence[WebhookDelivery]:
        """Deliveries that are due, for `worker` alone, each with one attempt more.

        They are of active subscriptions that are not blocked, at most `per_endpoint` of each at once, whoever makes
        them, half as many after each failure in a row, and one at least. Who has the fewest under way comes first, so
        that none waits for others.
        """

    @abstractmethod
    async def claimed(self, delivery_ids: Collection[UUID], worker: UUID) -> Sequence[WebhookDelivery]:
        """Those that are pending and still claimed by `worker`, held until the unit of work ends."""

    @abstractmethod
    def release(self, delivery_ids: Collection[UUID]) -> None:
        """End claims."""

    @abstractmethod
    async def dead_of(self, subscription_id: UUID, since: datetime, limit: int) -> Sequence[WebhookDelivery]:
        """The dead ones of a subscription that died at `since` or later, oldest first, held."""

    @abstractmethod
    async def stranded(self, limit: int) -> Sequence[WebhookDelivery]:
        """Pending ones of disabled subscriptions, which nobody has claimed, held; those that others hold are left."""

    @abstractmethod
    async def forget(self, before: datetime, *, most: int) -> int:
        """Remove what was made `before`, at most so many at once; how many were removed."""
