"""Many at once: one wins where one can, and nothing is lost, doubled or half done."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from entities import a_batch, a_column
from experiment_domain import Work
from experiment_domain.captures import CaptureStatus
from experiment_domain.kernel.access import Principal, Role
from experiment_domain.kernel.errors import Refusal, VersionMismatch
from laboratory import Laboratory, token_of


async def _at_once(
    lab: Laboratory, uses: Sequence[Callable[[Work], Awaitable[Any]]], by: Principal | None = None
) -> list[Any]:
    """What each answers: its result, or the code of its refusal."""

    async def one(use: Callable[[Work], Awaitable[Any]]) -> Any:
        try:
            return await lab.do(use, by=by)
        except Refusal as refusal:
            return refusal.code

    return list(await asyncio.gather(*map(one, uses)))


@pytest.mark.covers("captures.start")
async def test_of_two_sessions_that_start_at_once_one_wins(lab: Laboratory):
    for _ in range(5):
        run = await lab.run(start=True)
        await lab.sensor(run)
        sessions = [await lab.session(run, start=False) for _ in range(2)]
        answers = await _at_once(lab, [lambda work, it=it: work.captures.start(it.id) for it in sessions])
        assert answers.count("session_already_running") == 1
        found = await lab.ask(lambda work: work.captures.page(run.id))  # noqa: B023
        assert sorted(str(session.status) for session in found.items) == ["draft", "running"]


@pytest.mark.covers("captures.create")
async def test_sessions_that_are_created_at_once_are_numbered_without_gaps(lab: Laboratory):
    run = await lab.run()
    answers = await _at_once(lab, [lambda work: work.captures.create(run.id)] * 12)
    assert sorted(session.ordinal for session in answers) == list(range(1, 13))


@pytest.mark.covers("runs.unbind", "sensors.delete")
async def test_a_sensor_that_is_unbound_while_it_is_deleted_is_unbound_once(lab: Laboratory):
    run = await lab.run()
    made = await lab.sensor(run)
    async with lab.services.begin(lab.owner) as work:
        await work.runs.unbind(run.id, made.sensor.id)
        deleting = asyncio.create_task(_at_once(lab, [lambda work: work.sensors.delete(made.sensor.id)]))
        await asyncio.wait([deleting], timeout=0.5)
    assert await deleting == [None]
    assert [record.action for record in await lab.audit()].count("unbind") == 1


@pytest.mark.covers("runs.start")
async def test_the_same_start_many_times_is_one_transition(lab: Laboratory):
    run = await lab.run()
    answers = await _at_once(lab, [lambda work: work.runs.start(run.id)] * 10)
    assert len({(answer.status, answer.version) for answer in answers}) == 1
    assert len(await lab.history("run", run.id)) == 1
    assert len(await lab.history("experiment", run.experiment_id)) == 1


@pytest.mark.covers("runs.edit")
async def test_of_twenty_edits_all_are_kept_in_a_line(lab: Laboratory):
    run = await lab.run()
    edits = [lambda work, n=number: work.runs.edit(run.id, notes=f"edit {n}") for number in range(20)]
    answers = await _at_once(lab, edits)
    assert sorted(answer.version for answer in answers) == list(range(2, 22))
    records = [record for record in await lab.audit() if record.target_id == str(run.id)][1:]
    # Each begins where the one before it ended.
    for place, record in enumerate(records):
        assert record.before is not None
        assert record.after is not None
        assert (record.before["version"], record.after["version"]) == (place + 1, place + 2)
        if place:
            before = records[place - 1].after
            assert before is not None
            assert record.before["notes"] == before["notes"]
    last = await lab.ask(lambda work: work.runs.get(run.id))
    assert records[-1].after is not None
    assert (last.version, last.notes) == (21, records[-1].after["notes"])


@pytest.mark.covers("runs.edit")
async def test_of_twenty_who_read_the_same_version_one_may_write(lab: Laboratory):
    run = await lab.run()
    edits = [lambda work, n=number: work.runs.edit(run.id, if_version=1, notes=f"edit {n}") for number in range(20)]
    answers = await _at_once(lab, edits)
    assert answers.count("version_mismatch") == 19
    assert (await lab.ask(lambda work: work.runs.get(run.id))).version == 2


async def test_a_run_does_not_end_under_a_session_that_starts(lab: Laboratory):
    for _ in range(5):
        run = await lab.run(start=True)
        await lab.sensor(run)
        session = await lab.session(run, start=False)
        await _at_once(
            lab,
            [
                lambda work: work.captures.start(session.id),  # noqa: B023
                lambda work: work.runs.finish(run.id),  # noqa: B023
            ],
        )
        ended = await lab.ask(lambda work: work.runs.get(run.id))  # noqa: B023
        found = await lab.ask(lambda work: work.captures.get(session.id))  # noqa: B023
        assert (str(ended.status), str(found.status)) in {("running", "running"), ("finished", "draft")}


async def test_an_experiment_does_not_end_under_a_run_that_starts(lab: Laboratory):
    for _ in range(5):
        experiment = await lab.experiment()
        await lab.do(lambda work: work.experiments.start(experiment.id))  # noqa: B023
        run = await lab.run(experiment)
        await _at_once(
            lab,
            [
                lambda work: work.runs.start(run.id),  # noqa: B023
                lambda work: work.experiments.finish(experiment.id),  # noqa: B023
            ],
        )
        started = await lab.ask(lambda work: work.runs.get(run.id))  # noqa: B023
        ended = await lab.ask(lambda work: work.experiments.get(experiment.id))  # noqa: B023
        assert (str(started.status), str(ended.status)) in {("running", "running"), ("draft", "finished")}


async def test_a_sensor_is_not_retired_under_a_session_that_starts(lab: Laboratory):
    for _ in range(5):
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        session = await lab.session(run, start=False)
        answers = await _at_once(
            lab,
            [
                lambda work: work.captures.start(session.id),  # noqa: B023
                lambda work: work.sensors.retire(made.sensor.id),  # noqa: B023
            ],
        )
        (code,) = [answer for answer in answers if isinstance(answer, str)]
        assert code in {"no_bound_sensors", "sensor_in_use"}


@pytest.mark.covers("conversions.publish")
async def test_of_versions_that_are_published_at_once_one_stays(lab: Laboratory):
    made = await lab.sensor()
    drafts = [await lab.profile(made, number, 0, publish=False) for number in range(1, 7)]
    await _at_once(lab, [lambda work, it=it: work.conversions.publish(it.id) for it in drafts])
    page = await lab.ask(lambda work: work.conversions.page(made.sensor.id))
    assert sorted(str(profile.status) for profile in page.items) == ["published", *["retired"] * 5]


@pytest.mark.covers("projects.put_member")
async def test_two_owners_do_not_demote_each_other(lab: Laboratory):
    for _ in range(5):
        one, other = await _two_owners(lab)
        await asyncio.gather(
            *(
                _at_once(lab, [lambda work, it=it: work.projects.put_member(lab.project.id, it, Role.VIEWER)], by=by)
                for it, by in ((one.id, other), (other.id, one))
            )
        )
        members = await lab.ask(lambda work: work.projects.members(lab.project.id), by=lab.viewer)
        roles = {member.user_id: str(member.role) for member in members}
        assert "owner" in roles.values()
        lab.owner = one if roles[one.id] == "owner" else other


async def _two_owners(lab: Laboratory):
    other = lab.editor if lab.owner is not lab.editor else lab.outsider
    await lab.do(lambda work: work.projects.put_member(lab.project.id, other.id, Role.OWNER))
    return lab.owner, other


@pytest.mark.covers("telemetry.ingest")
async def test_identical_batches_have_one_effect(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    for batch in (a_batch(a_column([1, 2], [1.0, 2.0]), batch_id="b-1"), a_batch(a_column([3, 4], [3.0, 4.0]))):
        answers = await _at_once(lab, [lambda work, it=batch: work.telemetry.ingest(it)] * 15, by=token_of(made))
        assert [answer.accepted for answer in answers] == [2] * 15
        assert [answer.duplicate for answer in answers].count(False) == 1
    (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))
    assert series.count == 4


@pytest.mark.covers("telemetry.ingest")
async def test_batches_at_once_are_all_taken(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    batches = [a_batch(a_column([number], [float(number)])) for number in range(40)]
    # The first of them makes the sensor active: that, too, stands in nobody's way.
    answers = await _at_once(lab, [lambda work, it=it: work.telemetry.ingest(it) for it in batches], by=token_of(made))
    assert [answer if isinstance(answer, str) else answer.accepted for answer in answers] == [1] * 40
    (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))
    assert series.count == 40
    assert len(await lab.history("sensor", made.sensor.id)) == 1


@pytest.mark.covers("telemetry.ingest", "captures.stop")
async def test_a_batch_is_in_time_or_late_but_never_lost(lab: Laboratory):
    for number in range(5):
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        session = await lab.session(run)
        batch = a_batch(a_column([number], [1.0]), session=session.id)
        accepted, stopped = await asyncio.gather(lab.ingest(made, batch), lab.stop(session, CaptureStatus.SUCCEEDED))
        assert stopped.status == "succeeded"
        (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))  # noqa: B023
        assert (series.count, series.late) == (1, accepted.late)


@pytest.mark.covers("sensors.edit", "telemetry.ingest")
async def test_a_sensor_is_edited_while_it_delivers(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.session(run)

    async def edit(number: int) -> UUID | str:
        try:
            return (await lab.do(lambda work: work.sensors.edit(made.sensor.id, name=f"TC-{number}"))).id
        except VersionMismatch as refusal:
            return refusal.code

    async def deliver(number: int) -> int:
        lab.clock.pass_by(10)
        return (await lab.ingest(made, a_batch(a_column([number], [1.0])))).accepted

    outcomes = await asyncio.gather(*map(edit, range(10)), *map(deliver, range(10)))
    assert outcomes == [made.sensor.id] * 10 + [1] * 10
