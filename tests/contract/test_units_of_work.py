"""What every `UnitsOfWork` promises: all or nothing, reads that see the writes before them, and who may do what."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from entities import (
    NOW,
    a_profile,
    a_project,
    a_run,
    a_sensor,
    a_session,
    an_experiment,
    fresh,
    later,
)
from experiment_domain.kernel.access import Integration, Role, SensorToken, System, User
from experiment_domain.kernel.entity import Entity, Lock, StatusChange
from experiment_domain.kernel.errors import Conflict, Refusal, Unauthenticated, VersionMismatch
from experiment_domain.projects import Member
from experiment_domain.sensors import new_token, token_hash
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from keeping import SYSTEM, ask, committed, keep, kept, refused, repository, save

ANN = User(id="ann")


def _one_of_each() -> list[Entity]:
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment)
    sensor = a_sensor(project)
    return [project, experiment, run, a_session(run), sensor, a_profile(sensor)]


NOUNS = [type(entity).__name__ for entity in _one_of_each()]


def _next(entity: Any) -> Any:
    return evolve(entity, version=entity.version + 1, updated_at=later(entity.version))


async def test_what_is_committed_is_there(units_of_work: UnitsOfWork):
    entities = _one_of_each()
    async with units_of_work.begin(ANN) as uow:
        for entity in entities:
            repository(uow, entity).add(entity)
        await uow.commit()
    for entity in entities:
        assert await kept(units_of_work, entity) == entity


async def test_reads_see_the_writes_before_them(units_of_work: UnitsOfWork):
    async with units_of_work.begin(SYSTEM) as uow:
        for entity in _one_of_each():
            entities = repository(uow, entity)
            entities.add(entity)
            assert await entities.get(entity.id) == entity
            changed = _next(entity)
            entities.save(changed)
            assert await entities.get(entity.id, Lock.UPDATE) == changed


async def test_without_a_commit_nothing_is_left_behind(units_of_work: UnitsOfWork):
    before, added = _one_of_each(), _one_of_each()
    await keep(units_of_work, *before)
    project, experiment, run, session, sensor, _ = before
    async with units_of_work.begin(SYSTEM) as uow:
        for entity in added:
            repository(uow, entity).add(entity)
        for entity in before:
            repository(uow, entity).save(_next(entity))
        uow.projects.put_member(Member(project_id=project.id, user_id="ann", role=Role.OWNER, added_at=NOW))
        uow.sensors.renew_sign_of_life(sensor.id, later(9))
        uow.sensors.share(sensor.id, added[0].id, NOW, "ann")
        uow.history.record(_a_transition(experiment))
        uow.captures.remove(session)  # pyright: ignore[reportArgumentType]
        uow.runs.remove(run)  # pyright: ignore[reportArgumentType]
        assert await uow.runs.get(run.id) is None
    for entity in before:
        assert await kept(units_of_work, entity) == entity
    for entity in added:
        assert await kept(units_of_work, entity) is None
    async with units_of_work.begin(SYSTEM) as uow:
        assert list(await uow.projects.members(project.id)) == []
        assert list(await uow.sensors.projects_of(sensor.id)) == [project.id]
        assert list(await uow.history.of("experiment", experiment.id)) == []


def _a_transition(entity: Entity) -> StatusChange:
    return StatusChange(
        entity_type="experiment",
        entity_id=entity.id,
        project_id=entity.project_id,
        source="draft",
        target="running",
        at=NOW,
        actor="ann",
        role="owner",
    )


@pytest.mark.parametrize("error", [RuntimeError("broken"), Conflict("no", "No."), asyncio.CancelledError()])
async def test_an_error_leaves_nothing_behind(units_of_work: UnitsOfWork, error: BaseException):
    project = a_project()

    async def break_off() -> None:
        async with committed(units_of_work) as uow:
            uow.projects.add(project)
            assert await uow.projects.get(project.id) == project
            raise error

    with pytest.raises(type(error)):
        await break_off()
    assert await kept(units_of_work, project) is None


async def test_what_is_committed_before_an_error_stays(units_of_work: UnitsOfWork):
    project = a_project()

    async def break_off() -> None:
        async with units_of_work.begin(SYSTEM) as uow:
            uow.projects.add(project)
            await uow.commit()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await break_off()
    assert await kept(units_of_work, project) == project


async def test_a_commit_of_nothing(units_of_work: UnitsOfWork):
    async with units_of_work.begin(SYSTEM) as uow:
        await uow.commit()


@pytest.mark.parametrize("place", range(len(NOUNS)), ids=NOUNS)
async def test_ids_are_unique(units_of_work: UnitsOfWork, place: int):
    entities = _one_of_each()
    await keep(units_of_work, *entities)
    same = entities[place]
    if "ordinal" in dir(same):
        same = evolve(same, ordinal=99)  # pyright: ignore[reportCallIssue]
    if "profile_version" in dir(same):
        same = evolve(same, profile_version=99)  # pyright: ignore[reportCallIssue]
    async with refused(units_of_work, "already_exists") as uow:
        repository(uow, same).add(same)


STALE: dict[str, Callable[[Any], Any]] = {
    "same": lambda entity: evolve(entity, updated_at=later(9)),
    "older": lambda entity: evolve(entity, version=entity.version - 1),
    "two ahead": lambda entity: evolve(entity, version=entity.version + 2),
    "unknown": lambda entity: evolve(entity, id=fresh(), version=entity.version + 1),
}


@pytest.mark.parametrize("how", STALE)
@pytest.mark.parametrize("place", range(len(NOUNS)), ids=NOUNS)
async def test_only_the_next_version_is_saved(units_of_work: UnitsOfWork, place: int, how: str):
    entities = _one_of_each()
    await keep(units_of_work, *entities)
    entity = entities[place]
    current = _next(entity)
    await save(units_of_work, current)
    with pytest.raises(VersionMismatch):
        await save(units_of_work, STALE[how](current))
    assert await kept(units_of_work, entity) == current


async def test_what_is_gone_is_neither_saved_nor_removed(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    await keep(units_of_work, project, experiment)
    async with committed(units_of_work) as uow:
        uow.experiments.remove(experiment)
    async with refused(units_of_work, "version_mismatch") as uow:
        uow.experiments.save(_next(experiment))
    async with refused(units_of_work, "version_mismatch") as uow:
        uow.experiments.remove(experiment)


BAD_WRITES: dict[str, Callable[[UnitOfWork, list[Any]], None]] = {
    "version": lambda uow, them: uow.experiments.save(evolve(them[1], version=9)),
    "duplicate": lambda uow, them: uow.experiments.add(them[1]),
    "reference": lambda uow, _: uow.experiments.add(an_experiment()),
}


@pytest.mark.parametrize("how", BAD_WRITES)
async def test_of_a_refused_unit_of_work_nothing_is_done(units_of_work: UnitsOfWork, how: str):
    entities = _one_of_each()
    await keep(units_of_work, *entities)
    before, after = a_project(), a_project()
    codes = {"version": "version_mismatch", "duplicate": "already_exists", "reference": "reference_missing"}
    async with refused(units_of_work, codes[how]) as uow:
        uow.projects.add(before)
        BAD_WRITES[how](uow, entities)
        uow.projects.add(after)
    for project in (before, after):
        assert await kept(units_of_work, project) is None


@pytest.mark.parametrize("how", BAD_WRITES)
async def test_a_refusal_that_is_swallowed_cannot_be_committed(units_of_work: UnitsOfWork, how: str):
    entities = _one_of_each()
    await keep(units_of_work, *entities)
    project = a_project()
    async with units_of_work.begin(SYSTEM) as uow:
        uow.projects.add(project)
        BAD_WRITES[how](uow, entities)
        with pytest.raises(Conflict):  # by the read that sends the writes
            await uow.projects.get(project.id)
        with pytest.raises(Refusal):
            await uow.commit()
    assert await kept(units_of_work, project) is None


async def test_the_next_unit_of_work_knows_nothing_of_a_refused_one(units_of_work: UnitsOfWork):
    entities = _one_of_each()
    await keep(units_of_work, *entities)
    for number in range(12):  # as many as a pool has connections, and more
        with pytest.raises(Conflict):
            async with committed(units_of_work) as uow:
                list(BAD_WRITES.values())[number % len(BAD_WRITES)](uow, entities)
        added = _one_of_each()
        await keep(units_of_work, *added)
        for entity in added:
            assert await kept(units_of_work, entity) == entity


async def test_of_twenty_that_save_the_same_version_one_succeeds(units_of_work: UnitsOfWork):
    project = a_project()
    await keep(units_of_work, project)

    async def rename(number: int) -> bool:
        try:
            await save(units_of_work, project.edit(at=later(number), name=str(number)).result)
        except VersionMismatch:
            return False
        return True

    outcomes = await asyncio.gather(*map(rename, range(20)))
    assert outcomes.count(True) == 1
    assert (await kept(units_of_work, project)).name == str(outcomes.index(True))


@pytest.mark.parametrize("lock", [Lock.SHARE, Lock.UPDATE])
async def test_a_lock_holds_off_whoever_would_change_it(units_of_work: UnitsOfWork, lock: Lock):
    project = a_project()
    await keep(units_of_work, project)
    order: list[str] = []
    held = asyncio.Event()

    async def hold() -> None:
        async with committed(units_of_work) as uow:
            found = await uow.projects.get(project.id, lock)
            held.set()
            await asyncio.sleep(0.05)
            assert await uow.projects.get(project.id) == found
            order.append("held")

    async def change() -> None:
        await held.wait()
        async with committed(units_of_work) as uow:
            found = await uow.projects.get(project.id, Lock.UPDATE)
            assert found is not None
            order.append("changed")
            uow.projects.save(found.edit(at=later(1), name="B").result)

    await asyncio.gather(hold(), change())
    assert order == ["held", "changed"]
    assert (await kept(units_of_work, project)).name == "B"


async def test_read_modify_write_under_a_lock_loses_nothing(units_of_work: UnitsOfWork):
    project = a_project(name="0")
    await keep(units_of_work, project)

    async def count() -> None:
        async with committed(units_of_work) as uow:
            found = await uow.projects.get(project.id, Lock.UPDATE)
            assert found is not None
            await asyncio.sleep(0)
            uow.projects.save(found.edit(at=later(found.version), name=str(int(found.name) + 1)).result)

    await asyncio.gather(*(count() for _ in range(25)))
    found = await kept(units_of_work, project)
    assert (found.name, found.version) == ("25", 26)


async def test_who_waits_and_is_cancelled_holds_nobody_up(units_of_work: UnitsOfWork):
    project = a_project()
    await keep(units_of_work, project)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.projects.get(project.id, Lock.UPDATE) == project
        waiting = [
            asyncio.ensure_future(save(units_of_work, project.edit(at=later(1), name=str(number)).result))
            for number in range(3)
        ]
        await asyncio.sleep(0.02)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.sleep(0.02)
    await waiting[2]
    assert [task.cancelled() for task in waiting] == [True, True, False]
    assert (await kept(units_of_work, project)).name == "2"


async def test_a_users_grants_are_the_higher_of_token_and_membership(units_of_work: UnitsOfWork):
    projects = [a_project() for _ in range(4)]
    await keep(units_of_work, *projects)
    user = f"user {fresh()}"
    async with committed(units_of_work) as uow:
        for project, role in zip(projects, [Role.VIEWER, Role.OWNER, Role.EDITOR], strict=False):
            uow.projects.put_member(Member(project_id=project.id, user_id=user, role=role, added_at=NOW))
        uow.projects.put_member(Member(project_id=projects[3].id, user_id=f"{user} II", role=Role.OWNER, added_at=NOW))
    claims = {projects[0].id: Role.EDITOR, projects[1].id: Role.VIEWER, (elsewhere := fresh()): Role.VIEWER}
    async with units_of_work.begin(User(id=user, projects=claims), read_only=True) as uow:
        grants = await uow.grants(NOW)
    assert (grants.actor, grants.sensor_id, grants.everywhere) == (user, None, None)
    assert grants.roles == {
        projects[0].id: Role.EDITOR,
        projects[1].id: Role.OWNER,
        projects[2].id: Role.EDITOR,
        elsewhere: Role.VIEWER,
    }


async def test_grants_see_the_memberships_that_are_kept(units_of_work: UnitsOfWork):
    project = a_project()
    await keep(units_of_work, project)
    user = User(id=f"user {fresh()}")
    for role in (Role.OWNER, Role.VIEWER):
        async with committed(units_of_work) as uow:
            uow.projects.put_member(Member(project_id=project.id, user_id=user.id, role=role, added_at=NOW))
        async with units_of_work.begin(user) as uow:
            assert (await uow.grants(NOW)).roles == {project.id: role}
    async with committed(units_of_work) as uow:
        uow.projects.remove_member(project.id, user.id)
    async with units_of_work.begin(user) as uow:
        assert (await uow.grants(NOW)).roles == {}


async def test_the_service_itself_is_granted_everything(units_of_work: UnitsOfWork):
    async with units_of_work.begin(System()) as uow:
        grants = await uow.grants(NOW)
    assert (grants.actor, grants.everywhere) == ("system", Role.SYSTEM)


async def test_another_service_is_the_same_to_every_project(units_of_work: UnitsOfWork):
    async with units_of_work.begin(Integration(name="artifact-service")) as uow:
        grants = await uow.grants(NOW)
    assert (grants.actor, grants.everywhere) == ("integration:artifact-service", Role.INTEGRATION)
    assert (grants.roles, grants.sensor_id) == ({}, None)


async def test_a_sensors_token_grants_its_own_series(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    now = NOW
    tokens = [token_hash(new_token()) for _ in range(4)]
    alive = a_sensor(
        project,
        token_hash=tokens[0],
        previous_token_hash=tokens[1],
        previous_token_dies_at=now + timedelta(hours=1),
    )
    dead = a_sensor(
        project,
        token_hash=tokens[2],
        previous_token_hash=tokens[3],
        previous_token_dies_at=now - timedelta(seconds=1),
    )
    await keep(units_of_work, project, other, alive, dead)
    async with committed(units_of_work) as uow:
        uow.sensors.share(alive.id, other.id, NOW, "ann")
    for token, sensor in ((tokens[0], alive), (tokens[1], alive), (tokens[2], dead)):
        async with units_of_work.begin(SensorToken(token_hash=token)) as uow:
            grants = await uow.grants(NOW)
        assert (grants.actor, grants.sensor_id) == (f"sensor:{sensor.id}", sensor.id)
        assert (grants.roles, grants.everywhere) == ({project.id: Role.SENSOR}, None)
    for token in (tokens[3], token_hash(new_token())):
        async with units_of_work.begin(SensorToken(token_hash=token)) as uow:
            with pytest.raises(Unauthenticated):
                await uow.grants(NOW)


async def test_a_reader_sees_what_is_committed(units_of_work: UnitsOfWork):
    project = a_project()
    assert await ask(units_of_work, lambda uow: uow.projects.get(project.id, Lock.UPDATE)) is None
    await keep(units_of_work, project)
    assert await ask(units_of_work, lambda uow: uow.projects.get(project.id, Lock.SHARE)) == project


async def test_a_unit_of_work_that_only_reads_refuses_writes(units_of_work: UnitsOfWork):
    project = a_project()
    async with units_of_work.begin(SYSTEM, read_only=True) as uow:
        with pytest.raises(RuntimeError):
            uow.projects.add(project)
    assert await ask(units_of_work, lambda uow: uow.projects.get(project.id)) is None
