"""First answers in memory."""

from datetime import datetime

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.idempotency import KEPT_FOR, IdempotencyKey, IdempotencyRecords, RememberedAnswer


class MemoryIdempotency(IdempotencyRecords):
    """First answers. Units of work are served one after the other, so a key is never still in progress."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def claim(self, key: IdempotencyKey, now: datetime) -> RememberedAnswer | None:
        self._transaction.settle()
        answer = self._store.answers.get(key)
        return answer if answer is not None and now < answer.answered_at + KEPT_FOR else None

    def remember(self, key: IdempotencyKey, answer: RememberedAnswer) -> None:
        self._transaction.put(self._store.answers, key, answer)

    async def purge(self, before: datetime) -> int:
        self._transaction.settle()
        old = [key for key, answer in self._store.answers.items() if answer.answered_at < before]
        for key in old:
            self._transaction.drop(self._store.answers, key)
        return len(old)
