"""What every `ExperimentRepository` promises."""

from typing import Any

import pytest
from attrs import evolve

from entities import a_project, a_run, an_experiment, fresh, later
from experiment_domain.experiments import SORTS, Experiment, ExperimentFilter, ExperimentStatus
from experiment_domain.kernel.entity import Lock
from experiment_domain.projects import Project
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, committed, keep, kept, refused, save

JSON: dict[str, Any] = {
    "text": ODD_TEXT,
    "empty": "",
    "integers": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63)],
    "floats": [0.1, -2.5e-7, 1e16, 1.7976931348623157e308, 5e-324, 3.0],
    "flags": [True, False, None],
    "nested": {"a": {"b": [[], {}, [{"c": "d"}]]}},
    "ключ with spaces": 1,
}
FULL: dict[str, Any] = {
    "name": ODD_TEXT,
    "description": "two\nlines\tand a tab\r\n",
    "experiment_type": "",
    "tags": ("z", "a", ODD_TEXT),
    "metadata": JSON,
    "status": ExperimentStatus.FAILED,
    "started_at": later(-0.000001),
    "finished_at": later(86_400),
    "version": 3,
}


@pytest.mark.parametrize("values", [{}, FULL], ids=["plain", "full"])
async def test_every_field_comes_back(units_of_work: UnitsOfWork, values: dict[str, Any]):
    project = a_project()
    experiment = an_experiment(project, **values)
    await keep(units_of_work, project, experiment)
    found = await kept(units_of_work, experiment)
    assert found == experiment
    assert found.created_at.utcoffset().total_seconds() == 0
    assert type(found.status) is ExperimentStatus


async def test_json_numbers_keep_their_kind(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project, metadata={"numbers": [1, 1.0, 1e22, 1e300, True]})
    await keep(units_of_work, project, experiment)
    numbers = (await kept(units_of_work, experiment)).metadata["numbers"]
    assert numbers == [1, 1.0, 1e22, 1e300, True]
    assert [type(number) for number in numbers[:2]] == [int, float]
    assert numbers[4] is True


async def test_a_changed_experiment_is_kept(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project, description="old")
    await keep(units_of_work, project, experiment)
    edited = experiment.edit(at=later(1), name="B", tags=["x"], metadata={"a": 1}, description=None).result
    started = edited.start(at=later(2)).result
    await save(units_of_work, edited, started)
    assert await kept(units_of_work, experiment) == started


@pytest.mark.parametrize("lock", Lock)
async def test_the_experiment_of_a_run(units_of_work: UnitsOfWork, lock: Lock):
    project = a_project()
    one, other = an_experiment(project), an_experiment(project)
    run = a_run(other)
    await keep(units_of_work, project, one, other, run)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.experiments.of_run(run.id, lock) == other
        assert await uow.experiments.of_run(fresh(), lock) is None
        assert await uow.experiments.get(one.id, lock) == one
        assert await uow.experiments.get(fresh(), lock) is None


async def test_an_experiment_with_runs_is_not_removed(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment)
    await keep(units_of_work, project, experiment, run)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.experiments.remove(experiment)
    async with committed(units_of_work) as uow:
        uow.runs.remove(run)
        uow.experiments.remove(experiment)
    assert await kept(units_of_work, experiment) is None


async def test_an_experiment_is_of_a_project_that_is_there(units_of_work: UnitsOfWork):
    async with refused(units_of_work, "reference_missing") as uow:
        uow.experiments.add(an_experiment(a_project()))


async def _names(units: UnitsOfWork, project: Project, sort: str = "name", **values: Any) -> list[str]:
    which = ExperimentFilter(**{"project_ids": {project.id}, **values})
    page = await ask(units, lambda uow: uow.experiments.page(which, sort=sort, limit=100, after=None))
    return [experiment.name for experiment in page.items]


