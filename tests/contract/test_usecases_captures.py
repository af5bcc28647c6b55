"""Capture sessions: when they start, what they pin, and how they go."""

import pytest

from experiment_domain.captures import CaptureStatus, Pin
from experiment_domain.kernel.errors import Conflict, Invalid, NotFound
from laboratory import Laboratory


@pytest.mark.covers("captures.create")
async def test_sessions_of_a_run_are_numbered(lab: Laboratory):
    run = await lab.run()
    sessions = [await lab.session(run, start=False) for _ in range(3)]
    assert [session.ordinal for session in sessions] == [1, 2, 3]
    other = await lab.session(await lab.run(), start=False)
    assert other.ordinal == 1


@pytest.mark.covers("captures.start")
async def test_a_session_starts_only_in_a_running_run(lab: Laboratory):
    run = await lab.run()
    await lab.sensor(run)
    session = await lab.session(run, start=False)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.captures.start(session.id))
    assert refusal.value.code == "run_not_running"
    await lab.do(lambda work: work.runs.start(run.id))
    assert (await lab.do(lambda work: work.captures.start(session.id))).status == "running"


async def test_a_session_starts_only_with_a_sensor(lab: Laboratory):
    run = await lab.run(start=True)
    with pytest.raises(Conflict) as refusal:
        await lab.session(run)
    assert refusal.value.code == "no_bound_sensors"
    # The session that could not start was not created either.
    assert list((await lab.ask(lambda work: work.captures.page(run.id))).items) == []
    retired = await lab.sensor(run)
    await lab.do(lambda work: work.sensors.retire(retired.sensor.id))
    with pytest.raises(Conflict) as refusal:
        await lab.session(run)
    assert refusal.value.code == "no_bound_sensors"


async def test_a_run_has_at_most_one_running_session(lab: Laboratory):
    run = await lab.run(start=True)
    await lab.sensor(run)
    running = await lab.session(run)
    waiting = await lab.session(run, start=False)
    for command in (
        lambda work: work.captures.start(waiting.id),
        lambda work: work.captures.create(run.id, start=True),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(command)
        assert refusal.value.code == "session_already_running"
        assert refusal.value.facts["active_capture_sessions"] == [str(running.id)]
    await lab.stop(running)
    assert (await lab.do(lambda work: work.captures.start(waiting.id))).status == "running"


async def test_starting_pins_the_profile_versions_published_then(lab: Laboratory):
    run = await lab.run(start=True)
    plain, calibrated, drafted = [await lab.sensor(run) for _ in range(3)]
    first = await lab.profile(calibrated, 2, 1)
    await lab.profile(drafted, 2, 1, publish=False)
    session = await lab.session(run)
    pins = {
        Pin(sensor_id=plain.sensor.id, profile_id=None, profile_version=None),
        Pin(sensor_id=calibrated.sensor.id, profile_id=first.id, profile_version=1),
        Pin(sensor_id=drafted.sensor.id, profile_id=None, profile_version=None),
    }
    assert set(session.pins) == pins

    second = await lab.profile(calibrated, 3, 0)
    late_comer = await lab.sensor(run)
    again = await lab.ask(lambda work: work.captures.get(session.id))
    assert set(again.pins) == pins
    await lab.stop(session)
    following = await lab.session(run)
    assert following.pin_of(calibrated.sensor.id) == Pin(
        sensor_id=calibrated.sensor.id, profile_id=second.id, profile_version=2
    )
    assert following.pin_of(late_comer.sensor.id) is not None


@pytest.mark.covers("captures.stop")
async def test_a_session_stops_with_an_outcome(lab: Laboratory):
    run = await lab.run(start=True)
    await lab.sensor(run)
    session = await lab.session(run)
    for outcome in (CaptureStatus.DRAFT, CaptureStatus.RUNNING, CaptureStatus.ARCHIVED):
        with pytest.raises(Invalid):
            await lab.stop(session, outcome)
    lab.clock.pass_by(30)
    stopped = await lab.stop(session, CaptureStatus.FAILED)
    assert (stopped.status, stopped.stopped_at) == ("failed", lab.clock.at)
    with pytest.raises(Conflict) as refusal:
        await lab.stop(session, CaptureStatus.SUCCEEDED)
    assert refusal.value.code == "invalid_transition"


@pytest.mark.covers("captures.delete")
async def test_a_draft_is_removed_for_good(lab: Laboratory):
    run = await lab.run()
    session = await lab.session(run, start=False)
    await lab.do(lambda work: work.captures.delete(session.id))
    for command in (
        lambda work: work.captures.get(session.id),
        lambda work: work.captures.restore(session.id),
    ):
        with pytest.raises(NotFound):
            await lab.do(command)


@pytest.mark.covers("captures.delete", "captures.restore")
async def test_a_failed_session_is_hidden_and_restored(lab: Laboratory):
    run = await lab.run(start=True)
    await lab.sensor(run)
    session = await lab.stop(await lab.session(run), CaptureStatus.FAILED)
    await lab.do(lambda work: work.captures.delete(session.id))
    for question in (
        lambda work: work.captures.get(session.id),
        lambda work: work.captures.archive(session.id),
        lambda work: work.captures.delete(session.id),
        lambda work: work.telemetry.series(session.id),
    ):
        with pytest.raises(NotFound):
            await lab.do(question)
    assert list((await lab.ask(lambda work: work.captures.page(run.id))).items) == []
    # Who can bring it back sees what happened to it.
    events = await lab.ask(lambda work: work.captures.events(session.id))
    assert [recorded.event.type for recorded in events.items][-1] == "capture.deleted"
    assert len(await lab.ask(lambda work: work.captures.history(session.id))) == 2
    for question in (
        lambda work: work.captures.history(session.id),
        lambda work: work.captures.events(session.id),
    ):
        with pytest.raises(NotFound):
            await lab.ask(question, by=lab.editor)
    # Its number is not given away, and its run is not without children.
    assert (await lab.session(run, start=False)).ordinal == 2

    restored = await lab.do(lambda work: work.captures.restore(session.id))
    assert restored.deleted_at is None
    assert await lab.ask(lambda work: work.captures.get(session.id)) == restored
    assert [step.target for step in await lab.history("capture_session", session.id)] == ["running", "failed"]
    assert await lab.do(lambda work: work.captures.restore(session.id)) == restored


@pytest.mark.parametrize("status", ["running", "succeeded", "archived"])
async def test_only_draft_and_failed_sessions_are_deleted(lab: Laboratory, status: str):
    run = await lab.run(start=True)
    await lab.sensor(run)
    session = await lab.session(run)
    if status != "running":
        await lab.stop(session)
    if status == "archived":
        await lab.do(lambda work: work.captures.archive(session.id))
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.captures.delete(session.id))
    assert refusal.value.code == "not_deletable"


@pytest.mark.parametrize("end", ["finish", "fail"])
async def test_a_run_that_is_over_takes_no_more_sessions(lab: Laboratory, end: str):
    run = await lab.run(start=True)
    await lab.sensor(run)
    draft = await lab.session(run, start=False)
    await lab.do(lambda work: getattr(work.runs, end)(run.id))
    with pytest.raises(Conflict) as refusal:
        await lab.session(run, start=False)
    assert refusal.value.code == "run_over"
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.captures.start(draft.id))
    assert refusal.value.code == "run_not_running"
