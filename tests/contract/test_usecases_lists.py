"""What lists can be asked for, through the door of the library, where no HTTP has looked at it before."""

import pytest

from entities import fresh
from experiment_domain.experiments import SORTS, ExperimentFilter
from experiment_domain.kernel.access import Role, User
from experiment_domain.kernel.errors import Invalid, NotFound
from experiment_domain.runs import RunFilter
from laboratory import Laboratory

ODD_SORTS = ["", "-", "--name", "(SELECT 1/0)", "name; DROP TABLE runs", "id", "name DESC", "NAME"]


@pytest.mark.parametrize("sort", ODD_SORTS)
async def test_a_sort_that_is_none_is_refused(lab: Laboratory, sort: str):
    experiment = await lab.experiment()
    for question in (
        lambda work: work.runs.page(RunFilter(project_ids=()), sort=sort),
        lambda work: work.runs.page_of_experiment(experiment.id, RunFilter(project_ids=()), sort=sort),
        lambda work: work.experiments.page(ExperimentFilter(project_ids=()), sort=sort),
    ):
        with pytest.raises(Invalid):
            await lab.ask(question)


@pytest.mark.parametrize("sort", [*SORTS, *(f"-{sort}" for sort in SORTS)])
async def test_every_sort_is_answered(lab: Laboratory, sort: str):
    run = await lab.run()
    found = await lab.ask(lambda work: work.runs.page(RunFilter(project_ids=[run.project_id]), sort=sort))
    assert [entry.id for entry in found.items] == [run.id]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (600, ["600", "600.0", "6e2"]),
        (0.5, ["0.5", "5e-1"]),
        (1e20, ["1e20", "100000000000000000000"]),
        ("600", ["600"]),
        (True, ["true"]),
        (None, ["null"]),
        ("water, cold", ["water, cold"]),
        ("", [""]),
    ],
)
async def test_a_param_is_found_by_the_text_of_its_value(lab: Laboratory, value: object, texts: list[str]):
    run = await lab.run(params={"p": value})
    await lab.run(params={"p": [value]})
    await lab.run(params={"q": value})
    for text in texts:
        which = RunFilter(project_ids=[run.project_id], params=[("p", text)])
        assert [entry.id for entry in (await lab.ask(lambda work, which=which: work.runs.page(which))).items] == [
            run.id
        ]
    for text in ("false", "1", "[600]", "nothing", "NaN"):
        which = RunFilter(project_ids=[run.project_id], params=[("p", text)])
        assert not (await lab.ask(lambda work, which=which: work.runs.page(which))).items


async def test_a_role_in_a_project_that_is_not_there_finds_nothing(lab: Laboratory):
    nowhere = fresh()
    claimant = User(id="claimant", projects={nowhere: Role.OWNER})
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.experiments.create(project_id=nowhere, name="E"), claimant)
    with pytest.raises(NotFound):
        await lab.do(
            lambda work: work.sensors.register(
                project_id=nowhere, name="S", sensor_type="k", input_unit="V", display_unit="V"
            ),
            claimant,
        )
