"""What every `EventLog` promises who reads it in order: everything once, and each subject's as it happened."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import psycopg
import pytest
from attrs import define, field
from hypothesis import settings

from contention import contended
from entities import a_project, an_experiment, fresh, later
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain.experiments import Experiment
from experiment_domain.kernel.entity import Lock
from experiment_domain.kernel.errors import Conflict
from experiment_domain.kernel.events import Event, EventPart, RecordedEvent
from experiment_domain.projects import Project
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import SYSTEM, ask, committed, keep

WRITERS, EVENTS, READERS = (16, 100_000, 4) if settings.get_current_profile_name() == "nightly" else (20, 2_000, 3)
LONGEST_SLEEP = 0.1 if settings.get_current_profile_name() == "nightly" else 0.05


def an_event(project: Project, number: int, subject: str = "run/1", kind: str = "run.tagged") -> RecordedEvent:
    event = Event(type=kind, project_id=project.id, subject=subject, at=later(number), data={"n": number})
    return RecordedEvent(id=fresh(), event=event, actor="ann")


async def record(units: UnitsOfWork, *events: RecordedEvent) -> None:
    async with committed(units) as uow:
        uow.events.record(*events)


async def since(units: UnitsOfWork, place: str | None, limit: int = 100, **which: object) -> EventPart:
    return await ask(units, lambda uow: uow.events.since(place, limit=limit, **which))  # pyright: ignore[reportArgumentType]


def numbers(part: EventPart) -> list[int]:
    return [placed.recorded.event.data["n"] for placed in part.events]


@pytest.fixture
def project(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Project:
    project = a_project()
    runner.run(keep(units_of_work, project))
    return project


async def test_it_is_read_on_from_every_place(units_of_work: UnitsOfWork, project: Project):
    start = await ask(units_of_work, lambda uow: uow.events.latest())
    told = [an_event(project, number) for number in range(7)]
    await record(units_of_work, *told[:4])
    await record(units_of_work, *told[4:])
    part = await since(units_of_work, start)
    assert [placed.recorded for placed in part.events] == told
    assert not part.more
    for number, placed in enumerate(part.events, 1):
        assert numbers(await since(units_of_work, placed.place)) == list(range(number, 7))
    first = await since(units_of_work, start, limit=3)
    assert (numbers(first), first.more) == ([0, 1, 2], True)
    await record(units_of_work, an_event(project, 7))  # what comes while parts are read comes after them
    second = await since(units_of_work, first.place, limit=4)
    assert (numbers(second), second.more) == ([3, 4, 5, 6], True)
    assert numbers(await since(units_of_work, second.place)) == [7]


async def test_it_is_read_from_the_beginning_and_from_its_end(units_of_work: UnitsOfWork, project: Project):
    await record(units_of_work, an_event(project, 1))
    assert numbers(await since(units_of_work, None, project_ids=[project.id])) == [1]
    end = await ask(units_of_work, lambda uow: uow.events.latest())
    part = await since(units_of_work, end)
    assert (part.events, part.more) == ([], False)
    await record(units_of_work, an_event(project, 2))
    assert numbers(await since(units_of_work, part.place)) == numbers(await since(units_of_work, end)) == [2]


async def test_it_is_narrowed_to_projects_and_types(units_of_work: UnitsOfWork, project: Project):
    other = a_project()
    await keep(units_of_work, other)
    start = await ask(units_of_work, lambda uow: uow.events.latest())
    mine, theirs = [an_event(project, n, kind=f"run.{n % 2}") for n in range(4)], an_event(other, 9, kind="run.1")
    await record(units_of_work, *mine, theirs)
    assert numbers(await since(units_of_work, start, project_ids=[project.id])) == [0, 1, 2, 3]
    assert numbers(await since(units_of_work, start, types=["run.1"])) == [1, 3, 9]
    both = await since(units_of_work, start, project_ids=[project.id, other.id], types=["run.1", "run.2"], limit=2)
    assert (numbers(both), both.more) == ([1, 3], True)
    assert numbers(await since(units_of_work, start, project_ids=[])) == []
    # What is passed over is behind the place all the same.
    passed = await since(units_of_work, start, project_ids=[fresh()])
    assert numbers(await since(units_of_work, passed.place)) == []


async def test_what_was_rolled_back_is_not_told(units_of_work: UnitsOfWork, project: Project):
    start = await ask(units_of_work, lambda uow: uow.events.latest())
    async with units_of_work.begin(SYSTEM) as uow:
        uow.events.record(an_event(project, 1))
        assert await uow.projects.get(project.id) == project
    await record(units_of_work, an_event(project, 2))
    assert numbers(await since(units_of_work, start)) == [2]


async def test_a_place_beyond_the_end_is_lost(units_of_work: UnitsOfWork):
    place = "1000000" if isinstance(units_of_work, MemoryUnitsOfWork) else "900000000000:900000000000:"
    with pytest.raises(Conflict) as refusal:
        await since(units_of_work, place)
    assert refusal.value.code == "place_lost"


@define
class Subject:
    """Something that many writers change in turns, and how often they did."""

    experiment: Experiment
    changes: int = 0


@define
class Reader:
    """Reads on and on, in parts of changing size."""

    units: UnitsOfWork
    chance: random.Random
    place: str | None
    told: list[RecordedEvent] = field(factory=list[RecordedEvent])
    places: list[tuple[str, int]] = field(factory=list[tuple[str, int]])

    async def read(self, writers: "asyncio.Task[None]") -> None:
        while True:
            over = writers.done()
            part = await since(self.units, self.place, limit=self.chance.randint(1, 200))
            self.told += [placed.recorded for placed in part.events]
            # Any place that was handed out will do to go on from.
            self.place = part.place
            self.places.append((part.place, len(self.told)))
            if over and not part.more:
                return
            await asyncio.sleep(self.chance.uniform(0, 0.01))


@asynccontextmanager
async def crowded(request: pytest.FixtureRequest, adapter: str) -> AsyncGenerator[UnitsOfWork]:
    if adapter == "memory":
        yield MemoryUnitsOfWork()
    else:
        async with contended(request.getfixturevalue("postgres_url")) as units:
            yield units


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("adapter", ["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_nothing_is_skipped_doubled_or_out_of_order(request: pytest.FixtureRequest, adapter: str):
    async def everything() -> None:
        async with crowded(request, adapter) as units:
            await _write_and_read(units, EVENTS if adapter == "postgres" else 60)

    asyncio.run(everything())


async def _write_and_read(units: UnitsOfWork, events: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    project = a_project()
    await keep(units, project)
    own = [Subject(an_experiment(project)) for _ in range(WRITERS)]
    shared = [Subject(an_experiment(project)) for _ in range(5)]
    await keep(units, *(subject.experiment for subject in (*own, *shared)))
    kept: set[UUID] = set()
    left = [events]

    async def write(mine: Subject) -> None:
        while left[0] > 0:
            changing: list[Subject] = [mine, chance.choice(shared)]
            recorded: list[RecordedEvent] = []
            async with units.begin(SYSTEM) as uow:
                for subject in changing:
                    # The first lock gives the transaction its number, long before it gets the one it waits for.
                    await uow.experiments.get(subject.experiment.id, Lock.UPDATE)
                    number = subject.changes + 1
                    recorded.append(an_event(project, number, f"experiment/{subject.experiment.id}"))
                    uow.events.record(recorded[-1])
                    if chance.random() < 0.5:
                        await asyncio.sleep(chance.uniform(0, LONGEST_SLEEP))
                if chance.random() < 0.1:
                    continue
                # Before the commit: afterwards, another may have the lock already.
                for subject in changing:
                    subject.changes += 1
                await uow.commit()
                kept.update(event.id for event in recorded)
                left[0] -= len(recorded)

    async def write_all() -> None:
        await asyncio.gather(*map(write, own))

    writers = asyncio.create_task(write_all())
    readers = [Reader(units, random.Random(f"{seed}-{number}"), None) for number in range(READERS)]
    await asyncio.gather(writers, *(reader.read(writers) for reader in readers))
    late = Reader(units, random.Random(seed), None)
    await late.read(writers)
    # By its subjects, each event is found without any snapshot: missed by a reader, or never kept?
    there = {
        recorded.id
        for subject in (*own, *shared)
        for recorded in await _of(units, f"experiment/{subject.experiment.id}")
    }
    assert there == kept
    for reader in (*readers, late):
        ids = [recorded.id for recorded in reader.told]
        assert len(ids) == len(set(ids))
        # The places between which they were passed over are what there is to find out why.
        assert set(ids) == kept, (kept - set(ids), [recorded.id for recorded in reader.told], reader.places)
        _in_order(reader.told)


async def _of(units: UnitsOfWork, subject: str) -> Sequence[RecordedEvent]:
    return await ask(units, lambda uow: uow.events.of(subject, limit=1_000_000, after=None))


def _in_order(told: Sequence[RecordedEvent]) -> None:
    reached: dict[str, int] = defaultdict(int)
    for recorded in told:
        subject = recorded.event.subject
        assert recorded.event.data["n"] == reached[subject] + 1, f"{subject} is out of order"
        reached[subject] += 1


@pytest.mark.postgres
async def test_a_transaction_that_lasts_holds_up_nothing(
    postgres_units_of_work: UnitsOfWork, module_postgres_url: str, runner: asyncio.Runner
):
    project = a_project()
    await keep(postgres_units_of_work, project)
    start = await ask(postgres_units_of_work, lambda uow: uow.events.latest())
    async with (
        await psycopg.AsyncConnection.connect(module_postgres_url) as reading,
        await psycopg.AsyncConnection.connect(module_postgres_url) as writing,
    ):
        await reading.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await reading.execute("SELECT count(*) FROM outbox")
        await writing.execute("SELECT pg_current_xact_id()")
        await record(postgres_units_of_work, an_event(project, 1))
        assert numbers(await since(postgres_units_of_work, start)) == [1]
        # Nor is what it writes in the end passed over by who has read beyond it.
        place = (await since(postgres_units_of_work, start)).place
        await writing.execute(
            "INSERT INTO outbox (id, project_id, subject, type, at, data)"
            " VALUES (%s, %s, 'run/2', 'run.tagged', now(), jsonb_build_object('n', 2))",
            [fresh(), project.id],
        )
        await record(postgres_units_of_work, an_event(project, 3))
        part = await since(postgres_units_of_work, place)
        assert numbers(part) == [3]
        await writing.commit()
        assert numbers(await since(postgres_units_of_work, part.place)) == [2]


@pytest.mark.postgres
async def test_what_is_committed_late_is_behind_a_part_that_had_a_higher_position(
    postgres_units_of_work: UnitsOfWork, module_postgres_url: str, runner: asyncio.Runner
):
    project = a_project()
    await keep(postgres_units_of_work, project)
    start = await ask(postgres_units_of_work, lambda uow: uow.events.latest())
    async with await psycopg.AsyncConnection.connect(module_postgres_url) as late:
        await late.execute(
            "INSERT INTO outbox (id, project_id, subject, type, at, data)"
            " VALUES (%s, %s, 'run/9', 'run.tagged', now(), jsonb_build_object('n', 9))",
            [fresh(), project.id],
        )
        for number in range(3):
            await record(postgres_units_of_work, an_event(project, number))
        part = await since(postgres_units_of_work, start, limit=2)
        assert numbers(part) == [0, 1]
    until = await ask(postgres_units_of_work, lambda uow: uow.events.latest())
    await record(postgres_units_of_work, an_event(project, 10))
    found: list[int] = []
    while part.more:
        part = await since(postgres_units_of_work, part.place, until=until)
        found += numbers(part)
    assert found == [2, 9]
    assert numbers(await since(postgres_units_of_work, part.place)) == [10]
