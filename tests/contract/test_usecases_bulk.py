"""Commands for several runs: each by its own rules, all in one transaction, nothing half-done."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from entities import fresh
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid
from experiment_domain.runs import RunFilter, RunStatus, Tagging
from experiment_domain.usecases.runs import BULK_RUNS, RunOutcome
from laboratory import Laboratory


def told(outcomes: Sequence[RunOutcome]) -> list[str]:
    """The status of each run that moved, the code of each that was refused."""
    return [
        outcome.refusal.code if outcome.refusal else str(outcome.run.status if outcome.run else None)
        for outcome in outcomes
    ]


async def statuses(lab: Laboratory, run_ids: Sequence[UUID]) -> list[str]:
    return [str((await lab.ask(lambda work, it=it: work.runs.get(it))).status) for it in run_ids]


@pytest.mark.covers("runs.set_statuses")
async def test_each_run_moves_by_its_own_rules(lab: Laboratory):
    other = await Laboratory.open(lab.units)
    experiment = await lab.experiment()
    draft = await lab.run(experiment)
    running = await lab.run(experiment, start=True)
    recording = await lab.run(experiment, start=True)
    await lab.sensor(recording)
    session = await lab.session(recording)
    failed = await lab.run(experiment, start=True)
    await lab.do(lambda work: work.runs.fail(failed.id))
    finished = await lab.run(experiment, start=True)
    await lab.do(lambda work: work.runs.finish(finished.id))
    foreign = await other.run(start=True)
    ids = [failed.id, running.id, fresh(), recording.id, draft.id, finished.id, foreign.id]
    outcomes = await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.FINISHED, reason="over"))
    assert [outcome.run_id for outcome in outcomes] == ids
    assert told(outcomes) == [
        "invalid_transition",
        "finished",
        "not_found",
        "active_capture_sessions",
        "invalid_transition",
        "finished",
        "not_found",
    ]
    refusal = outcomes[3].refusal
    assert refusal is not None
    assert refusal.facts["active_capture_sessions"] == [str(session.id)]
    assert await statuses(lab, [running.id, finished.id, draft.id]) == ["finished", "finished", "draft"]
    (_, moved) = await lab.history("run", running.id)
    assert (moved.source, moved.target, moved.reason, moved.role) == ("running", "finished", "over", "owner")
    assert len(await lab.history("run", finished.id)) == 2  # it was finished before: nothing is recorded twice
    assert [record.action for record in await lab.audit() if record.target_id == str(running.id)][-1] == "finish"


@pytest.mark.covers("runs.set_statuses")
async def test_all_or_nothing(lab: Laboratory):
    runs = [await lab.run(start=True) for _ in range(3)]
    draft = await lab.run()
    ids = [runs[0].id, draft.id, runs[1].id, fresh()]
    with pytest.raises(Conflict) as refused:
        await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.FAILED, atomic=True))
    assert refused.value.code == "not_all_possible"
    assert [(item["run_id"], item["code"]) for item in refused.value.facts["items"]] == [
        (str(draft.id), "invalid_transition"),
        (str(ids[3]), "not_found"),
    ]
    assert await statuses(lab, [run.id for run in runs]) == ["running"] * 3
    ids = [run.id for run in runs]
    assert told(await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.FAILED, atomic=True))) == ["failed"] * 3


@pytest.mark.covers("runs.set_statuses", "experiments.start")
async def test_starting_runs_starts_their_experiments_once(lab: Laboratory):
    experiments = [await lab.experiment() for _ in range(2)]
    runs = [await lab.run(experiment) for experiment in experiments for _ in range(3)]
    over = await lab.experiment()
    late = await lab.run(over)
    await lab.do(lambda work: work.experiments.start(over.id))
    await lab.do(lambda work: work.experiments.finish(over.id))
    ids = [*(run.id for run in runs), late.id]
    outcomes = await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.RUNNING))
    assert told(outcomes) == ["running"] * 6 + ["experiment_not_running"]
    for experiment in experiments:
        (step,) = await lab.history("experiment", experiment.id)
        assert (step.target, step.reason) == ("running", "its first run was started")


@pytest.mark.covers("runs.set_statuses")
async def test_archiving_takes_the_sessions_with_it_and_the_right_to(lab: Laboratory):
    runs = [await lab.run(start=True) for _ in range(3)]
    await lab.sensor(*runs)
    sessions = [await lab.stop(await lab.session(run)) for run in runs for _ in range(2)]
    drafts = [await lab.session(run, start=False) for run in runs]
    ids = [run.id for run in runs]
    outcomes = await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.ARCHIVED), by=lab.editor)
    assert told(outcomes) == ["forbidden"] * 3
    outcomes = await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.ARCHIVED))
    assert told(outcomes) == ["archived"] * 3
    for session in (*sessions, *drafts):
        found = await lab.ask(lambda work, it=session.id: work.captures.get(it))
        assert found.status == "archived"
        assert found.pins == session.pins
        assert (await lab.history("capture_session", session.id))[-1].reason == "its run was archived"
    assert told(await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.ARCHIVED))) == ["archived"] * 3
    assert len([record for record in await lab.audit() if record.action == "archive"]) == 3 + len(sessions) + 3


@pytest.mark.covers("runs.set_statuses")
async def test_of_each_run_the_roles_in_its_project_count(lab: Laboratory):
    other = await Laboratory.open(lab.units)
    mine, theirs = await lab.run(start=True), await other.run(start=True)
    ids = [mine.id, theirs.id]
    assert told(await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.FAILED), by=lab.viewer)) == [
        "forbidden",
        "not_found",
    ]
    await other.do(lambda work: work.projects.put_member(other.project.id, lab.editor.id, Role.VIEWER))
    assert told(await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.FAILED), by=lab.editor)) == [
        "failed",
        "forbidden",
    ]
    made = await lab.sensor()
    from laboratory import token_of

    with pytest.raises(Forbidden):
        await lab.do(lambda work: work.runs.set_statuses(ids, RunStatus.FAILED), by=token_of(made))


@pytest.mark.parametrize("count", [0, BULK_RUNS + 1])
async def test_how_many_is_bounded(lab: Laboratory, count: int):
    ids = [fresh() for _ in range(count)]
    for command in (
        lambda work: work.runs.set_statuses(ids, RunStatus.FAILED),
        lambda work: work.runs.tag(ids, Tagging.create(add_tags=["a"])),
    ):
        with pytest.raises(Invalid, match="run_ids"):
            await lab.do(command)


async def test_none_stands_twice(lab: Laboratory):
    run = await lab.run()
    ids = [run.id, fresh(), run.id]
    with pytest.raises(Invalid) as refused:
        await lab.do(lambda work: work.runs.tag(ids, Tagging.create(add_tags=["a"])))
    assert refused.value.errors == [{"path": "run_ids[2]", "message": "is the same as run_ids[0]"}]


@pytest.mark.covers("runs.tag")
async def test_tags_are_added_removed_and_set(lab: Laboratory):
    first, second = await lab.run(tags=["a", "b"]), await lab.run(tags=["c"])
    archived = await lab.run(tags=["a"])
    await lab.do(lambda work: work.runs.archive(archived.id))
    full = await lab.run(tags=[f"t{number}" for number in range(100)])
    ids = [first.id, archived.id, second.id, full.id, fresh()]

    async def tag(**tags: Sequence[str]) -> list[object]:
        outcomes = await lab.do(lambda work: work.runs.tag(ids, Tagging.create(**tags)))
        return [outcome.refusal.code if outcome.refusal else outcome.run and outcome.run.tags for outcome in outcomes]

    assert await tag(add_tags=["c", "d"], remove_tags=["a", "none"]) == [
        ("b", "c", "d"),
        "archived",
        ("c", "d"),
        "invalid",
        "not_found",
    ]
    assert (await tag(set_tags=["x", "y", "x"]))[0] == ("x", "y")
    assert (await lab.ask(lambda work: work.runs.get(first.id))).tags == ("x", "y")
    assert (await tag(set_tags=[]))[2] == ()
    tagged = [record for record in await lab.audit() if record.action == "tag"]
    assert [record.target_id for record in tagged] == [
        str(it) for it in (first.id, second.id, first.id, second.id, full.id, first.id, second.id, full.id)
    ]
    assert (await lab.ask(lambda work: work.runs.page(RunFilter(project_ids=[lab.project.id], tags=["x"])))).items == []


@pytest.mark.parametrize(
    ("tags", "path"),
    [
        ({}, ""),
        ({"set_tags": ["a"], "add_tags": ["b"]}, "set_tags"),
        ({"set_tags": [], "remove_tags": []}, "set_tags"),
        ({"add_tags": ["a", "b"], "remove_tags": ["c", "b"]}, "remove_tags[1]"),
        ({"add_tags": [" a"]}, "add_tags[0]"),
        ({"remove_tags": ["a", ""]}, "remove_tags[1]"),
        ({"set_tags": ["a" * 101]}, "set_tags[0]"),
        ({"add_tags": ["a\0"]}, "add_tags[0]"),
        ({"add_tags": [f"t{number}" for number in range(101)]}, "add_tags"),
    ],
)
def test_what_contradicts_itself_or_is_no_tag_is_refused(tags: dict[str, list[str]], path: str):
    with pytest.raises(Invalid) as refused:
        Tagging.create(**tags)
    assert [error["path"] for error in refused.value.errors] == ([path] if path else [])
