"""What every `ScalarMetrics` promises, what may be logged to a run, and how runs compare by it."""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities import NOW, a_batch, a_column, a_project, a_run, an_experiment, fresh, later
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from experiment_domain.runs import Run
from experiment_domain.scalars import LAST_STEP, NAMES, SCALARS, Logged, Place, Scalar
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.store import Layer
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ask, committed, keep
from laboratory import Laboratory
from strategies import finite_floats


async def a_kept_run(units: UnitsOfWork) -> Run:
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment)
    await keep(units, project, experiment, run)
    return run


async def append(units: UnitsOfWork, run_id: UUID, scalars: Sequence[Scalar]) -> None:
    async with committed(units) as uow:
        await uow.scalars.hold(run_id, {scalar.name for scalar in scalars})
        uow.scalars.append(run_id, scalars)


async def history(units: UnitsOfWork, run_id: UUID, names: Sequence[str], limit: int = 100_000) -> list[Scalar]:
    """Every page."""
    found: list[Scalar] = []
    after: Place | None = None
    while True:
        page = await ask(units, lambda uow: uow.scalars.history(run_id, names, limit=limit, after=after))  # noqa: B023
        assert len(page.items) <= limit
        found += page.items
        if page.next is None:
            return found
        assert len(page.items) == limit
        after = page.next


def a_scalar(step: int, value: float = 0.0, name: str = "loss") -> Scalar:
    return Scalar(name=name, value=value, step=step, timestamp=NOW)


async def test_what_is_logged_comes_back_as_it_is(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    run = await a_kept_run(units_of_work)
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, -1e-7]
    times = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NOW, NOW, NOW]
    steps = [-LAST_STEP - 1, -1, 0, 1, LAST_STEP]
    scalars = [
        Scalar(name="loss", value=value, step=step, timestamp=at)
        for value, step, at in zip(values, steps, times, strict=True)
    ]
    await append(units_of_work, run.id, scalars)
    assert repr(await history(units_of_work, run.id, ["loss"])) == repr(scalars)
    assert await ask(units_of_work, lambda uow: uow.scalars.latest([run.id])) == {run.id: [scalars[-1]]}
    known = await ask_held(units_of_work, run.id, ["loss", "none"])
    assert known == (1, {"loss": LAST_STEP})


async def ask_held(units: UnitsOfWork, run_id: UUID, names: Sequence[str]) -> tuple[int, dict[str, int]]:
    async with committed(units) as uow:
        known = await uow.scalars.hold(run_id, names)
    return known.names, dict(known.last_steps)


