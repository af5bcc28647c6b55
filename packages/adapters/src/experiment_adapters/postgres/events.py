"""Events in PostgreSQL: the outbox, and how it is read in an order that nothing is missing from."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import columns_of
from experiment_adapters.postgres.snapshots import Window, newest, snapshot
from experiment_adapters.postgres.statements import Statements
from experiment_domain.kernel.events import Event, EventLog, EventPart, PlacedEvent, RecordedEvent, place_lost
from experiment_domain.kernel.news import EVENTS

_EVENT = "id, type, project_id, subject, at, data, coalesce(actor, '') AS actor"


class PostgresOutbox(EventLog):
    """Keeps events in `outbox`, which refuses UPDATE, DELETE and TRUNCATE."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def record(self, *events: RecordedEvent) -> None:
        self._statements.tell(EVENTS, *(recorded.event.subject for recorded in events))
        self._statements.write(
            "INSERT INTO outbox (id, project_id, subject, type, at, data, actor) SELECT * FROM unnest(%s::uuid[],"
            " %s::uuid[], %s::text[], %s::text[], %s::timestamptz[], %s::jsonb[], %s::text[])",
            columns_of(
                (
                    recorded.id,
                    recorded.event.project_id,
                    recorded.event.subject,
                    recorded.event.type,
                    recorded.event.at,
                    Jsonb(dict(recorded.event.data)),
                    recorded.actor,
                )
                for recorded in events
            ),
        )

    async def of(self, subject: str, *, limit: int, after: tuple[datetime, UUID] | None) -> Sequence[RecordedEvent]:
        answer = self._statements.ask(
            f"SELECT {_EVENT} FROM outbox WHERE subject = %s"
            f"{'' if after is None else ' AND (at, id) > (%s, %s)'} ORDER BY at, id LIMIT %s",
            [subject, *(after or ()), limit],
        )
        return [_recorded(row) for row in await answer.rows()]

    async def since(
        self,
        place: str | None,
        *,
        limit: int,
        project_ids: Collection[UUID] | None = None,
        types: Collection[str] = (),
        until: str | None = None,
    ) -> EventPart:
        window = Window.parsed(place).up_to(until)
        conditions = Conditions()
        window.narrow(conditions)
        if project_ids is not None:
            conditions.within("project_id", project_ids)
        conditions.one_of("type", types)
        now, rows = await newest(
            self._statements,
            window,
            f"SELECT position, {_EVENT} FROM outbox WHERE {' AND '.join(conditions.texts)}"
            f" ORDER BY {window.order} LIMIT %s",
            [*conditions.parameters, limit + 1],
        )
        if now is None:
            raise place_lost()
        more = len(rows) > limit
        places = window.behind([row[0] for row in rows[:limit]], now, more=more)
        events = [
            PlacedEvent(recorded=_recorded(row), place=place)
            for (_, *row), place in zip(rows[:limit], places, strict=True)
        ]
        place = events[-1].place if more else window.end(now)
        return EventPart(events=events, place=place, more=more or window.ends_before(until, now))

    async def latest(self) -> str:
        return await snapshot(self._statements)


def _recorded(row: Sequence[Any]) -> RecordedEvent:
    event_id, kind, project_id, subject, at, data, actor = row
    event = Event(type=kind, project_id=project_id, subject=subject, at=at, data=data)
    return RecordedEvent(id=event_id, event=event, actor=actor)
