"""What every `RunRepository` promises."""

from typing import Any

import pytest
from attrs import evolve

from entities import a_profile, a_project, a_run, a_sensor, a_session, an_experiment, fresh, later
from experiment_domain.captures import CaptureStatus, Pin
from experiment_domain.experiments import SORTS
from experiment_domain.kernel.entity import Lock
from experiment_domain.projects import Project
from experiment_domain.runs import Run, RunFilter, RunSensor, RunStatus
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, committed, keep, kept, refused, save

FULL: dict[str, Any] = {
    "name": ODD_TEXT,
    "params": {"rate": 0.5, "dry": True, "grade": "316L", "n": 3, "nothing": None, "list": [1, "2", [None]]},
    "tags": ("b", "a"),
    "metadata": {ODD_TEXT: {ODD_TEXT: [ODD_TEXT]}},
    "git_sha": "0123456789abcdef0123456789abcdef01234567",
    "env": {"PATH": "/usr/bin:/bin", "n": 1},
    "notes": "two\nlines",
    "participants": ("zoë", "ann"),
    "auto_close_after": 0.001,
    "status": RunStatus.FINISHED,
    "started_at": later(0.000001),
    "finished_at": later(0.000002),
    "version": 12,
}


@pytest.mark.parametrize("values", [{}, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("lock", Lock)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, values: dict[str, Any], lock: Lock):
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment, **values)
    await keep(units_of_work, project, experiment, run)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.runs.get(run.id, lock) == run
        assert await uow.runs.get(fresh(), lock) is None


async def test_a_changed_run_is_kept(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment, **FULL)
    await keep(units_of_work, project, experiment, run)
    edited = evolve(
        a_run(experiment, name="B"), id=run.id, version=run.version + 1, created_at=run.created_at, updated_at=later(9)
    )
    await save(units_of_work, edited)
    assert await kept(units_of_work, run) == edited


async def test_a_run_is_of_an_experiment_that_is_there(units_of_work: UnitsOfWork):
    async with refused(units_of_work, "reference_missing") as uow:
        uow.runs.add(a_run())


async def test_a_run_with_sessions_is_not_removed(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment)
    session = a_session(run)
    await keep(units_of_work, project, experiment, run, session)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.runs.remove(run)
    async with committed(units_of_work) as uow:
        uow.captures.remove(session)
        uow.runs.remove(run)
    assert await kept(units_of_work, run) is None


async def test_what_runs_in_an_experiment(units_of_work: UnitsOfWork):
    project = a_project()
    one, other, empty = (an_experiment(project) for _ in range(3))
    running = [a_run(one, status=RunStatus.RUNNING) for _ in range(2)]
    quiet = [a_run(one), a_run(other, status=RunStatus.FINISHED)]
    await keep(units_of_work, project, one, other, empty, *running, *quiet)
    async with units_of_work.begin(SYSTEM) as uow:
        assert set(await uow.runs.running_in(one.id)) == {run.id for run in running}
        assert list(await uow.runs.running_in(other.id)) == []
        assert [await uow.runs.any_in(it.id) for it in (one, other, empty)] == [True, True, False]