async def test_a_run_without_any(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    run = await a_kept_run(units_of_work)
    assert await history(units_of_work, run.id, ["loss"]) == []
    assert await ask(units_of_work, lambda uow: uow.scalars.latest([run.id, fresh()])) == {}
    assert not await ask(units_of_work, lambda uow: uow.scalars.any_in(run.id))
    await append(units_of_work, run.id, [a_scalar(0)])
    assert await ask(units_of_work, lambda uow: uow.scalars.any_in(run.id))


async def test_runs_are_kept_apart(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    one, other = await a_kept_run(units_of_work), await a_kept_run(units_of_work)
    await append(units_of_work, one.id, [a_scalar(0, 1.0)])
    await append(units_of_work, other.id, [a_scalar(0, 2.0)])
    assert [scalar.value for scalar in await history(units_of_work, one.id, ["loss"])] == [1.0]
    latest = await ask(units_of_work, lambda uow: uow.scalars.latest([one.id, other.id]))
    assert {run_id: scalars[0].value for run_id, scalars in latest.items()} == {one.id: 1.0, other.id: 2.0}


async def test_many_of_one_name(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    run = await a_kept_run(units_of_work)
    scalars = [a_scalar(step, step / 7) for step in range(3_000)]
    for start in range(0, 2_500, 25):
        await append(units_of_work, run.id, scalars[start : start + 25])
    await append(units_of_work, run.id, scalars[2_500:])
    for limit in (999, 3_000):
        assert await history(units_of_work, run.id, ["loss"], limit) == scalars


NAMED = st.sampled_from(["loss", "Loss", "a", "größe"])
LOGGED = st.lists(st.tuples(NAMED, st.integers(-3, 20), finite_floats()), min_size=1, max_size=90)


@pytest.mark.timeout(3_600)  # for the nights, when far more is tried
def test_any_values_are_found_as_the_model_says(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    @given(st.lists(LOGGED, min_size=1, max_size=5), st.sets(NAMED, min_size=1), st.integers(1, 40))
    def agrees(calls: list[list[tuple[str, int, float]]], names: set[str], limit: int) -> None:
        runner.run(_agrees(units_of_work, calls, names, limit))

    agrees()


async def _agrees(
    units: UnitsOfWork, calls: Sequence[Sequence[tuple[str, int, float]]], names: set[str], limit: int
) -> None:
    run = await a_kept_run(units)
    received: list[Scalar] = []
    for number, call in enumerate(calls):
        scalars = [Scalar(name=name, value=value, step=step, timestamp=later(number)) for name, step, value in call]
        await append(units, run.id, scalars)
        received += scalars
    # Sorting is stable: of one name and step, in the order of arrival.
    ordered = sorted(received, key=lambda scalar: (scalar.step, scalar.name))
    assert await history(units, run.id, sorted(names), limit) == [it for it in ordered if it.name in names]
    latest = {scalar.name: scalar for scalar in ordered}
    found = await ask(units, lambda uow: uow.scalars.latest([run.id]))
    assert list(found[run.id]) == [latest[name] for name in sorted(latest)]
    steps = {name: latest[name].step for name in latest if name in names}
    assert await ask_held(units, run.id, sorted(names)) == (len(latest), steps)


@pytest.mark.covers("scalars.log")
async def test_values_get_steps_and_times(lab: Laboratory):
    run = await lab.run()
    first = await lab.do(lambda work: work.scalars.log(run.id, [Logged(name="rmse", value=0.5)]), by=lab.editor)
    assert [(scalar.step, scalar.timestamp) for scalar in first] == [(0, lab.clock.now())]
    lab.clock.pass_by(1)
    values = [
        Logged(name="rmse", value=0.4, step=10, timestamp=NOW),
        Logged(name="rmse", value=0.3),
        Logged(name="rmse", value=0.9, step=3),
        Logged(name="rmse", value=0.2),
        Logged(name="seconds", value=7.0),
    ]
    more = await lab.do(lambda work: work.scalars.log(run.id, values))
    assert [(scalar.name, scalar.step) for scalar in more] == [
        ("rmse", 10),
        ("rmse", 11),
        ("rmse", 3),
        ("rmse", 12),
        ("seconds", 0),
    ]
    page = await lab.ask(lambda work: work.scalars.history(run.id, ["rmse"], limit=3), by=lab.viewer)
    assert [scalar.value for scalar in page.items] == [0.5, 0.9, 0.4]
    latest = await lab.ask(lambda work: work.scalars.latest(run.id), by=lab.viewer)
    assert [(scalar.name, scalar.value) for scalar in latest] == [("rmse", 0.2), ("seconds", 7.0)]
    record = (await lab.audit())[-1]
    assert (record.action, record.target_type, record.target_id) == ("log_metrics", "run", str(run.id))
    assert record.after == {"values": 5, "names": ["rmse", "seconds"]}


@pytest.mark.covers("scalars.log")
async def test_who_may_log_what(lab: Laboratory):
    run = await lab.run()
    one = [Logged(name="loss", value=1.0)]
    with pytest.raises(Forbidden):
        await lab.do(lambda work: work.scalars.log(run.id, one), by=lab.viewer)
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.scalars.log(run.id, one), by=lab.outsider)
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.scalars.history(run.id, ["loss"]), by=lab.outsider)
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.scalars.latest(run.id), by=lab.outsider)
    # Results are often worked out after the run, but nothing is added to what is archived.
    await lab.do(lambda work: work.runs.start(run.id))
    await lab.do(lambda work: work.runs.finish(run.id))
    await lab.do(lambda work: work.scalars.log(run.id, one))
    await lab.do(lambda work: work.runs.archive(run.id))
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.scalars.log(run.id, one))
    assert refusal.value.code == "archived"


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ([], "metrics"),
        ([Logged(name="loss", value=1.0)] * (SCALARS + 1), "metrics"),
        ([Logged(name="", value=1.0)], "metrics[0].name"),
        ([Logged(name="a\nb", value=1.0)], "metrics[0].name"),
        ([Logged(name="loss", value=1.0), Logged(name="loss", value=math.nan)], "metrics[1].value"),
        ([Logged(name="loss", value=-math.inf)], "metrics[0].value"),
        ([Logged(name="loss", value=1.0, step=LAST_STEP + 1)], "metrics[0].step"),
        ([Logged(name="loss", value=1.0, step=LAST_STEP), Logged(name="loss", value=1.0)], "metrics[1].step"),
        ([Logged(name=f"n{number}", value=1.0) for number in range(NAMES + 1)], "metrics"),
    ],
)
async def test_what_cannot_be_logged_is_refused_whole(lab: Laboratory, bad: list[Logged], path: str):
    run = await lab.run()
    with pytest.raises(Invalid) as refusal:
        await lab.do(lambda work: work.scalars.log(run.id, bad))
    assert refusal.value.errors[0]["path"] == path
    assert not await lab.ask(lambda work: work.scalars.latest(run.id))


