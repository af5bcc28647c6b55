"""How webhooks are delivered."""

from datetime import timedelta

from attrs import frozen

from experiment_domain.webhooks.sending import DeliveryPolicy

USUAL = DeliveryPolicy()
LONGEST_TIMEOUT = 25.0
"""Seconds: what a worker that is killed was attempting is another's within half a minute."""


@frozen(kw_only=True)
class WebhookSettings:
    """Where webhooks may go to, how long an attempt may take, and when there is another. Times are in seconds."""

    allow_private: bool = False
    timeout: float = USUAL.attempt_lasts.total_seconds()
    connect_timeout: float = 5.0
    retry_delays: tuple[float, ...] = tuple(USUAL.delays)
    per_endpoint: int = USUAL.per_endpoint

    @property
    def policy(self) -> DeliveryPolicy:
        """When deliveries are tried again."""
        return DeliveryPolicy(
            delays=self.retry_delays,
            attempt_lasts=timedelta(seconds=self.timeout),
            per_endpoint=self.per_endpoint,
        )
