"""What can be done with webhooks: subscriptions of other services to a project's events."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from attrs import field, frozen

from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.kernel.errors import Conflict
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.recording import Recorder
from experiment_domain.webhooks.secrets import SecretBox, new_secret
from experiment_domain.webhooks.subscriptions import USUAL_GRACE, SubscriptionStatus, WebhookSubscription

NOUN = "webhook_subscription"
CALLED = "webhook"
"""What refusals call one."""
WEBHOOKS = 200
"""How many webhooks a project has at most: each may want every event of it."""


@frozen(kw_only=True)
class WebhookWithSecret:
    """A subscription and its new secret, which is shown this once."""

    subscription: WebhookSubscription
    secret: str = field(repr=False)


class WebhookUseCases(UseCases):
    """Subscriptions, for owners: what is in a URL may be as good as a password."""

    def __init__(self, recorder: Recorder, box: SecretBox) -> None:
        super().__init__(recorder)
        self._box = box

    @requires(Permission.ADMINISTER)
    async def create(self, permit: Permit, *, project_id: UUID, **values: Any) -> WebhookWithSecret:
        """A new subscription, active, and its secret."""
        await permit.require(project_id, "project")
        # Of several that are made at once, each counts the ones before.
        await permit.holds(await self.uow.projects.get(project_id, Lock.UPDATE), "project")
        if len((await self.uow.webhook_subscriptions.page([project_id], limit=WEBHOOKS, after=None)).items) >= WEBHOOKS:
            raise Conflict("too_many_webhooks", f"This project has {WEBHOOKS} webhooks, and can have no more.")
        subscription_id, secret = self.recorder.ids.new(), new_secret()
        change = WebhookSubscription.create(
            subscription_id=subscription_id,
            project_id=project_id,
            sealed_secret=self._box.seal(secret, about(subscription_id)),
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            **values,
        )
        kept = await self.recorder.keep(self.uow.webhook_subscriptions, change, NOUN, "create")
        return WebhookWithSecret(subscription=kept, secret=secret)

    @requires(Permission.ADMINISTER)
    async def get(self, permit: Permit, subscription_id: UUID) -> WebhookSubscription:
        """One subscription."""
        return await permit.holds(await self.uow.webhook_subscriptions.get(subscription_id), CALLED)

    @requires(Permission.ADMINISTER)
    async def page(
        self,
        permit: Permit,
        project_ids: Collection[UUID] = (),
        *,
        statuses: Collection[SubscriptionStatus] = (),
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[WebhookSubscription]:
        """The subscriptions of the projects that the caller owns, or of those named, newest first."""
        owned = await permit.projects()
        for project_id in project_ids:
            await permit.require(project_id, "project")
        wanted = frozenset(project_ids) or owned
        if not wanted:
            return Page(())
        return await self.uow.webhook_subscriptions.page(wanted, statuses=statuses, limit=limit, after=after)

    @requires(Permission.ADMINISTER)
    async def edit(
        self, permit: Permit, subscription_id: UUID, *, if_version: int | None = None, **values: Any
    ) -> WebhookSubscription:
        """Change where to, which events, or the description. What is on its way already goes to the new URL."""
        subscription = await self._locked(permit, subscription_id, if_version)
        change = subscription.edit(at=self.recorder.now, **values)
        return await self.recorder.keep(self.uow.webhook_subscriptions, change, NOUN, "update")

    @requires(Permission.ADMINISTER)
    async def delete(self, permit: Permit, subscription_id: UUID, *, if_version: int | None = None) -> None:
        """Remove a subscription, its deliveries and their log."""
        subscription = await self._locked(permit, subscription_id, if_version)
        await self.recorder.keep(self.uow.webhook_subscriptions, subscription.remove(), NOUN, "delete")

    @requires(Permission.ADMINISTER)
    async def pause(
        self, permit: Permit, subscription_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> WebhookSubscription:
        """active → paused."""
        subscription = await self._locked(permit, subscription_id, if_version)
        change = subscription.pause(at=self.recorder.now)
        return await self.recorder.keep(self.uow.webhook_subscriptions, change, NOUN, "pause", reason=reason)

    @requires(Permission.ADMINISTER)
    async def resume(
        self, permit: Permit, subscription_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> WebhookSubscription:
        """paused or disabled → active."""
        subscription = await self._locked(permit, subscription_id, if_version)
        change = subscription.resume(at=self.recorder.now)
        return await self.recorder.keep(self.uow.webhook_subscriptions, change, NOUN, "resume", reason=reason)

    @requires(Permission.ADMINISTER)
    async def rotate_secret(
        self, permit: Permit, subscription_id: UUID, *, grace: float = USUAL_GRACE, if_version: int | None = None
    ) -> WebhookWithSecret:
        """A new secret; what is sent is signed with the old one as well for `grace` seconds."""
        subscription = await self._locked(permit, subscription_id, if_version)
        secret = new_secret()
        change = subscription.rotate_secret(
            sealed_secret=self._box.seal(secret, about(subscription_id)), grace=grace, at=self.recorder.now
        )
        kept = await self.recorder.keep(self.uow.webhook_subscriptions, change, NOUN, "rotate_secret")
        return WebhookWithSecret(subscription=kept, secret=secret)

    @requires(Permission.ADMINISTER)
    async def history(self, permit: Permit, subscription_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.webhook_subscriptions.get(subscription_id), CALLED)
        return await self.uow.history.of(NOUN, subscription_id)

    async def _locked(self, permit: Permit, subscription_id: UUID, if_version: int | None) -> WebhookSubscription:
        found = await self.uow.webhook_subscriptions.get(subscription_id, Lock.UPDATE)
        return await permit.holds(found, CALLED, if_version)


def about(subscription_id: UUID) -> bytes:
    """What the secrets of a subscription are sealed for."""
    return f"{NOUN}/{subscription_id}".encode()
