"""Experiments and runs: guards, and what follows from a transition."""

from datetime import datetime

import pytest

from experiment_domain.captures import CaptureStatus
from experiment_domain.kernel.errors import Conflict, NotFound, VersionMismatch
from experiment_domain.runs import RunFilter
from laboratory import Laboratory

ENDS = ("finish", "fail", "archive")
EXPERIMENT_ENDS = [pytest.param(end, marks=pytest.mark.covers(f"experiments.{end}")) for end in ENDS]
RUN_ENDS = [pytest.param(end, marks=pytest.mark.covers(f"runs.{end}")) for end in ENDS]


@pytest.mark.covers("experiments.create", "runs.create", "runs.start")
async def test_starting_a_run_starts_its_draft_experiment_with_it(lab: Laboratory):
    experiment = await lab.experiment()
    run = await lab.run(experiment, start=True)
    assert run.status == "running"
    started = await lab.ask(lambda work: work.experiments.get(experiment.id))
    assert (started.status, started.started_at) == ("running", run.started_at)
    (step,) = await lab.history("experiment", experiment.id)
    assert (step.source, step.target, step.reason) == ("draft", "running", "its first run was started")
    # A second run starts in the experiment as it is.
    await lab.run(experiment, start=True)
    assert len(await lab.history("experiment", experiment.id)) == 1


@pytest.mark.parametrize("end", EXPERIMENT_ENDS)
async def test_an_experiment_ends_after_its_runs(lab: Laboratory, end: str):
    experiment = await lab.experiment()
    runs = [await lab.run(experiment, start=True) for _ in range(2)]
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: getattr(work.experiments, end)(experiment.id))
    assert refusal.value.code == "running_runs"
    assert sorted(refusal.value.facts["running_runs"]) == sorted(str(run.id) for run in runs)
    for run in runs:
        await lab.do(lambda work: work.runs.finish(run.id))  # noqa: B023
    ended = await lab.do(lambda work: getattr(work.experiments, end)(experiment.id))
    assert ended.status in {"finished", "failed", "archived"}


@pytest.mark.parametrize("end", RUN_ENDS)
async def test_a_run_ends_after_its_sessions(lab: Laboratory, end: str):
    run = await lab.run(start=True)
    await lab.sensor(run)
    session = await lab.session(run)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: getattr(work.runs, end)(run.id))
    assert refusal.value.code == "active_capture_sessions"
    assert refusal.value.facts["active_capture_sessions"] == [str(session.id)]
    await lab.stop(session)
    await lab.do(lambda work: getattr(work.runs, end)(run.id))


@pytest.mark.parametrize("end", EXPERIMENT_ENDS)
@pytest.mark.covers("experiments.start")
async def test_an_experiment_that_is_over_takes_no_more_runs(lab: Laboratory, end: str):
    experiment = await lab.experiment()
    waiting = await lab.run(experiment)
    await lab.do(lambda work: work.experiments.start(experiment.id))
    await lab.do(lambda work: getattr(work.experiments, end)(experiment.id))
    with pytest.raises(Conflict) as refusal:
        await lab.run(experiment)
    assert refusal.value.code == ("archived" if end == "archive" else "experiment_over")
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.runs.start(waiting.id))
    assert refusal.value.code == "experiment_not_running"


@pytest.mark.covers("runs.archive", "captures.archive")
async def test_archiving_a_run_archives_its_sessions_in_the_same_transaction(lab: Laboratory):
    run = await lab.run(start=True)
    await lab.sensor(run)
    succeeded, failed, deleted = [await _ended(lab, run.id, outcome) for outcome in ("succeeded", "failed", "failed")]
    archived = await _ended(lab, run.id, "succeeded")
    await lab.do(lambda work: work.captures.archive(archived))
    await lab.do(lambda work: work.captures.delete(deleted))
    draft = (await lab.session(run, start=False)).id

    await lab.do(lambda work: work.runs.archive(run.id))

    page = await lab.ask(lambda work: work.captures.page(run.id))
    assert {session.id: str(session.status) for session in page.items} == dict.fromkeys(
        (succeeded, failed, archived, draft), "archived"
    )
    for session_id, source in ((succeeded, "succeeded"), (failed, "failed"), (draft, "draft")):
        step = (await lab.history("capture_session", session_id))[-1]
        assert (step.source, step.target, step.at) == (source, "archived", lab.clock.at)
        assert step.reason == "its run was archived"
    # The one that is deleted stays so: nothing comes back into a run that is read-only.
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.captures.restore(deleted))
    assert refusal.value.code == "archived"


async def _ended(lab: Laboratory, run_id: object, outcome: str):
    session = await lab.do(lambda work: work.captures.create(run_id, start=True))  # pyright: ignore[reportArgumentType]
    return (await lab.stop(session, CaptureStatus(outcome))).id


async def test_archived_runs_are_read_only(lab: Laboratory):
    run = await lab.run()
    made = await lab.sensor(run)
    session = await lab.session(run, start=False)
    await lab.do(lambda work: work.runs.archive(run.id))
    for command in (
        lambda work: work.runs.edit(run.id, tags=("x",)),
        lambda work: work.runs.bind(run.id, made.sensor.id),
        lambda work: work.runs.unbind(run.id, made.sensor.id),
        lambda work: work.captures.create(run.id),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(command)
        assert refusal.value.code == "archived"
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.captures.delete(session.id))
    assert refusal.value.code == "not_deletable"


