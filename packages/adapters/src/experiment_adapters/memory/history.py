"""Status history in memory: added to, and never anything else."""

from collections.abc import Sequence
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.entity import StatusChange, StatusHistory


class MemoryStatusHistory(StatusHistory):
    """The transitions of all entities, in the order in which they happened."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    def record(self, *changes: StatusChange) -> None:
        for change in changes:
            self._transaction.append(self._store.history, change)

    async def of(self, entity_type: str, entity_id: UUID) -> Sequence[StatusChange]:
        self._transaction.settle()
        return [
            change
            for change in self._store.history
            if change.entity_type == entity_type and change.entity_id == entity_id
        ]
