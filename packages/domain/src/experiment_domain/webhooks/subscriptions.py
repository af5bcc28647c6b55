"""Subscriptions of other services to events: where to, which ones, and how their endpoint has been doing."""

import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from attrs import evolve, field, frozen

from experiment_domain.events import WebhookDisabled, WebhookTest, check_event_filter, lets_through
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Lock,
    Page,
    Position,
    Removing,
    Repository,
    changed,
    created,
    removed,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.kernel.values import checked_text
from experiment_domain.webhooks.sending import DeliveryPolicy, Outcome

URL_LENGTH = 2_000
DESCRIPTION_LENGTH = 1_000
EVENT_TYPES = 100
EVENT_TYPE_LENGTH = 100
EVENT_TYPE_PATTERN = r"^(\*|[a-z][a-z_]*(\.[a-z][a-z_]*)*(\.\*)?)$"
"""An event type, or the beginning of some: `run.started`, `run.*`, `*`."""
LONGEST_GRACE = 7 * 86_400.0
USUAL_GRACE = 86_400.0
"""Seconds for which the secret before is still signed with, after a rotation."""

_EVENT_TYPE = re.compile(EVENT_TYPE_PATTERN)
_URL = re.compile(r"[!-\[\]-~]+")


class SubscriptionStatus(StrEnum):
    """The statuses of a subscription."""

    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"


WEBHOOK_SUBSCRIPTION = Lifecycle(
    "webhook_subscription",
    SubscriptionStatus.ACTIVE,
    {
        SubscriptionStatus.ACTIVE: (SubscriptionStatus.PAUSED, SubscriptionStatus.DISABLED),
        SubscriptionStatus.PAUSED: (SubscriptionStatus.ACTIVE,),
        SubscriptionStatus.DISABLED: (SubscriptionStatus.ACTIVE,),
    },
)
LISTENING = (SubscriptionStatus.ACTIVE, SubscriptionStatus.PAUSED)
"""Events are kept for these: what happens while one is paused is delivered when it is resumed."""
HEALTH = ("failures", "failing_since", "blocked_until")
"""What deliveries change, and leaves `version` as it is."""
_HEALTHY: Mapping[str, Any] = {"failures": 0, "failing_since": None, "blocked_until": None}


def checked_url(path: str, value: str) -> str:
    """A URL of http or https that names a host and no user. Where it leads is checked when it is connected to."""
    checked_text(path, value, longest=URL_LENGTH, shortest=1, lines=False)
    if not _URL.fullmatch(value):
        # Each of these is read differently by different programs, and one of them would be ours.
        raise Invalid.at(path, "must be of visible ASCII characters without a backslash; other domains as xn--…")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Invalid.at(path, "is not a URL") from None
    if parts.scheme not in ("http", "https"):
        raise Invalid.at(path, "must begin with https:// or http://")
    if not host or port == 0:
        raise Invalid.at(path, "must name a host")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise Invalid.at(path, "must not name a user or a password: webhooks are signed")
    if parts.fragment or value.endswith("#"):
        raise Invalid.at(path, "must not have a fragment, which is never sent")
    return value


def checked_event_types(path: str, values: Sequence[str]) -> tuple[str, ...]:
    """Filters of events: types, and beginnings of types with `.*` at the end; `*` is any."""
    filters = tuple(dict.fromkeys(values))
    if not 1 <= len(filters) <= EVENT_TYPES:
        raise Invalid.at(path, f"must have 1 to {EVENT_TYPES} entries, has {len(filters)}")
    for index, pattern in enumerate(filters):
        if len(pattern) > EVENT_TYPE_LENGTH or not _EVENT_TYPE.fullmatch(pattern):
            raise Invalid.at(f"{path}[{index}]", "must be an event type such as run.started, or run.*, or *")
        check_event_filter(f"{path}[{index}]", pattern)
    return filters


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    if "url" in fields:
        checked_url("url", fields["url"])
    if "event_types" in fields:
        fields["event_types"] = checked_event_types("event_types", fields["event_types"])
    if fields.get("description") is not None:
        checked_text("description", fields["description"], longest=DESCRIPTION_LENGTH)
    return fields