@pytest.mark.covers("experiments.delete", "runs.delete", "captures.delete")
async def test_drafts_without_children_are_deleted(lab: Laboratory):
    experiment = await lab.experiment()
    run = await lab.run(experiment)
    await lab.sensor(run)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.experiments.delete(experiment.id))
    assert refusal.value.code == "has_runs"
    session = await lab.session(run, start=False)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.runs.delete(run.id))
    assert refusal.value.code == "has_capture_sessions"
    await lab.do(lambda work: work.captures.delete(session.id))
    await lab.do(lambda work: work.runs.delete(run.id))
    await lab.do(lambda work: work.experiments.delete(experiment.id))
    for question in (
        lambda work: work.runs.get(run.id),
        lambda work: work.experiments.get(experiment.id),
        lambda work: work.runs.delete(run.id),
    ):
        with pytest.raises(NotFound):
            await lab.do(question)
    actions = [(record.target_type, record.action) for record in await lab.audit()][-3:]
    assert actions == [("capture_session", "delete"), ("run", "delete"), ("experiment", "delete")]


async def test_what_was_started_is_not_deleted(lab: Laboratory):
    run = await lab.run(start=True)
    for command in (
        lambda work: work.runs.delete(run.id),
        lambda work: work.experiments.delete(run.experiment_id),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(command)
        assert refusal.value.code == "not_draft"


@pytest.mark.covers("runs.edit", "runs.start")
async def test_who_read_an_older_version_is_told(lab: Laboratory):
    run = await lab.run()
    edited = await lab.do(lambda work: work.runs.edit(run.id, if_version=1, notes="n"))
    assert edited.version == 2
    for command in (
        lambda work: work.runs.edit(run.id, if_version=1, notes="m"),
        lambda work: work.runs.start(run.id, if_version=1),
        lambda work: work.runs.archive(run.id, if_version=3),
        lambda work: work.runs.delete(run.id, if_version=1),
    ):
        with pytest.raises(VersionMismatch) as refusal:
            await lab.do(command)
        assert refusal.value.facts["current"] == 2
    assert await lab.ask(lambda work: work.runs.get(run.id)) == edited
    started = await lab.do(lambda work: work.runs.start(run.id, if_version=2))
    assert started.version == 3


async def test_an_edit_that_changes_nothing_is_not_recorded(lab: Laboratory):
    run = await lab.run(notes="n", tags=("a",))
    audit = await lab.audit()
    assert await lab.do(lambda work: work.runs.edit(run.id, notes="n", tags=["a", "a"])) == run
    assert await lab.audit() == audit


@pytest.mark.covers("runs.edit")
async def test_the_audit_log_tells_what_was_and_what_is(lab: Laboratory):
    run = await lab.run(notes="n")
    lab.clock.pass_by(1)
    await lab.do(lambda work: work.runs.edit(run.id, notes="m", params={"a": 1}), by=lab.editor)
    record = (await lab.audit())[-1]
    assert (record.actor, record.role, record.action, record.at) == (lab.editor.id, "editor", "update", lab.clock.at)
    assert record.before == {
        "version": 1,
        "updated_at": told_as(run.updated_at),
        "notes": "n",
        "params": {},
    }
    assert record.after == {
        "version": 2,
        "updated_at": told_as(lab.clock.at),
        "notes": "m",
        "params": {"a": 1},
    }


async def test_runs_of_one_experiment(lab: Laboratory):
    one, other = await lab.experiment(), await lab.experiment()
    runs = [await lab.run(one) for _ in range(3)]
    await lab.run(other)
    everything = RunFilter(project_ids=())

    async def names(which: RunFilter) -> list[object]:
        page = await lab.ask(lambda work: work.runs.page_of_experiment(one.id, which))
        return [run.id for run in page.items]

    assert await names(everything) == [run.id for run in reversed(runs)]
    assert await names(RunFilter(project_ids=(), experiment_ids=[other.id])) == []
    assert await names(RunFilter(project_ids=[other.id])) == []


@pytest.mark.covers("runs.bind", "runs.unbind")
async def test_a_sensor_is_bound_once(lab: Laboratory):
    run = await lab.run()
    made = await lab.sensor(run)
    audit = await lab.audit()
    (bound,) = await lab.ask(lambda work: work.runs.sensors(run.id))
    lab.clock.pass_by(5)
    assert await lab.do(lambda work: work.runs.bind(run.id, made.sensor.id)) == bound
    assert await lab.audit() == audit
    await lab.do(lambda work: work.runs.unbind(run.id, made.sensor.id))
    assert await lab.ask(lambda work: work.runs.sensors(run.id)) == []
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.runs.unbind(run.id, made.sensor.id))
    named = {"sensor_id": str(made.sensor.id)}
    assert [(record.action, record.before, record.after) for record in (await lab.audit())[-2:]] == [
        ("bind", None, named),
        ("unbind", named, None),
    ]


def told_as(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
