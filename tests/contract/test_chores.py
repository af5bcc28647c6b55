"""What every `ChoreBook` promises, and how chores are worked off."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from entities import a_project, a_sensor, fresh
from experiment_domain import Services, System
from experiment_domain.chores import ATTEMPTS, FIRST_PAUSE, LAID_ASIDE_FOR, LOSSES, VANISHED, Chore
from experiment_domain.idempotency import KEPT_FOR, IdempotencyKey, RememberedAnswer
from experiment_domain.sensors import SIGNS_KEPT_FOR, Sensor, SignsWindow
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases import chores
from experiment_domain.usecases.chores import ChoreWatcher, Routine, work_off_chores
from keeping import ask, committed, keep

NOTHING = timedelta()
LONG = timedelta(hours=1)
ADA, BEN = fresh(), fresh()


def a_name() -> str:
    return f"sweep {uuid4()}"


async def claim(units: UnitsOfWork, *names: str, worker=ADA, lasting: timedelta = LONG) -> Chore | None:
    async with committed(units) as uow:
        return await uow.chores.claim(names, worker, lasting)


async def test_a_new_chore_is_due_and_then_another_workers(units_of_work: UnitsOfWork):
    name = a_name()
    assert await claim(units_of_work, name) == Chore(name=name, attempts=1)
    assert await claim(units_of_work, name, worker=BEN) is None
    assert await claim(units_of_work) is None


async def test_whether_anything_is_due_can_be_asked(units_of_work: UnitsOfWork):
    new, resting = a_name(), a_name()
    await claim(units_of_work, resting)

    async def is_due(*names: str) -> bool:
        return await ask(units_of_work, lambda uow: uow.chores.is_due(names))

    assert [await is_due(new, resting), await is_due(resting), await is_due()] == [True, False, False]
    async with committed(units_of_work) as uow:
        uow.chores.done(resting, ADA, NOTHING)
    assert await is_due(resting)


async def test_what_was_due_first_is_done_first(units_of_work: UnitsOfWork):
    names = [a_name() for _ in range(3)]
    for name in names:
        async with committed(units_of_work) as uow:
            assert await uow.chores.claim([name], ADA, LONG) is not None
            uow.chores.done(name, ADA, NOTHING)
    found = [await claim(units_of_work, *sorted(names)) for _ in range(4)]
    assert [chore and chore.name for chore in found] == [*names, None]


async def test_a_chore_that_is_done_rests(units_of_work: UnitsOfWork):
    name = a_name()
    await claim(units_of_work, name)
    async with committed(units_of_work) as uow:
        uow.chores.done(name, ADA, LONG)
    assert await claim(units_of_work, name, worker=BEN) is None


async def test_a_lost_claim_counts_as_a_try_and_ends_nothing(units_of_work: UnitsOfWork):
    name = a_name()
    await claim(units_of_work, name, lasting=NOTHING)
    assert await claim(units_of_work, name, worker=BEN) == Chore(name=name, attempts=2)
    async with committed(units_of_work) as uow:
        uow.chores.done(name, ADA, NOTHING)
        uow.chores.failed(Chore(name=name, attempts=1), ADA, "too late")
    assert await claim(units_of_work, name) is None
    async with committed(units_of_work) as uow:
        uow.chores.done(name, BEN, NOTHING)
    assert await claim(units_of_work, name) == Chore(name=name, attempts=1)


async def test_a_chore_that_failed_waits_for_its_pause(units_of_work: UnitsOfWork):
    name = a_name()
    chore = await claim(units_of_work, name)
    assert chore is not None
    async with committed(units_of_work) as uow:
        uow.chores.failed(chore, ADA, "no\x01 " * 1000)
    assert await claim(units_of_work, name) is None


def test_pauses_grow_until_a_chore_is_laid_aside():
    pauses = [Chore(name="sweep", attempts=attempts).pause for attempts in range(1, LOSSES + 2)]
    assert pauses[: ATTEMPTS - 1] == [FIRST_PAUSE * 2**power for power in range(ATTEMPTS - 1)]
    assert set(pauses[ATTEMPTS - 1 :]) == {LAID_ASIDE_FOR}


@pytest.mark.parametrize("workers", [8])
async def test_of_many_workers_one_gets_it(units_of_work: UnitsOfWork, workers: int):
    names = [a_name() for _ in range(3)]
    found = await asyncio.gather(*(claim(units_of_work, *names, worker=fresh()) for _ in range(workers)))
    assert sorted(chore.name for chore in found if chore is not None) == sorted(names)


class Told(ChoreWatcher):
    def __init__(self) -> None:
        self.done_: list[tuple[str, int]] = []
        self.failed_: list[tuple[int, str]] = []

    def done(self, name: str, count: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.done_.append((name, count))

    def failed(self, chore: Chore, error: Exception | str) -> None:
        self.failed_.append((chore.attempts, str(error)))


async def test_what_fails_is_tried_again_and_laid_aside_while_others_go_on(
    units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experiment_domain.chores.FIRST_PAUSE", NOTHING)
    services, told, bad, good = Services(units_of_work=units_of_work), Told(), a_name(), a_name()

    async def broken(_services: Services, _is_over: Callable[[], bool]) -> int:
        raise ZeroDivisionError("poison")

    async def fine(_services: Services, _is_over: Callable[[], bool]) -> int:
        return 3

    routines = {bad: Routine(broken, LONG), good: Routine(fine, LONG)}
    assert await work_off_chores(services, routines=routines, watcher=told) == 1
    assert told.failed_ == [(attempts, "poison") for attempts in range(1, ATTEMPTS + 1)]
    assert told.done_ == [(good, 3)]
    assert await claim(units_of_work, bad) is None


async def test_what_was_laid_aside_begins_anew(units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiment_domain.chores.LAID_ASIDE_FOR", NOTHING)
    name = a_name()
    chore = Chore(name=name, attempts=ATTEMPTS)
    await claim(units_of_work, name)
    async with committed(units_of_work) as uow:
        uow.chores.failed(chore, ADA, "no")
    assert await claim(units_of_work, name) == Chore(name=name, attempts=1)


async def test_what_ends_its_workers_is_laid_aside(units_of_work: UnitsOfWork):
    services, told, name = Services(units_of_work=units_of_work), Told(), a_name()
    for _ in range(LOSSES):
        assert await claim(units_of_work, name, worker=fresh(), lasting=NOTHING) is not None

    async def never(_services: Services, _is_over: Callable[[], bool]) -> int:
        raise AssertionError("it was tried once more")

    assert await work_off_chores(services, routines={name: Routine(never, LONG)}, watcher=told) == 0
    assert told.failed_ == [(LOSSES + 1, VANISHED)]
    assert await claim(units_of_work, name) is None


async def test_what_did_not_come_to_its_end_is_due_at_once(units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chores, "TURN", 0.0)
    services, name, turns = Services(units_of_work=units_of_work), a_name(), list[bool]()

    async def endless(_services: Services, is_over: Callable[[], bool]) -> int:
        turns.append(is_over())
        return 1

    assert await work_off_chores(services, routines={name: Routine(endless, LONG)}, seconds=0.1) == len(turns) > 1
    assert all(turns)


async def test_nothing_is_begun_while_it_is_stopping(units_of_work: UnitsOfWork):
    services = Services(units_of_work=units_of_work)
    assert await work_off_chores(services, stopping=lambda: True) == 0


async def test_old_answers_are_forgotten(units_of_work: UnitsOfWork):
    services, told = Services(units_of_work=units_of_work), Told()
    async with committed(units_of_work) as uow:
        for age in (KEPT_FOR + timedelta(minutes=1), timedelta(hours=1)):
            answer = RememberedAnswer(fingerprint=b"f", content=b"c", answered_at=datetime.now(UTC) - age)
            uow.idempotency.remember(IdempotencyKey(principal="ada", key=str(fresh())), answer)
    routine = chores.CHORES["forget_first_answers"]
    assert await work_off_chores(services, routines={a_name(): routine}, watcher=told) == 1
    assert [count for _, count in told.done_] == [1]


async def give_signs(units: UnitsOfWork, sensor: Sensor, *ages: timedelta) -> None:
    async with units.begin(System()) as uow:
        for age in ages:
            uow.sensors.renew_sign_of_life(sensor.id, datetime.now(UTC) - age)
        await uow.commit()


async def test_old_signs_of_life_are_forgotten_however_many(
    units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chores, "FORGOTTEN_AT_ONCE", 4)
    services, told, project = Services(units_of_work=units_of_work), Told(), a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    old = [SIGNS_KEPT_FOR + timedelta(minutes=2 + number) for number in range(9)]
    await give_signs(units_of_work, sensor, *old, SIGNS_KEPT_FOR - timedelta(minutes=2), timedelta())
    routine = chores.CHORES["forget_signs_of_life"]
    await work_off_chores(services, routines={a_name(): routine}, watcher=told)
    assert [count for _, count in told.done_] == [9]
    window = SignsWindow.of(start=datetime.now(UTC) - 2 * SIGNS_KEPT_FOR, end=None, bucket=1_200, now=datetime.now(UTC))
    left = await ask(units_of_work, lambda uow: uow.sensors.signs_of_life(sensor.id, window))
    assert sum(signs.count for signs in left) == 2
