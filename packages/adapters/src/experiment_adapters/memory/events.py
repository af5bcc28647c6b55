"""Events in memory, in the order in which they were recorded."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.events import EventLog, RecordedEvent


class MemoryEvents(EventLog):
    """Takes the events of one unit of work."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    def record(self, *events: RecordedEvent) -> None:
        for event in events:
            self._transaction.append(self._store.events, event)

    async def of(self, subject: str, *, limit: int, after: tuple[datetime, UUID] | None) -> Sequence[RecordedEvent]:
        self._transaction.settle()
        found = sorted((recorded for recorded in self._store.events if recorded.event.subject == subject), key=_place)
        return [recorded for recorded in found if after is None or _place(recorded) > after][:limit]


def _place(recorded: RecordedEvent) -> tuple[datetime, UUID]:
    return recorded.event.at, recorded.id
