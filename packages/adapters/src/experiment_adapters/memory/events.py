"""Events in memory, in the order in which they were recorded."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.events import EventLog, EventPart, PlacedEvent, RecordedEvent, place_lost


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

    async def since(
        self,
        place: str | None,
        *,
        limit: int,
        project_ids: Collection[UUID] | None = None,
        types: Collection[str] = (),
        until: str | None = None,
    ) -> EventPart:
        self._transaction.settle()
        start, end = int(place or 0), int(until or len(self._store.events))
        if start > len(self._store.events):
            raise place_lost()
        found = [
            PlacedEvent(recorded=recorded, place=str(number))
            for number, recorded in enumerate(self._store.events[start:end], start + 1)
            if (project_ids is None or recorded.event.project_id in project_ids)
            and (not types or recorded.event.type in types)
        ]
        events = found[:limit]
        if len(found) > limit:
            return EventPart(events=events, place=events[-1].place, more=True)
        return EventPart(events=events, place=str(max(start, end)), more=False)

    async def latest(self) -> str:
        return str(len(self._store.events))


def _place(recorded: RecordedEvent) -> tuple[datetime, UUID]:
    return recorded.event.at, recorded.id
