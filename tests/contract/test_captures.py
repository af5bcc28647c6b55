"""What every `CaptureSessionRepository` promises."""

from typing import Any

import pytest
from attrs import evolve

from entities import a_profile, a_project, a_run, a_sensor, a_session, an_experiment, fresh, later
from experiment_domain.captures import CaptureSession, CaptureStatus, Pin
from experiment_domain.kernel.entity import Lock
from experiment_domain.runs import Run, RunStatus
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, committed, keep, kept, refused, save


async def _a_kept_run(units: UnitsOfWork) -> Run:
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment)
    await keep(units, project, experiment, run)
    return run


async def _pins(units: UnitsOfWork, run: Run, count: int) -> tuple[Pin, ...]:
    sensors = [evolve(a_sensor(), project_id=run.project_id) for _ in range(count)]
    profiles = [a_profile(sensor, profile_version=7) for sensor in sensors[1:]]
    await keep(units, *sensors, *profiles)
    return (
        Pin(sensor_id=sensors[0].id, profile_id=None, profile_version=None),
        *(Pin(sensor_id=profile.sensor_id, profile_id=profile.id, profile_version=7) for profile in profiles),
    )


@pytest.mark.parametrize("lock", Lock)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, lock: Lock):
    run = await _a_kept_run(units_of_work)
    plain = a_session(run)
    full = a_session(
        run,
        ordinal=2,
        notes=ODD_TEXT,
        status=CaptureStatus.SUCCEEDED,
        started_at=later(0.000001),
        stopped_at=later(9),
        # Pins keep their order, which is not that of their ids.
        pins=tuple(reversed(await _pins(units_of_work, run, 3))),
        version=4,
    )
    await keep(units_of_work, plain, full)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.captures.get(plain.id, lock) == plain
        assert await uow.captures.get(full.id, lock) == full
        assert await uow.captures.get(fresh(), lock) is None
        assert list(await uow.captures.of_runs([run.id], lock)) == [plain, full]


async def test_a_session_is_kept_through_its_life(units_of_work: UnitsOfWork):
    run = evolve(await _a_kept_run(units_of_work), status=RunStatus.RUNNING)
    session = a_session(run)
    pins = await _pins(units_of_work, run, 2)
    await keep(units_of_work, session)
    started = session.start(run=run, pins=pins, running_sessions=(), at=later(1)).result
    await save(units_of_work, started)
    assert await kept(units_of_work, session) == started
    stopped = started.stop(CaptureStatus.FAILED, at=later(2)).result
    await save(units_of_work, stopped)
    assert await kept(units_of_work, session) == stopped
    archived = stopped.archive(at=later(3)).result
    await save(units_of_work, archived)
    assert await kept(units_of_work, session) == archived


async def test_a_deleted_session_is_found_only_by_who_asks_for_it(units_of_work: UnitsOfWork):
    run = await _a_kept_run(units_of_work)
    (pin,) = await _pins(units_of_work, run, 1)
    deleted = a_session(run, status=CaptureStatus.FAILED, pins=(pin,), deleted_at=later(1))
    shown = a_session(run, ordinal=2)
    await keep(units_of_work, deleted, shown)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.captures.get(deleted.id) is None
        assert await uow.captures.get(deleted.id, Lock.UPDATE) is None
        assert await uow.captures.get(deleted.id, deleted=True) == deleted
        assert await uow.captures.get(shown.id, deleted=True) == shown
        assert list(await uow.captures.of_runs([run.id])) == [shown]
        assert list((await uow.captures.page(run.id, limit=9, after=None)).items) == [shown]
        # It keeps its number, its run and its sensor's record all the same.
        assert await uow.captures.next_ordinal(run.id) == 3
        assert await uow.captures.any_with(pin.sensor_id)
        uow.captures.remove(shown)
        assert await uow.captures.any_in(run.id)
    restored = deleted.restore(at=later(2)).result
    await save(units_of_work, restored)
    assert await kept(units_of_work, deleted) == restored


async def test_what_is_active(units_of_work: UnitsOfWork):
    run, other = await _a_kept_run(units_of_work), await _a_kept_run(units_of_work)
    here, there = await _pins(units_of_work, run, 2)
    active = a_session(run, status=CaptureStatus.RUNNING, pins=(here, there))
    elsewhere = a_session(other, status=CaptureStatus.RUNNING, pins=(there,))
    over = a_session(run, ordinal=2, status=CaptureStatus.SUCCEEDED, pins=(here,))
    await keep(units_of_work, active, elsewhere, over, a_session(run, ordinal=3))
    unused = evolve(a_sensor(), project_id=run.project_id)
    await keep(units_of_work, unused)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.captures.active_in([run.id, fresh()]) == {run.id: [active.id]}
        assert await uow.captures.active_in([fresh()]) == {}
        assert list(await uow.captures.active_with(here.sensor_id)) == [active.id]
        assert set(await uow.captures.active_with(there.sensor_id)) == {active.id, elsewhere.id}
        assert list(await uow.captures.active_with(there.sensor_id, other.id)) == [elsewhere.id]
        assert list(await uow.captures.active_with(here.sensor_id, other.id)) == []
        assert [await uow.captures.any_with(it) for it in (here.sensor_id, unused.id)] == [True, False]
    stopped = active.stop(CaptureStatus.SUCCEEDED, at=later(1)).result
    await save(units_of_work, stopped)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.captures.active_in([run.id]) == {}
        assert list(await uow.captures.active_with(here.sensor_id)) == []