@pytest.mark.covers("scalars.log")
async def test_those_who_log_at_once_get_steps_of_their_own(lab: Laboratory):
    run = await lab.run()
    values = [Logged(name="loss", value=1.0)] * 3
    await asyncio.gather(*(lab.do(lambda work: work.scalars.log(run.id, values)) for _ in range(8)))
    page = await lab.ask(lambda work: work.scalars.history(run.id, ["loss"]))
    assert [scalar.step for scalar in page.items] == list(range(24))


async def test_a_run_with_scalars_is_not_deleted(lab: Laboratory):
    run = await lab.run()
    await lab.do(lambda work: work.scalars.log(run.id, [Logged(name="loss", value=1.0)]))
    with pytest.raises(Conflict):
        await lab.do(lambda work: work.runs.delete(run.id))


@pytest.mark.covers("comparisons.of_runs")
async def test_runs_side_by_side(lab: Laboratory):
    experiment = await lab.experiment()
    runs = [
        await lab.run(experiment, start=True, name=f"Run {rpm}", params={"rpm": rpm, "fluid": "oil", "n": 1})
        for rpm in (3_000, 600, 3_000)
    ]
    made = await lab.sensor(runs[0])
    await lab.profile(made, 2.0, 1.0)
    session = await lab.session(runs[0])
    at = micros(lab.clock.now())
    await lab.ingest(made, a_batch(a_column([at], [1.0]), a_column([at], [5.0], "b"), session=session.id))
    await lab.do(lambda work: work.scalars.log(runs[1].id, [Logged(name="rmse", value=0.5)]))
    ids = [runs[1].id, runs[0].id, runs[2].id]
    found = await lab.ask(lambda work: work.comparisons.of_runs(ids), by=lab.viewer)
    assert [one.run.id for one in found] == ids
    assert [one.params for one in found] == [{"rpm": 600}, {"rpm": 3_000}, {"rpm": 3_000}]
    assert [[scalar.value for scalar in one.scalars] for one in found] == [[0.5], [], []]
    assert [len(one.metrics) for one in found] == [0, 2, 0]
    assert {metrics.layer for metrics in found[1].metrics} == {Layer.PHYSICAL}
    assert list(found[1].metrics) == list(await lab.ask(lambda work: work.telemetry.metrics(runs[0].id)))
    some = await lab.ask(lambda work: work.comparisons.of_runs(ids, signals=["b"], layer=Layer.RAW))
    assert [metrics.statistics and metrics.statistics.mean for metrics in some[1].metrics] == [5.0]


@pytest.mark.covers("comparisons.of_runs")
async def test_comparing_lets_nothing_out(lab: Laboratory):
    runs = [await lab.run(start=True), await lab.run(start=True)]
    made = await lab.sensor(*runs)
    for run in runs:
        session = await lab.session(run)
        await lab.ingest(made, a_batch(a_column([micros(lab.clock.now())], [7.0]), session=session.id))
    ids = [run.id for run in runs]
    raw = await lab.ask(lambda work: work.comparisons.of_runs(ids), by=lab.editor)
    assert [[metrics.layer for metrics in one.metrics] for one in raw] == [[Layer.RAW]] * 2
    hidden = await lab.ask(lambda work: work.comparisons.of_runs(ids), by=lab.viewer)
    assert [one.metrics for one in hidden] == [(), ()]
    with pytest.raises(Forbidden):
        await lab.ask(lambda work: work.comparisons.of_runs(ids, layer=Layer.RAW), by=lab.viewer)
    # One project's policy does not open another one's.
    other = await Laboratory.open(lab.units, clock=lab.clock, physical_only=True)
    theirs = await other.run()
    await other.do(lambda work: work.projects.put_member(other.project.id, lab.editor.id, Role.OWNER))
    both = [ids[0], theirs.id]
    found = await lab.ask(lambda work: work.comparisons.of_runs(both), by=lab.editor)
    assert [[metrics.layer for metrics in one.metrics] for one in found] == [[Layer.RAW], []]
    with pytest.raises(Forbidden):
        await lab.ask(lambda work: work.comparisons.of_runs(both, layer=Layer.RAW), by=lab.editor)
    for by in (lab.viewer, lab.outsider):
        with pytest.raises(NotFound):
            await lab.ask(lambda work: work.comparisons.of_runs(both), by=by)
    for few in ([], ids[:1], [ids[0], ids[0]], [fresh() for _ in range(21)]):
        with pytest.raises(Invalid):
            await lab.ask(lambda work: work.comparisons.of_runs(few))  # noqa: B023
