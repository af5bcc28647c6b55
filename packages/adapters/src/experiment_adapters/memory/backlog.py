"""How much work waits, in memory."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.backlog import MOST_COUNTED, Backlog, Waiting
from experiment_domain.webhooks.deliveries import DeliveryStatus
from experiment_domain.webhooks.subscriptions import SubscriptionStatus


class MemoryBacklog(Backlog):
    """Counts the rows of work themselves."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def waiting(self) -> Mapping[str, Waiting]:
        self._transaction.settle()
        now = datetime.now(UTC)
        active = {
            each.id for each in self._store.webhook_subscriptions.values() if each.status is SubscriptionStatus.ACTIVE
        }
        due = (
            each.id
            for each in self._store.webhook_deliveries.values()
            if each.subscription_id in active
            and each.status is DeliveryStatus.PENDING
            and (each.next_attempt_at is None or each.next_attempt_at <= now)
        )
        chores = [chore.claimed_by for chore in self._store.chores.values() if chore.due_at <= now]
        return {
            "backfills": self._unclaimed((each.id for each in self._store.backfills.values() if each.is_active), now),
            "chores": _waiting(chores),
            "exports": self._unclaimed((each.id for each in self._store.exports.values() if each.is_active), now),
            "webhooks": self._unclaimed(due, now),
        }

    def _unclaimed(self, ids: Iterable[UUID], now: datetime) -> Waiting:
        claims = (self._store.claims.get(each) for each in ids)
        return _waiting([claim and claim.worker for claim in claims if claim is None or claim.until <= now])


def _waiting(workers: list[UUID | None]) -> Waiting:
    counted = workers[:MOST_COUNTED]
    return Waiting(count=len(counted), left_behind=len(counted) - counted.count(None))
