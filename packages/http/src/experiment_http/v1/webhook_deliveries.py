"""Deliveries of events to webhooks, their attempts, and bringing back the dead ones."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.usecases import Work
from experiment_domain.usecases.webhook_deliveries import WebhookDeliveryUseCases
from experiment_domain.webhooks.deliveries import REDELIVERED_AT_ONCE, DeliveryStatus, WebhookAttempt, WebhookDelivery
from experiment_http import times
from experiment_http.answers import EntityView, Items, Paged, View, created, one
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Moment, Timestamp
from experiment_http.v1.values import ENTITY, Empty, Reason, Request, StatusChangeView, Transition


class Redelivery(Request, frozen=True):
    """Which dead deliveries: those that died then or later."""

    example: ClassVar[Mapping[str, Any]] = {"since": "2026-03-09T00:00:00.000000Z", "reason": "the receiver is back"}

    since: Moment
    reason: Reason | UnsetType | None = UNSET


class WebhookDeliveryView(EntityView, frozen=True):
    """An event on its way to a webhook. `attempts` are those since it was made or last redelivered.

    A pending one without `next_attempt_at` is due at once. `last_status` is what was answered last; `reason` says why
    it is dead.
    """

    location: ClassVar[str] = "/webhook-deliveries"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        "created_by": "system",
        "webhook_id": "0195798a-9c11-7b02-8a3e-0d9c33f1a2b4",
        "event_id": "0195798a-9c40-7d0e-9b1f-5d1e7c8a0f42",
        "event_type": "run.finished",
        "status": "pending",
        "attempts": 2,
        "next_attempt_at": "2026-03-09T10:16:35.000000Z",
        "finished_at": None,
        "last_status": 503,
        "reason": None,
    }

    webhook_id: UUID
    event_id: UUID
    event_type: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: Timestamp | None
    finished_at: Timestamp | None
    last_status: int | None
    reason: str | None

    @classmethod
    def of(cls, thing: WebhookDelivery) -> Self:
        """The view of a delivery."""
        return cls(
            id=thing.id,
            version=thing.version,
            created_at=times.text(thing.created_at),
            updated_at=times.text(thing.updated_at),
            created_by=thing.created_by,
            project_id=thing.project_id,
            webhook_id=thing.subscription_id,
            event_id=thing.event_id,
            event_type=thing.event_type,
            status=thing.status,
            attempts=thing.attempts,
            next_attempt_at=thing.next_attempt_at and times.text(thing.next_attempt_at),
            finished_at=thing.finished_at and times.text(thing.finished_at),
            last_status=thing.last_status,
            reason=thing.reason,
        )


class WebhookAttemptView(View, frozen=True):
    """One attempt, which ended at `at`: the status that was answered, or the error. `latency` is in seconds.

    `answer` is the beginning of what was answered.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "at": "2026-03-09T10:14:33.000000Z",
        "status_code": 503,
        "error": None,
        "latency": 0.0421,
        "answer": "upstream is restarting",
    }

    at: Timestamp
    status_code: int | None
    error: str | None
    latency: float
    answer: str

    @classmethod
    def of(cls, thing: WebhookAttempt) -> Self:
        """The view of an attempt."""
        outcome = thing.outcome
        return cls(
            at=times.text(thing.at),
            status_code=outcome.status_code,
            error=outcome.error,
            latency=outcome.latency,
            answer=outcome.answer,
        )


class RedeliveredView(View, frozen=True):
    """How many deliveries were brought back."""

    example: ClassVar[Mapping[str, Any]] = {"redelivered": 42}

    redelivered: Annotated[int, Meta(ge=0, le=REDELIVERED_AT_ONCE)]


class WebhookDeliveryQuery(PageQuery, frozen=True):
    """Which deliveries."""

    status: tuple[DeliveryStatus, ...] = ()


operations = Operations("webhook-deliveries", "Deliveries of events to webhooks, and the log of their attempts.")
ONE = one(WebhookDeliveryView, revalidates=False)
"""An attempt that begins is counted without a new version."""


@operations.post(
    "/webhooks/{webhook_id:uuid}/test", WebhookDeliveryUseCases.test, created(WebhookDeliveryView), refuses=(409,)
)
async def try_webhook(
    work: Work,
    webhook_id: UUID,
    body: Empty | None = None,  # noqa: ARG001 - an object without fields is as good as nothing
) -> WebhookDelivery:
    """Send a webhook an event of the type `webhook.test`, whatever its filters are.

    It is delivered at once, by the worker, and tried once: what came of it is soon found in the delivery's attempts.
    Refused unless the webhook is active (`webhook_not_active`).
    """
    return await work.webhook_deliveries.test(webhook_id)


@operations.get("/webhooks/{webhook_id:uuid}/deliveries", WebhookDeliveryUseCases.page, Paged(view=WebhookDeliveryView))
async def list_webhook_deliveries(
    work: Work, webhook_id: UUID, query: WebhookDeliveryQuery, after: Position | None = None
) -> Page[WebhookDelivery]:
    """List the deliveries of a webhook, newest first. They are kept for 30 days."""
    return await work.webhook_deliveries.page(webhook_id, statuses=query.status, limit=query.limit, after=after)


@operations.post("/webhooks/{webhook_id:uuid}/redeliver", WebhookDeliveryUseCases.redeliver_dead, one(RedeliveredView))
async def redeliver_dead_webhook_deliveries(work: Work, webhook_id: UUID, body: Redelivery) -> RedeliveredView:
    """Bring back the deliveries of a webhook that died at a time or later: dead → pending.

    At most 10,000 at once, the oldest: where `redelivered` says as many, the same request brings back the next ones.
    Refused while the webhook is disabled (`webhook_disabled`).
    """
    return RedeliveredView(await work.webhook_deliveries.redeliver_dead(webhook_id, **given(body)))


@operations.get("/webhook-deliveries/{delivery_id:uuid}", WebhookDeliveryUseCases.get, ONE)
async def get_webhook_delivery(work: Work, delivery_id: UUID) -> WebhookDelivery:
    """Show a delivery."""
    return await work.webhook_deliveries.get(delivery_id)


@operations.get(
    "/webhook-deliveries/{delivery_id:uuid}/attempts",
    WebhookDeliveryUseCases.attempts,
    Items(view=WebhookAttemptView),
)
async def webhook_delivery_attempts(work: Work, delivery_id: UUID) -> Sequence[WebhookAttempt]:
    """List the attempts of a delivery, oldest first: what was answered, or what went wrong."""
    return await work.webhook_deliveries.attempts(delivery_id)


@operations.get(
    "/webhook-deliveries/{delivery_id:uuid}/history", WebhookDeliveryUseCases.history, Items(view=StatusChangeView)
)
async def webhook_delivery_history(work: Work, delivery_id: UUID) -> Sequence[StatusChange]:
    """List a delivery's transitions, oldest first."""
    return await work.webhook_deliveries.history(delivery_id)


@operations.post("/webhook-deliveries/{delivery_id:uuid}/redeliver", WebhookDeliveryUseCases.redeliver, ONE)
async def redeliver_webhook_delivery(
    work: Work, delivery_id: UUID, if_version: int | None, body: Transition | None = None
) -> WebhookDelivery:
    """Bring back a dead delivery: dead → pending. It is tried at once, and as often as a new one."""
    return await work.webhook_deliveries.redeliver(delivery_id, if_version=if_version, **given(body or Transition()))
