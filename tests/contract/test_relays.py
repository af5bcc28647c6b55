"""What relays promise: every event at least once, each subject's in order, wherever they are broken off."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from attrs import define, field
from hypothesis import settings

from entities import a_project, fresh, later
from experiment_domain import Services
from experiment_domain.kernel.access import Principal
from experiment_domain.kernel.errors import Conflict, VersionMismatch
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.kernel.news import News
from experiment_domain.projects import Project
from experiment_domain.relays import EventSink, SinkAway
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_domain.usecases import relaying
from experiment_domain.usecases.relaying import Relay, RelayWatcher
from keeping import ask, committed, keep, refused

ROUNDS = 400 if settings.get_current_profile_name() == "nightly" else 40


class KilledError(BaseException):
    """The process ends here: nothing handles that."""


@define
class Fuse:
    """Kills whoever passes it when it has burned down."""

    left: float = float("inf")

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KilledError


@define
class ListSink(EventSink):
    """Keeps what it is given, one after the other."""

    arrived: list[RecordedEvent] = field(factory=list[RecordedEvent])
    fuse: Fuse = field(factory=Fuse)
    pause: Callable[[], float] = lambda: 0.0
    away: int = 0
    tidied: int = 0

    async def publish(self, events: Sequence[RecordedEvent]) -> None:
        if self.away:
            self.away -= 1
            raise SinkAway("gone")
        for recorded in events:
            self.fuse.burn()
            await asyncio.sleep(self.pause())
            self.arrived.append(recorded)
        self.fuse.burn()

    async def tidy(self) -> None:
        self.tidied += 1

    async def close(self) -> None:
        pass


@define
class Fused(UnitsOfWork):
    """Units of work whose beginning, reading and committing burn a fuse, before and after."""

    units: UnitsOfWork
    fuse: Fuse

    @asynccontextmanager
    async def begin(self, principal: Principal, *, read_only: bool = False) -> AsyncGenerator[UnitOfWork]:
        self.fuse.burn()
        async with self.units.begin(principal, read_only=read_only) as uow:
            self.fuse.burn()
            commit = uow.commit

            async def burning() -> None:
                self.fuse.burn()
                await commit()
                self.fuse.burn()

            uow.commit = burning  # pyright: ignore[reportAttributeAccessIssue]
            yield uow
            self.fuse.burn()

    @property
    def news(self) -> News:
        return self.units.news


async def record(units: UnitsOfWork, project: Project, count: int, already: dict[str, int]) -> None:
    """Events of five subjects, each with its number within its subject."""
    async with committed(units) as uow:
        for _ in range(count):
            subject = f"run/{random.randrange(5)}"
            already[subject] += 1
            event = Event(
                type="run.tagged", project_id=project.id, subject=subject, at=later(0), data={"n": already[subject]}
            )
            uow.events.record(RecordedEvent(id=fresh(), event=event, actor="ann"))


def check(arrived: Sequence[RecordedEvent], project: Project, recorded: dict[str, int]) -> None:
    """Each event at least once, and the first arrivals of each subject in order."""
    seen = dict[object, None]()
    firsts = defaultdict[str, list[int]](list)
    for one in arrived:
        if one.event.project_id == project.id and one.id not in seen:
            seen[one.id] = None
            firsts[one.event.subject].append(one.event.data["n"])
    assert dict(firsts) == {subject: list(range(1, count + 1)) for subject, count in recorded.items()}


async def a_sink_name(units: UnitsOfWork) -> str:
    """A sink that begins now."""
    name = f"sink {uuid4()}"
    async with committed(units) as uow:
        uow.relays.advance(name, None, await uow.events.latest())
    return name


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it is about others that know nothing of events to wait for
            await asyncio.sleep(0.01)


async def until_done(relay: Relay) -> int:
    """Step until there is nothing left; how many events that were."""
    total, more = 0, True
    while more:
        count, more = await relay.step()
        total += count
    return total


async def test_how_far_a_relay_has_come_is_kept(units_of_work: UnitsOfWork):
    name = f"sink {uuid4()}"
    assert await ask(units_of_work, lambda uow: uow.relays.of(name)) is None
    async with committed(units_of_work) as uow:
        uow.relays.advance(name, None, "a")
    async with committed(units_of_work) as uow:
        assert await uow.relays.of(name) == "a"
        uow.relays.advance(name, "a", "b")
    for before in (None, "a", "c"):
        async with refused(units_of_work, "version_mismatch") as uow:
            uow.relays.advance(name, before, "d")
    assert await ask(units_of_work, lambda uow: uow.relays.of(name)) == "b"


async def test_events_arrive_once_in_parts_and_then_nothing(units_of_work: UnitsOfWork):
    project, sink, recorded = a_project(), ListSink(), defaultdict[str, int](int)
    await keep(units_of_work, project)
    relay = Relay(Services(units_of_work=units_of_work), await a_sink_name(units_of_work), sink, at_once=4)
    await record(units_of_work, project, 10, recorded)
    assert await relay.step() == (4, True)
    assert await until_done(relay) == 6
    await record(units_of_work, project, 1, recorded)
    assert await until_done(relay) == 1
    assert await until_done(relay) == 0
    assert len(sink.arrived) == 11
    check(sink.arrived, project, recorded)


async def test_killed_at_each_of_its_steps_it_loses_nothing_and_keeps_the_order(units_of_work: UnitsOfWork):
    project, recorded = a_project(), defaultdict[str, int](int)
    await keep(units_of_work, project)
    name, arrived = await a_sink_name(units_of_work), list[RecordedEvent]()
    steps, is_killed = 0, True
    while is_killed:
        await record(units_of_work, project, 5, recorded)
        fuse = Fuse(left=steps)
        services = Services(units_of_work=Fused(units_of_work, fuse))
        try:
            await until_done(Relay(services, name, ListSink(arrived, fuse), at_once=3))
            is_killed = False
        except KilledError:
            steps += 1
        await until_done(Relay(Services(units_of_work=units_of_work), name, ListSink(arrived), at_once=3))
        check(arrived, project, recorded)
    assert steps > 20  # three places to begin from, two parts, each event, each commit


async def test_two_at_once_one_of_which_is_killed_again_and_again(units_of_work: UnitsOfWork):
    project, recorded, chance = a_project(), defaultdict[str, int](int), random.Random()
    await keep(units_of_work, project)
    name, arrived = await a_sink_name(units_of_work), list[RecordedEvent]()

    def pause() -> float:
        return chance.choice([0, 0, 0.001])

    async def relay(fuse: Fuse) -> None:
        """Both think that they lead; whoever comes too late begins again."""
        services = Services(units_of_work=Fused(units_of_work, fuse))
        while True:
            try:
                await until_done(Relay(services, name, ListSink(arrived, fuse, pause), at_once=7))
                return
            except VersionMismatch:
                await asyncio.sleep(0)

    async def mortal() -> None:
        while not writing.done():
            await asyncio.sleep(pause())
            try:
                await relay(Fuse(left=chance.randrange(40)))
            except KilledError:
                continue

    async def record_all() -> None:
        for _ in range(ROUNDS):
            await record(units_of_work, project, chance.randrange(10), recorded)
            await asyncio.sleep(pause())

    async def immortal(writing: "asyncio.Task[None]") -> None:
        while not writing.done():
            await relay(Fuse())
            await asyncio.sleep(0)  # in memory, nothing else lets the others have a turn

    writing = asyncio.create_task(record_all())
    await asyncio.gather(writing, mortal(), mortal(), immortal(writing))
    await relay(Fuse())
    check(arrived, project, recorded)


class Told(RelayWatcher):
    def __init__(self) -> None:
        self.count = 0
        self.errors: list[Exception] = []

    def relayed(self, sink: str, count: int) -> None:
        self.count += count

    def held_up(self, sink: str, error: Exception) -> None:
        self.errors.append(error)


async def test_it_runs_while_it_leads_and_tries_again(units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relaying, "PAUSES", (0.0,))
    monkeypatch.setattr(relaying, "LOOKS_EVERY", 0.01)
    project, sink, told, recorded = a_project(), ListSink(away=3), Told(), defaultdict[str, int](int)
    await keep(units_of_work, project)
    relay = Relay(Services(units_of_work=units_of_work), await a_sink_name(units_of_work), sink, at_once=2)
    asked, may_lead = list[bool](), False

    async def leads() -> bool:
        asked.append(may_lead)
        return may_lead

    await record(units_of_work, project, 5, recorded)
    running = asyncio.create_task(relay.run(leads=leads, watcher=told))
    await until(lambda: len(asked) >= 3)
    assert sink.arrived == []
    may_lead = True
    await until(lambda: told.count >= 5)
    may_lead = False
    asked.clear()
    await until(lambda: len(asked) >= 3)
    await record(units_of_work, project, 5, recorded)
    asked.clear()
    await until(lambda: len(asked) >= 3)
    assert len(sink.arrived) == 5
    running.cancel()
    assert [type(error) for error in told.errors] == [SinkAway] * 3
    assert sink.tidied == 1


async def test_news_wakes_it(units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relaying, "LOOKS_EVERY", 600.0)
    project, sink, told, recorded = a_project(), ListSink(), Told(), defaultdict[str, int](int)
    await keep(units_of_work, project)
    asked = list[None]()

    async def leads() -> bool:
        asked.append(None)
        return True

    relay = Relay(Services(units_of_work=units_of_work), await a_sink_name(units_of_work), sink)
    running = asyncio.create_task(relay.run(leads=leads, watcher=told))
    await until(lambda: asked)
    for number in range(1, 4):
        await record(units_of_work, project, 1, recorded)
        await until(lambda: len(sink.arrived) == number)  # noqa: B023
    running.cancel()


async def test_a_log_from_an_older_copy_is_relayed_from_its_beginning(
    units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relaying, "PAUSES", (0.0,))
    project, sink, told, recorded = a_project(), ListSink(), Told(), defaultdict[str, int](int)
    await keep(units_of_work, project)
    await record(units_of_work, project, 5, recorded)
    name = f"sink {uuid4()}"
    async with committed(units_of_work) as uow:
        latest = await uow.events.latest()
        uow.relays.advance(name, None, "1000000" if latest.isdecimal() else "900000000000:900000000000:")

    async def leads() -> bool:
        return True

    relay = Relay(Services(units_of_work=units_of_work), name, sink)
    running = asyncio.create_task(relay.run(leads=leads, watcher=told))
    # Other tests have told the same log before.
    await until(lambda: sum(one.event.project_id == project.id for one in sink.arrived) >= 5)
    running.cancel()
    check(sink.arrived, project, recorded)
    assert [type(error) for error in told.errors] == [Conflict]
    assert (await ask(units_of_work, lambda uow: uow.relays.of(name)) or "").find("9000") == -1


@pytest.mark.postgres
async def test_nothing_is_kept_while_nothing_happens(postgres_units_of_work: UnitsOfWork):
    """An idle relay writes nothing."""
    name = await a_sink_name(postgres_units_of_work)
    before = await ask(postgres_units_of_work, lambda uow: uow.relays.of(name))
    relay = Relay(Services(units_of_work=postgres_units_of_work), name, ListSink())
    async with committed(postgres_units_of_work) as uow:
        await uow.grants(later(0))
        uow.projects.add(a_project())
    for _ in range(3):
        assert await relay.step() == (0, False)
    assert await ask(postgres_units_of_work, lambda uow: uow.relays.of(name)) == before
