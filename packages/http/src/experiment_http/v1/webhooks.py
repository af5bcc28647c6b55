"""Webhooks: subscriptions of other services to events, and their secrets."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.usecases import Work
from experiment_domain.usecases.webhooks import WebhookUseCases, WebhookWithSecret
from experiment_domain.webhooks.subscriptions import (
    DESCRIPTION_LENGTH,
    EVENT_TYPE_LENGTH,
    EVENT_TYPE_PATTERN,
    EVENT_TYPES,
    LONGEST_GRACE,
    URL_LENGTH,
    USUAL_GRACE,
    SubscriptionStatus,
    WebhookSubscription,
)
from experiment_http.answers import EntityView, Items, Nothing, Paged, created, one, shown
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Timestamp
from experiment_http.v1.values import ENTITY, Request, StatusChangeView, Transition

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=URL_LENGTH,
        pattern=r"^https?://[!-\[\]-~]+$",
        description="Of http or https, without a user, a password and a fragment; a host with other letters as xn--….",
    ),
]
EventTypes = Annotated[
    list[Annotated[str, Meta(max_length=EVENT_TYPE_LENGTH, pattern=EVENT_TYPE_PATTERN)]],
    Meta(
        min_length=1,
        max_length=EVENT_TYPES,
        description="Types of events; `run.*` are all that begin with `run.`, and `*` is every one.",
    ),
]
Description = Annotated[str, Meta(max_length=DESCRIPTION_LENGTH)]
_WRITTEN: Mapping[str, Any] = {
    "url": "https://reports.example/hooks/rig-7",
    "event_types": ["run.*", "capture.completed"],
    "description": "The team's report generator",
}


class NewWebhook(Request, frozen=True):
    """A subscription to be made."""

    example: ClassVar[Mapping[str, Any]] = {"project_id": ENTITY["project_id"], **_WRITTEN}

    project_id: UUID
    url: Url
    event_types: EventTypes
    description: Description | UnsetType | None = UNSET


class WebhookEdit(Request, frozen=True):
    """What is to change."""

    example: ClassVar[Mapping[str, Any]] = {"event_types": ["*"]}

    url: Url | UnsetType = UNSET
    event_types: EventTypes | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET


class SecretRotation(Request, frozen=True):
    """How many seconds what is sent is signed with the old secret as well; without it, for a day."""

    example: ClassVar[Mapping[str, Any]] = {"grace": USUAL_GRACE}

    grace: Annotated[float, Meta(ge=0, le=LONGEST_GRACE)] | UnsetType = UNSET


class WebhookView(EntityView, frozen=True):
    """A subscription. `failing_since` is when its endpoint began to do nothing but fail.

    After a rotation, what is sent is signed with the old secret as well until `previous_secret_dies_at`.
    """

    location: ClassVar[str] = "/webhooks"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        **_WRITTEN,
        "status": "active",
        "failing_since": None,
        "previous_secret_dies_at": None,
    }

    url: str
    event_types: list[str]
    description: str | None
    status: SubscriptionStatus
    failing_since: Timestamp | None
    previous_secret_dies_at: Timestamp | None


class WebhookWithSecretView(WebhookView, frozen=True):
    """A subscription and the secret that what is sent is signed with, which is shown this once."""

    example: ClassVar[Mapping[str, Any]] = {
        **WebhookView.example,
        "secret": "whsec_bm90LWEtcmVhbC1zZWNyZXQtanVzdC1hbi1leGFtcGxl",
    }

    secret: str

    @classmethod
    def of(cls, thing: WebhookWithSecret) -> Self:
        """The view of a subscription, and its secret beside."""
        values = {name: shown(getattr(thing.subscription, name)) for name in WebhookView.__struct_fields__}
        return cls(**values, secret=thing.secret)


class WebhookQuery(PageQuery, frozen=True):
    """Which subscriptions: those of one of the projects, each of which the caller must own."""

    project_id: tuple[UUID, ...] = ()
    status: tuple[SubscriptionStatus, ...] = ()


operations = Operations(
    "webhooks", "Subscriptions of other services to events, signed as Standard Webhooks 1.0 describes it."
)
ONE = one(WebhookView, revalidates=False)
"""Deliveries change `failing_since` without a new version."""


@operations.post("/webhooks", WebhookUseCases.create, created(WebhookWithSecretView, secret=True), refuses=(404,))
async def create_webhook(work: Work, body: NewWebhook) -> WebhookWithSecret:
    """Subscribe a service to events of a project.

    The answer holds the secret that what is sent is signed with; it is shown this once. Events from now on are POSTed
    to the URL as CloudEvents 1.0 in JSON, with the headers of Standard Webhooks 1.0: `webhook-id` is the event's `id`,
    and the same at every attempt, `webhook-timestamp` is when it is sent, and `webhook-signature` holds a signature
    for each secret that counts.

    A delivery succeeds with any 2xx. With anything else, redirects included, or without an answer in time, it is tried
    again, by default over 28 hours; `Retry-After` is honoured, and 410 disables the webhook. So does an endpoint that
    does nothing but fail for five days (`webhook.disabled`). Each event is delivered at least once, **in no particular
    order**: whoever needs one sorts by `time`, or reads the events where they are listed.

    URLs that lead to private, local or otherwise special addresses are accepted, but never connected to, unless the
    service is set up to; each attempt checks the address that it connects to. A project has 200 webhooks at most
    (`too_many_webhooks`).
    """
    return await work.webhooks.create(**given(body))


@operations.get("/webhooks", WebhookUseCases.page, Paged(view=WebhookView), refuses=(404,))
async def list_webhooks(work: Work, query: WebhookQuery, after: Position | None = None) -> Page[WebhookSubscription]:
    """List the webhooks of all projects that the caller owns, newest first."""
    return await work.webhooks.page(query.project_id, statuses=query.status, limit=query.limit, after=after)


@operations.get("/webhooks/{webhook_id:uuid}", WebhookUseCases.get, ONE)
async def get_webhook(work: Work, webhook_id: UUID) -> WebhookSubscription:
    """Show a webhook, without its secret."""
    return await work.webhooks.get(webhook_id)


@operations.patch("/webhooks/{webhook_id:uuid}", WebhookUseCases.edit, ONE)
async def edit_webhook(work: Work, webhook_id: UUID, body: WebhookEdit, if_version: int | None) -> WebhookSubscription:
    """Change a webhook. What waits to be delivered goes to the new URL, too."""
    return await work.webhooks.edit(webhook_id, if_version=if_version, **given(body))


@operations.delete("/webhooks/{webhook_id:uuid}", WebhookUseCases.delete, Nothing())
async def delete_webhook(work: Work, webhook_id: UUID, if_version: int | None) -> None:
    """Delete a webhook, with its deliveries and their log."""
    await work.webhooks.delete(webhook_id, if_version=if_version)


@operations.post("/webhooks/{webhook_id:uuid}/pause", WebhookUseCases.pause, ONE)
async def pause_webhook(
    work: Work, webhook_id: UUID, if_version: int | None, body: Transition | None = None
) -> WebhookSubscription:
    """Pause a webhook: active → paused. What happens meanwhile is delivered when it is resumed."""
    return await work.webhooks.pause(webhook_id, if_version=if_version, **given(body or Transition()))


@operations.post("/webhooks/{webhook_id:uuid}/resume", WebhookUseCases.resume, ONE)
async def resume_webhook(
    work: Work, webhook_id: UUID, if_version: int | None, body: Transition | None = None
) -> WebhookSubscription:
    """Resume a webhook: paused or disabled → active.

    What happened while it was disabled is not delivered; what died before or then can be redelivered.
    """
    return await work.webhooks.resume(webhook_id, if_version=if_version, **given(body or Transition()))


@operations.post(
    "/webhooks/{webhook_id:uuid}/rotate-secret", WebhookUseCases.rotate_secret, one(WebhookWithSecretView, secret=True)
)
async def rotate_webhook_secret(
    work: Work, webhook_id: UUID, if_version: int | None, body: SecretRotation | None = None
) -> WebhookWithSecret:
    """Give a webhook a new secret, which is shown this once.

    For a grace period, what is sent carries a signature of each secret, so that the receiver can change over. Only the
    last one before counts on: to rotate again within the grace period ends the one before that.
    """
    return await work.webhooks.rotate_secret(webhook_id, if_version=if_version, **given(body or SecretRotation()))


@operations.get("/webhooks/{webhook_id:uuid}/history", WebhookUseCases.history, Items(view=StatusChangeView))
async def webhook_history(work: Work, webhook_id: UUID) -> Sequence[StatusChange]:
    """List a webhook's transitions, oldest first."""
    return await work.webhooks.history(webhook_id)