async def test_a_run_has_at_most_one_running_session(units_of_work: UnitsOfWork):
    run = await _a_kept_run(units_of_work)
    running = a_session(run, status=CaptureStatus.RUNNING)
    draft = a_session(run, ordinal=2)
    await keep(units_of_work, running, draft)
    async with refused(units_of_work, "session_already_running") as uow:
        uow.captures.save(evolve(draft, version=2, status=CaptureStatus.RUNNING))
    async with refused(units_of_work, "session_already_running") as uow:
        uow.captures.add(a_session(run, ordinal=3, status=CaptureStatus.RUNNING))
    # One stops and the next one starts in the same unit of work.
    stopped = running.stop(CaptureStatus.FAILED, at=later(1)).result
    await save(units_of_work, stopped, evolve(draft, version=2, status=CaptureStatus.RUNNING))
    assert [it.status for it in await ask(units_of_work, lambda uow: uow.captures.of_runs([run.id]))] == [
        "failed",
        "running",
    ]


async def test_sessions_of_a_run_are_numbered_apart(units_of_work: UnitsOfWork):
    run, other = await _a_kept_run(units_of_work), await _a_kept_run(units_of_work)
    assert await ask(units_of_work, lambda uow: uow.captures.next_ordinal(run.id)) == 1
    await keep(units_of_work, a_session(run), a_session(run, ordinal=5), a_session(other))
    assert await ask(units_of_work, lambda uow: uow.captures.next_ordinal(run.id)) == 6
    assert await ask(units_of_work, lambda uow: uow.captures.next_ordinal(other.id)) == 2
    async with refused(units_of_work, "ordinal_taken") as uow:
        uow.captures.add(a_session(run, ordinal=5))


BAD_PINS: dict[str, Any] = {
    "sensor": lambda pin: evolve(pin, sensor_id=fresh()),
    "profile": lambda pin: evolve(pin, profile_id=fresh()),
}


@pytest.mark.parametrize("what", BAD_PINS)
async def test_what_is_pinned_is_there(units_of_work: UnitsOfWork, what: str):
    run = await _a_kept_run(units_of_work)
    _, pin = await _pins(units_of_work, run, 2)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.captures.add(a_session(run, pins=(BAD_PINS[what](pin),)))


async def test_a_session_is_of_a_run_that_is_there(units_of_work: UnitsOfWork):
    async with refused(units_of_work, "reference_missing") as uow:
        uow.captures.add(a_session())


async def test_a_draft_is_removed(units_of_work: UnitsOfWork):
    run = await _a_kept_run(units_of_work)
    draft = a_session(run)
    await keep(units_of_work, draft)
    assert await ask(units_of_work, lambda uow: uow.captures.any_in(run.id))
    async with committed(units_of_work) as uow:
        uow.captures.remove(draft)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.captures.get(draft.id, deleted=True) is None
        assert not await uow.captures.any_in(run.id)


@pytest.mark.parametrize("limit", [1, 3])
async def test_pages_are_newest_first(units_of_work: UnitsOfWork, limit: int):
    run, other = await _a_kept_run(units_of_work), await _a_kept_run(units_of_work)
    statuses = [CaptureStatus.SUCCEEDED, CaptureStatus.FAILED, CaptureStatus.DRAFT]
    sessions = [
        a_session(run, ordinal=number + 1, status=statuses[number % 3], created_at=later(number)) for number in range(7)
    ]
    await keep(units_of_work, *sessions, a_session(other))

    async def ordinals(*wanted: CaptureStatus) -> list[int]:
        pages = await all_pages(
            lambda limit, after: ask(
                units_of_work, lambda uow: uow.captures.page(run.id, statuses=wanted, limit=limit, after=after)
            ),
            limit,
        )
        found: list[CaptureSession] = [session for page in pages for session in page]
        return [session.ordinal for session in found]

    assert await ordinals() == [7, 6, 5, 4, 3, 2, 1]
    assert await ordinals(CaptureStatus.SUCCEEDED) == [7, 4, 1]
    assert await ordinals(CaptureStatus.FAILED, CaptureStatus.DRAFT) == [6, 5, 3, 2]
    assert await ordinals(CaptureStatus.RUNNING) == []
