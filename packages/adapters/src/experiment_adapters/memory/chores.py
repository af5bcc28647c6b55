"""Chores in memory."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.store import Store, StoredChore, Transaction
from experiment_domain.chores import ERROR_LENGTH, Chore, ChoreBook


class MemoryChores(ChoreBook):
    """When each chore is due, and who is at it."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def is_due(self, names: Collection[str]) -> bool:
        self._transaction.settle()
        chores, now = self._store.chores, _now()
        return any(name not in chores or chores[name].due_at <= now for name in names)

    async def claim(self, names: Collection[str], worker: UUID, lasting: timedelta) -> Chore | None:
        self._transaction.settle()
        now = _now()
        for name in set(names) - self._store.chores.keys():
            self._transaction.put(self._store.chores, name, StoredChore(due_at=now))
        due = [name for name in names if self._store.chores[name].due_at <= now]
        name = min(due, key=lambda name: (self._store.chores[name].due_at, name), default=None)
        if name is None:
            return None
        attempts = self._store.chores[name].attempts + 1
        claimed = evolve(self._store.chores[name], due_at=now + lasting, attempts=attempts, claimed_by=worker)
        self._transaction.put(self._store.chores, name, claimed)
        return Chore(name=name, attempts=attempts)

    def done(self, name: str, worker: UUID, pause: timedelta) -> None:
        now = _now()
        self._end(name, worker, StoredChore(due_at=now + pause, done_at=now))

    def failed(self, chore: Chore, worker: UUID, error: str) -> None:
        attempts = 0 if chore.is_last else chore.attempts
        before = self._store.chores.get(chore.name)
        self._end(
            chore.name,
            worker,
            StoredChore(
                due_at=_now() + chore.pause,
                attempts=attempts,
                error=error[:ERROR_LENGTH],
                done_at=None if before is None else before.done_at,
            ),
        )

    def _end(self, name: str, worker: UUID, ended: StoredChore) -> None:
        claimed = self._store.chores.get(name)
        if claimed is not None and claimed.claimed_by == worker:
            self._transaction.put(self._store.chores, name, ended)


def _now() -> datetime:
    return datetime.now(UTC)