async def test_sensors_are_bound_once_and_in_order(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run, other = a_run(experiment), a_run(experiment)
    sensors = [a_sensor(project) for _ in range(4)]
    await keep(units_of_work, project, experiment, run, other, *sensors)
    moments = [later(2), later(1), later(1), later(3)]
    bindings = [
        RunSensor(run_id=run.id, sensor_id=sensor.id, bound_at=at, bound_by=ODD_TEXT)
        for sensor, at in zip(sensors, moments, strict=True)
    ]
    async with committed(units_of_work) as uow:
        for binding in reversed(bindings):
            uow.runs.bind(binding)
        uow.runs.bind(evolve(bindings[0], run_id=other.id))
    async with committed(units_of_work) as uow:
        uow.runs.bind(evolve(bindings[0], bound_at=later(0), bound_by="somebody else"))
    expected = [bindings[place] for place in (1, 2, 0, 3)]
    assert list(await ask(units_of_work, lambda uow: uow.runs.sensors_of(run.id))) == expected
    assert list(await ask(units_of_work, lambda uow: uow.runs.bound_to(sensors[0].id))) == [run, other]

    async with committed(units_of_work) as uow:
        uow.runs.unbind(run.id, sensors[0].id)
        uow.runs.unbind(run.id, fresh())
    assert list(await ask(units_of_work, lambda uow: uow.runs.sensors_of(run.id))) == [*expected[:2], bindings[3]]
    assert len(await ask(units_of_work, lambda uow: uow.runs.sensors_of(other.id))) == 1
    assert list(await ask(units_of_work, lambda uow: uow.runs.sensors_of(fresh()))) == []
    assert list(await ask(units_of_work, lambda uow: uow.runs.bound_to(sensors[0].id))) == [other]
    assert list(await ask(units_of_work, lambda uow: uow.runs.bound_to(fresh()))) == []


async def test_runs_and_sensors_that_are_bound_are_there(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run, sensor = a_run(experiment), a_sensor(project)
    await keep(units_of_work, project, experiment, run, sensor)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.runs.bind(RunSensor(run_id=fresh(), sensor_id=sensor.id, bound_at=later(0), bound_by="ann"))
    async with refused(units_of_work, "reference_missing") as uow:
        uow.runs.bind(RunSensor(run_id=run.id, sensor_id=fresh(), bound_at=later(0), bound_by="ann"))


async def test_a_run_is_removed_with_its_bindings(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run, sensor = a_run(experiment), a_sensor(project)
    await keep(units_of_work, project, experiment, run, sensor)
    async with committed(units_of_work) as uow:
        uow.runs.bind(RunSensor(run_id=run.id, sensor_id=sensor.id, bound_at=later(0), bound_by="ann"))
    async with committed(units_of_work) as uow:
        uow.runs.remove(run)
    async with committed(units_of_work) as uow:
        assert await uow.runs.get(run.id) is None
        assert list(await uow.runs.sensors_of(run.id)) == []
        uow.sensors.remove(sensor)


async def _names(units: UnitsOfWork, project: Project, **values: Any) -> str:
    which = RunFilter(**{"project_ids": {project.id}, **values})
    page = await ask(units, lambda uow: uow.runs.page(which, sort="name", limit=100, after=None))
    return "".join(run.name for run in page.items)


async def test_filters_narrow(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    one, two = an_experiment(project), an_experiment(project)
    foreign = an_experiment(other)
    a = a_run(
        one,
        name="a",
        tags=("hot", "long"),
        git_sha="abcdef0123",
        participants=("ann", "ben"),
        params={"rate": 0.5, "dry": True, "grade": "316L", "n": 3},
        notes="first light at the Über-rig",
        created_at=later(1),
    )
    b = a_run(
        one,
        name="b",
        tags=("hot",),
        git_sha="abcdef9999",
        participants=("ben",),
        params={"rate": 0.5, "dry": "true", "grade": "304", "n": "3", "quote": 'say "hi"'},
        status=RunStatus.RUNNING,
        created_at=later(2),
        started_at=later(20),
    )
    c = a_run(
        two,
        name="c",
        tags=("cold", "long"),
        git_sha="fedcba0123",
        participants=("eve",),
        params={"rate": 1, "dry": False, "rates": [0.5], "inner": {"grade": "316L"}},
        status=RunStatus.FAILED,
        notes="50% LIGHT",
        created_at=later(3),
        started_at=later(30),
    )
    d = a_run(two, name="d", created_at=later(4), started_at=later(40))
    x = a_run(foreign, name="x", tags=("hot",))
    sensors = [a_sensor(project) for _ in range(3)]
    profiles = [a_profile(sensor) for sensor in sensors]
    pins = [
        Pin(sensor_id=sensor.id, profile_id=profile.id, profile_version=1)
        for sensor, profile in zip(sensors, profiles, strict=True)
    ]
    sessions = [
        a_session(a, pins=(pins[0],), status=CaptureStatus.SUCCEEDED),
        a_session(a, ordinal=2, pins=(pins[0], pins[1]), status=CaptureStatus.RUNNING),
        a_session(b, pins=(pins[1], evolve(pins[0], profile_id=None, profile_version=None))),
        a_session(c, pins=(pins[2],), status=CaptureStatus.FAILED, deleted_at=later(50)),
    ]
    await keep(units_of_work, project, other, one, two, foreign, a, b, c, d, x, *sensors, *profiles, *sessions)
    async with committed(units_of_work) as uow:
        for run, sensor in ((a, 0), (a, 1), (b, 1), (c, 2)):
            uow.runs.bind(RunSensor(run_id=run.id, sensor_id=sensors[sensor].id, bound_at=later(0), bound_by="ann"))

    expected: list[tuple[dict[str, Any], str]] = [
        ({}, "abcd"),
        ({"project_ids": {other.id}}, "x"),
        ({"project_ids": {other.id, project.id}}, "abcdx"),
        ({"project_ids": ()}, ""),
        ({"experiment_ids": [one.id]}, "ab"),
        ({"experiment_ids": [one.id, two.id, foreign.id]}, "abcd"),
        ({"experiment_ids": [foreign.id]}, ""),
        ({"statuses": [RunStatus.RUNNING, RunStatus.FAILED]}, "bc"),
        ({"tags": ["hot"]}, "ab"),
        ({"tags": ["long", "hot"]}, "a"),
        ({"any_tags": ["cold", "hot"]}, "abc"),
        ({"tags": ["long"], "any_tags": ["cold", "hot"]}, "ac"),
        ({"git_shas": ["abcdef0"]}, "a"),
        ({"git_shas": ["abcdef9999"]}, "b"),
        ({"git_shas": ["abcdef", "fedcba0"]}, "abc"),
        ({"git_shas": ["abcdef01234"]}, ""),
        ({"git_shas": ["bcdef01"]}, ""),
        ({"participants": ["ben"]}, "ab"),
        ({"participants": ["ann", "eve"]}, "ac"),
        ({"participants": ["be"]}, ""),
        ({"sensor_ids": [sensors[1].id]}, "ab"),
        ({"sensor_ids": [sensors[0].id, sensors[2].id]}, "ac"),
        ({"sensor_ids": [fresh()]}, ""),
        ({"profile_ids": [profiles[0].id]}, "a"),
        ({"profile_ids": [profiles[1].id]}, "ab"),
        ({"profile_ids": [profiles[2].id]}, ""),  # of a session that is deleted
        ({"created_after": later(2)}, "bcd"),
        ({"created_before": later(2)}, "a"),
        ({"created_after": later(2), "created_before": later(4)}, "bc"),
        ({"started_after": later(20)}, "bcd"),
        ({"started_before": later(40)}, "bc"),
        ({"started_after": later(20.000001), "started_before": later(40)}, "c"),
        ({"params": [("grade", "316L")]}, "a"),
        ({"params": [("grade", "316L"), ("grade", "304")]}, "ab"),
        ({"params": [("grade", "316L"), ("grade", "304"), ("n", "3")]}, "ab"),
        ({"params": [("grade", "316L"), ("rate", "1")]}, ""),
        ({"params": [("dry", "true")]}, "ab"),
        ({"params": [("dry", "false")]}, "c"),
        ({"params": [("rate", "0.5")]}, "ab"),
        ({"params": [("rate", "1")]}, "c"),
        ({"params": [("n", "3")]}, "ab"),
        ({"params": [("quote", 'say "hi"')]}, "b"),
        ({"params": [("missing", "")]}, ""),
        ({"params": [("grade", "316l")]}, ""),
        ({"words": "LIGHT"}, "ac"),
        ({"words": "light rig"}, "a"),
        ({"words": "c light"}, "c"),
        ({"words": "über-RIG"}, "a"),
        ({"words": "lig"}, "ac"),
        ({"words": "ight"}, ""),
        ({"words": "50%"}, "c"),
        ({"words": "%"}, ""),
        ({"words": " "}, "abcd"),
        (
            {
                "experiment_ids": [one.id],
                "statuses": ["draft"],
                "tags": ["hot"],
                "git_shas": ["abcdef0"],
                "participants": ["ann"],
                "sensor_ids": [sensors[0].id],
                "profile_ids": [profiles[1].id],
                "created_after": later(0),
                "params": [("n", "3")],
                "words": "light",
            },
            "a",
        ),
    ]
    for values, names in expected:
        assert await _names(units_of_work, project, **values) == names, values


def _in_order(runs: list[Run], sort: str) -> list[Run]:
    field, descending = sort.removeprefix("-"), sort.startswith("-")
    present = [run for run in runs if getattr(run, field) is not None]
    absent = [run for run in runs if getattr(run, field) is None]
    return [
        *sorted(present, key=lambda run: (getattr(run, field), run.id), reverse=descending),
        *sorted(absent, key=lambda run: run.id, reverse=descending),
    ]


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("sort", [f"{way}{name}" for name in SORTS for way in ("", "-")])
async def test_pages_continue_where_the_one_before_ended(units_of_work: UnitsOfWork, sort: str, limit: int):
    project = a_project()
    experiment = an_experiment(project)
    moments = [None, later(2), later(1), None, later(1), later(3)]
    runs = [
        a_run(
            experiment,
            name="äaZ_b𝒜"[number % 6],
            tags=("odd",) if number % 2 else (),
            created_at=later(number % 3),
            started_at=moments[number % 6],
            finished_at=moments[number * 5 % 6],
        )
        for number in range(11)
    ]
    await keep(units_of_work, project, experiment, *reversed(runs))
    for which, wanted in (
        (RunFilter(project_ids={project.id}), runs),
        (RunFilter(project_ids={project.id}, tags=["odd"]), runs[1::2]),
    ):
        pages = await all_pages(
            lambda limit, after: ask(
                units_of_work,
                lambda uow: uow.runs.page(which, sort=sort, limit=limit, after=after),  # noqa: B023
            ),
            limit,
        )
        assert [run for page in pages for run in page] == _in_order(wanted, sort)