@frozen(kw_only=True)
class WebhookSubscription(Entity):
    """An endpoint of another service, and which events of the project it is told of.

    Its secrets are kept sealed; the one before the last rotation is signed with until it dies. `failures` counts the
    attempts in a row that failed, the first of them at `failing_since`; until `blocked_until` there is none.
    """

    url: str
    event_types: tuple[str, ...]
    description: str | None = None
    status: SubscriptionStatus = SubscriptionStatus.ACTIVE
    sealed_secret: bytes = field(repr=False, metadata={"secret": True})
    previous_sealed_secret: bytes | None = field(default=None, repr=False, metadata={"secret": True})
    previous_secret_dies_at: datetime | None = None
    failures: int = field(default=0, metadata={"secret": True})
    failing_since: datetime | None = field(default=None, metadata={"secret": True})
    blocked_until: datetime | None = field(default=None, metadata={"secret": True})

    @classmethod
    def create(
        cls, *, subscription_id: UUID, project_id: UUID, sealed_secret: bytes, at: datetime, by: str, **values: Any
    ) -> Change["WebhookSubscription"]:
        """A new subscription, active."""
        subscription = cls(
            id=subscription_id,
            project_id=project_id,
            created_at=at,
            updated_at=at,
            created_by=by,
            sealed_secret=sealed_secret,
            **checked_fields(values),
        )
        return created(subscription)

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this subscription."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    @property
    def origin(self) -> str:
        """What of its URL may be told to all who read the project: the rest may be as good as a password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def wants(self, event_type: str) -> bool:
        """Whether one of its filters lets events of a type through."""
        return any(lets_through(pattern, event_type) for pattern in self.event_types)

    def edit(self, *, at: datetime, **values: Any) -> Change["WebhookSubscription"]:
        """Change what a person wrote. Another URL is another endpoint: nothing is held against it."""
        fields = checked_fields(values)
        if fields.get("url", self.url) != self.url:
            fields |= _HEALTHY
        return changed(self, at, fields)

    def pause(self, *, at: datetime) -> Change["WebhookSubscription"]:
        """active → paused: nothing is sent until it is resumed, and what happens meanwhile waits."""
        return self._move(SubscriptionStatus.PAUSED, at, {})

    def resume(self, *, at: datetime) -> Change["WebhookSubscription"]:
        """paused or disabled → active, with a clean slate."""
        return self._move(SubscriptionStatus.ACTIVE, at, _HEALTHY)

    def disable(self, *, at: datetime, reason: str) -> Change["WebhookSubscription"]:
        """active → disabled, by the service."""
        said = WebhookDisabled(reason=reason, origin=self.origin, failing_since=self.failing_since)
        return self._move(SubscriptionStatus.DISABLED, at, {}, self.event(said, at))

    def test(self, *, at: datetime) -> Event:
        """What it is sent, and nobody else, to try it out."""
        return self.event(WebhookTest(event_types=self.event_types), at)

    def rotate_secret(self, *, sealed_secret: bytes, grace: float, at: datetime) -> Change["WebhookSubscription"]:
        """A new secret; messages are signed with the old one as well for `grace` seconds."""
        if not 0 <= grace <= LONGEST_GRACE:
            raise Invalid.at("grace", f"must be 0 to {LONGEST_GRACE:,.0f} seconds")
        values = {
            "sealed_secret": sealed_secret,
            "previous_sealed_secret": self.sealed_secret if grace else None,
            "previous_secret_dies_at": at + timedelta(seconds=grace) if grace else None,
        }
        return changed(self, at, values)

    def sealed_secrets(self, at: datetime) -> Sequence[bytes]:
        """The secrets to sign with at a moment, still sealed: the newest first."""
        before, dies_at = self.previous_sealed_secret, self.previous_secret_dies_at
        if before is None or dies_at is None or dies_at <= at:
            return (self.sealed_secret,)
        return (self.sealed_secret, before)

    def remove(self) -> Change["WebhookSubscription"]:
        """Remove it, with its deliveries."""
        return removed(self)

    def check_active(self) -> None:
        """Refuse where nothing would be sent."""
        if self.status is not SubscriptionStatus.ACTIVE:
            raise Conflict("webhook_not_active", f"This webhook is {self.status}: resume it, and it is sent to again.")

    def check_not_disabled(self) -> None:
        """Refuse where what waits would die at once."""
        if self.status is SubscriptionStatus.DISABLED:
            raise Conflict("webhook_disabled", "This webhook is disabled: resume it first.")

    def answered(self, outcome: Outcome, policy: DeliveryPolicy, *, at: datetime) -> "WebhookSubscription":
        """What an attempt that ended now says of the endpoint."""
        if outcome.is_delivered:
            return evolve(self, **_HEALTHY) if self.failures else self
        failures = self.failures + 1
        rests = [rest for rest in (policy.rest_after(failures), outcome.retry_after) if rest is not None]
        blocked_until = at + min(max(rests), policy.longest_rest) if rests else self.blocked_until
        return evolve(self, failures=failures, failing_since=self.failing_since or at, blocked_until=blocked_until)

    def has_failed_for(self, at: datetime) -> timedelta:
        """For how long it has done nothing but fail."""
        return timedelta() if self.failing_since is None else at - self.failing_since

    def _move(
        self,
        target: SubscriptionStatus,
        at: datetime,
        values: Mapping[str, Any] = {},
        *events: Event,
    ) -> Change["WebhookSubscription"]:
        if not WEBHOOK_SUBSCRIPTION.moves(self.status, target):
            return unchanged(self)
        return changed(self, at, {"status": target, **values}, *events)


class WebhookSubscriptionRepository(Repository[WebhookSubscription], Removing[WebhookSubscription], Protocol):
    """Keeps subscriptions. Removing one removes its deliveries."""

    @abstractmethod
    async def page(
        self,
        project_ids: Collection[UUID],
        *,
        statuses: Collection[SubscriptionStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[WebhookSubscription]:
        """The subscriptions of projects, newest first."""

    @abstractmethod
    async def listening(self, project_ids: Collection[UUID]) -> Sequence[WebhookSubscription]:
        """The subscriptions of projects for which events are kept."""

    @abstractmethod
    async def of_ids(self, subscription_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Sequence[WebhookSubscription]:
        """Those that there are, by id, held in that order."""

    @abstractmethod
    def note_health(self, subscription: WebhookSubscription) -> None:
        """Keep how its endpoint has been doing, and nothing else."""
