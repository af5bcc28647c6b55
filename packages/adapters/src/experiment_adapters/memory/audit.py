"""The audit log in memory: added to, and never anything else."""

from collections.abc import Sequence
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.audit import AuditLog, AuditRecord


class MemoryAuditLog(AuditLog):
    """The commands of all projects, in the order in which they were given."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    def record(self, record: AuditRecord) -> None:
        self._transaction.append(self._store.audit, record)

    async def of(self, project_id: UUID) -> Sequence[AuditRecord]:
        self._transaction.settle()
        return [record for record in self._store.audit if record.project_id == project_id]