async def test_filters_narrow(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    experiments = [
        an_experiment(project, name="a", tags=("hot", "long"), experiment_type="creep", created_at=later(1)),
        an_experiment(project, name="b", tags=("hot",), experiment_type="fatigue", created_at=later(2)),
        an_experiment(project, name="c", tags=("cold", "long"), status=ExperimentStatus.RUNNING, created_at=later(3)),
        an_experiment(project, name="D 100%", description="Steel_316 \\ Über", created_at=later(4)),
    ]
    await keep(units_of_work, project, other, *experiments, an_experiment(other, name="e", tags=("hot",)))

    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["D 100%", "a", "b", "c"]),
        ({"project_ids": {other.id}}, ["e"]),
        ({"project_ids": {project.id, other.id}}, ["D 100%", "a", "b", "c", "e"]),
        ({"project_ids": {fresh()}}, []),
        ({"project_ids": ()}, []),
        ({"statuses": ["running"]}, ["c"]),
        ({"statuses": [ExperimentStatus.DRAFT, ExperimentStatus.RUNNING]}, ["D 100%", "a", "b", "c"]),
        ({"tags": ["hot"]}, ["a", "b"]),
        ({"tags": ["hot", "long"]}, ["a"]),
        ({"any_tags": ["cold", "hot"]}, ["a", "b", "c"]),
        ({"any_tags": ["cold"], "tags": ["long"]}, ["c"]),
        ({"tags": ["ho"]}, []),
        ({"experiment_types": ["creep"]}, ["a"]),
        ({"experiment_types": ["creep", "fatigue"]}, ["a", "b"]),
        ({"created_after": later(2)}, ["D 100%", "b", "c"]),
        ({"created_before": later(2)}, ["a"]),
        ({"created_after": later(2), "created_before": later(3)}, ["b"]),
        ({"words": "steel"}, ["D 100%"]),
        ({"words": "  316   d "}, ["D 100%"]),
        ({"words": "316 a"}, []),
        ({"words": "100%"}, ["D 100%"]),
        ({"words": "00"}, []),
        ({"words": "%"}, []),
        ({"words": "_"}, []),
        ({"words": "\\"}, []),
        ({"words": "über"}, ["D 100%"]),
        ({"words": " "}, ["D 100%", "a", "b", "c"]),
        ({"statuses": ["draft"], "tags": ["hot"], "experiment_types": ["fatigue"], "words": "b"}, ["b"]),
    ]
    for values, names in expected:
        assert await _names(units_of_work, project, **values) == names, values


def _in_order(experiments: list[Experiment], sort: str) -> list[Experiment]:
    field, descending = sort.removeprefix("-"), sort.startswith("-")
    present = [it for it in experiments if getattr(it, field) is not None]
    absent = [it for it in experiments if getattr(it, field) is None]
    return [
        *sorted(present, key=lambda it: (getattr(it, field), it.id), reverse=descending),
        *sorted(absent, key=lambda it: it.id, reverse=descending),
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("sort", [f"{way}{name}" for name in SORTS for way in ("", "-")])
async def test_pages_continue_where_the_one_before_ended(units_of_work: UnitsOfWork, sort: str, limit: int):
    project = a_project()
    # Ties, absent values and, for names, an order that only code points give.
    names = ["b", "B", "a", "ä", "Z", "é", "e\u0301", "a", "", "𝒜", "\uffff"]
    moments = [later(3), None, later(1), later(1), None, later(2), later(1.000001), later(3), None]
    experiments = [
        an_experiment(
            project,
            name=names[number % len(names)],
            created_at=later(number % 4),
            started_at=moments[number % len(moments)],
            finished_at=moments[(number * 2) % len(moments)],
        )
        for number in range(13)
    ]
    await keep(units_of_work, project, *reversed(experiments))
    which = ExperimentFilter(project_ids={project.id})

    pages = await all_pages(
        lambda limit, after: ask(
            units_of_work, lambda uow: uow.experiments.page(which, sort=sort, limit=limit, after=after)
        ),
        limit,
    )

    assert [one for page in pages for one in page] == _in_order(experiments, sort)


async def test_rows_that_are_added_meanwhile_move_nothing(units_of_work: UnitsOfWork):
    project = a_project()
    experiments = [an_experiment(project, name=str(number), created_at=later(number)) for number in range(6)]
    await keep(units_of_work, project, *experiments)
    which = ExperimentFilter(project_ids={project.id})
    first = await ask(units_of_work, lambda uow: uow.experiments.page(which, sort="-created_at", limit=3, after=None))
    await keep(units_of_work, *(evolve(an_experiment(project), created_at=later(99)) for _ in range(3)))
    second = await ask(
        units_of_work, lambda uow: uow.experiments.page(which, sort="-created_at", limit=3, after=first.next)
    )
    assert [it.name for it in (*first.items, *second.items)] == ["5", "4", "3", "2", "1", "0"]
