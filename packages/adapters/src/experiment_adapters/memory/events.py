"""Events in memory, in the order in which they were recorded."""

from uuid import UUID

from experiment_adapters.memory.store import RecordedEvent, Store, Transaction
from experiment_domain.kernel.events import Event, EventSink


class MemoryEvents(EventSink):
    """Takes the events of one unit of work."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    def record(self, event_id: UUID, event: Event) -> None:
        self._transaction.append(self._store.events, RecordedEvent(event_id, event))
