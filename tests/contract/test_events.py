"""What every `EventLog` promises, as its readers see it: the harness in memory, the relay in PostgreSQL, timelines."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import psycopg
import pytest
from attrs import evolve

from entities import a_project, fresh, later
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, ask, committed, keep, refused

Reader = Callable[[UUID], Awaitable[list[tuple[UUID, Event]]]]


@pytest.fixture
def recorded(request: pytest.FixtureRequest, units_of_work: UnitsOfWork) -> Reader:
    """Reads the events of a project, oldest first."""
    if isinstance(units_of_work, MemoryUnitsOfWork):

        async def of_memory(project_id: UUID) -> list[tuple[UUID, Event]]:
            return [(it.id, it.event) for it in units_of_work.events if it.event.project_id == project_id]

        return of_memory

    url = request.getfixturevalue("module_postgres_url")

    async def of_postgres(project_id: UUID) -> list[tuple[UUID, Event]]:
        async with await psycopg.AsyncConnection.connect(url, options="-c timezone=UTC") as connection:
            cursor = await connection.execute(
                "SELECT id, type, project_id, subject, at, data FROM outbox WHERE project_id = %s"
                " ORDER BY transaction_id, position",
                [project_id],
            )
            return [
                (row[0], Event(type=row[1], project_id=row[2], subject=row[3], at=row[4], data=row[5]))
                for row in await cursor.fetchall()
            ]

    return of_postgres


def _an_event(project_id: UUID, subject: str = "run/1") -> Event:
    data = {"text": ODD_TEXT, "n": [0.5, 1, None, True, {"a": []}]}
    return Event(type="run.started", project_id=project_id, subject=subject, at=later(0.000001), data=data)


def told_of(event: Event, event_id: UUID | None = None) -> RecordedEvent:
    return RecordedEvent(id=event_id or fresh(), event=event, actor=ODD_TEXT)


async def test_events_become_visible_in_their_order(units_of_work: UnitsOfWork, recorded: Reader):
    project = a_project()
    event = _an_event(project.id)
    told = [(fresh(), event), (fresh(), evolve(event, data={})), (fresh(), evolve(event, at=later(-60)))]
    async with committed(units_of_work) as uow:
        uow.projects.add(project)
        for event_id, event in told[:2]:
            uow.events.record(told_of(event, event_id))
    async with committed(units_of_work) as uow:
        uow.events.record(told_of(told[2][1], told[2][0]))
    assert await recorded(project.id) == told


async def test_of_what_was_not_committed_nothing_is_told(units_of_work: UnitsOfWork, recorded: Reader):
    project, event_id = a_project(), fresh()
    await keep(units_of_work, project)
    async with units_of_work.begin(SYSTEM) as uow:
        uow.events.record(told_of(_an_event(project.id)))
        assert await uow.projects.get(project.id) == project
    async with refused(units_of_work, "already_exists") as uow:
        uow.events.record(told_of(_an_event(project.id)))
        uow.projects.add(project)
    async with committed(units_of_work) as uow:
        uow.events.record(told_of(_an_event(project.id), event_id))
    assert [told for told, _ in await recorded(project.id)] == [event_id]


async def test_each_subject_is_told_of_in_order(units_of_work: UnitsOfWork, recorded: Reader):
    project = a_project()
    await keep(units_of_work, project)
    ids = {subject: [fresh() for _ in range(4)] for subject in ("run/1", "run/2", "run/3")}

    async def tell(subject: str) -> None:
        for event_id in ids[subject]:
            async with committed(units_of_work) as uow:
                uow.events.record(told_of(_an_event(project.id, subject), event_id))

    await asyncio.gather(*map(tell, ids))
    told = await recorded(project.id)
    for subject, expected in ids.items():
        assert [event_id for event_id, event in told if event.subject == subject] == expected


async def test_a_subject_has_a_timeline(units_of_work: UnitsOfWork):
    project = a_project()
    await keep(units_of_work, project)
    subject = f"run/{fresh()}"
    recorded = [told_of(evolve(_an_event(project.id, subject), at=later(number // 2))) for number in range(6)]
    async with committed(units_of_work) as uow:
        uow.events.record(*recorded[3:], told_of(_an_event(project.id, "run/other")))
        uow.events.record(*recorded[:3])
    found = await ask(units_of_work, lambda uow: uow.events.of(subject, limit=4, after=None))
    assert list(found) == recorded[:4]
    place = (recorded[3].event.at, recorded[3].id)
    assert list(await ask(units_of_work, lambda uow: uow.events.of(subject, limit=4, after=place))) == recorded[4:]
    assert list(await ask(units_of_work, lambda uow: uow.events.of("run/none", limit=4, after=None))) == []
