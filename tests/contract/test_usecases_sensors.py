"""Sensors: tokens, signs of life, shares, and the sessions that hold them."""

from datetime import UTC, datetime

import pytest

from entities import NOW, SettableClock, a_batch, a_column, fresh
from experiment_domain import Work
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.errors import Conflict, NotFound, Unauthenticated
from experiment_domain.sensors import SIGN_OF_LIFE_EVERY, SensorFilter
from experiment_domain.telemetry.batches import micros
from experiment_domain.unit_of_work import UnitsOfWork
from laboratory import Laboratory, token_of


async def test_a_sensor_is_active_from_its_first_heartbeat(lab: Laboratory):
    made = await lab.sensor()
    assert made.sensor.status == "registered"
    lab.clock.pass_by(5)
    seen = await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
    assert (seen.status, seen.last_seen_at, seen.version) == ("active", lab.clock.at, 2)
    (step,) = await lab.history("sensor", made.sensor.id)
    assert (step.actor, step.role) == (f"sensor:{made.sensor.id}", "sensor")

    lab.clock.pass_by(5)
    again = await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
    assert (again.last_seen_at, again.version) == (lab.clock.at, 2)
    assert await lab.ask(lambda work: work.sensors.get(made.sensor.id)) == again
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.sensors.heartbeat(fresh()), by=token_of(made))


async def test_a_sensor_is_active_from_its_first_reading(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.session(run)
    await lab.ingest(made, a_batch(a_column([0], [1.0])))
    seen = await lab.ask(lambda work: work.sensors.get(made.sensor.id))
    assert (seen.status, seen.last_seen_at, seen.version) == ("active", lab.clock.at, 2)
    # Later ones renew its sign of life, but not for each batch.
    first = lab.clock.at
    lab.clock.pass_by(SIGN_OF_LIFE_EVERY.total_seconds() - 0.001)
    await lab.ingest(made, a_batch(a_column([1], [1.0])))
    assert (await lab.ask(lambda work: work.sensors.get(made.sensor.id))).last_seen_at == first
    lab.clock.pass_by(0.001)
    await lab.ingest(made, a_batch(a_column([2], [1.0])))
    seen = await lab.ask(lambda work: work.sensors.get(made.sensor.id))
    assert (seen.last_seen_at, seen.version) == (lab.clock.at, 2)
    assert len(await lab.history("sensor", made.sensor.id)) == 1


@pytest.mark.parametrize(("verb", "code"), [("deactivate", "sensor_inactive"), ("retire", "sensor_retired")])
async def test_a_sensor_that_is_switched_off_delivers_nothing(lab: Laboratory, verb: str, code: str):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    await lab.do(lambda work: work.sensors.activate(made.sensor.id))
    if verb == "retire":
        await lab.stop(session)
    await lab.do(lambda work: getattr(work.sensors, verb)(made.sensor.id))
    batch = a_batch(a_column([0], [1.0]), session=session.id)
    for command in (
        lambda work: work.telemetry.ingest(batch),
        lambda work: work.sensors.heartbeat(made.sensor.id),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(command, by=token_of(made))
        assert refusal.value.code == code


async def test_a_new_token_takes_the_place_of_the_old_one(units_of_work: UnitsOfWork):
    # By the machine's own clock: whether a token is alive is asked of the adapter, too.
    lab = await Laboratory.open(units_of_work, SettableClock(datetime.now(UTC)))
    made = await lab.sensor()
    rotated = await lab.do(lambda work: work.sensors.rotate_token(made.sensor.id))
    assert rotated.token != made.token
    with pytest.raises(Unauthenticated):
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
    await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(rotated))

    graced = await lab.do(lambda work: work.sensors.rotate_token(made.sensor.id, grace=3_600.0))
    for alive in (rotated, graced):
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(alive))
    batch = a_batch(a_column([0], [1.0]))
    lab.clock.pass_by(3_599)
    with pytest.raises(Conflict):  # it is known, but has nowhere to deliver to
        await lab.ingest(rotated, batch)
    lab.clock.pass_by(1)
    with pytest.raises(Unauthenticated):
        await lab.ingest(rotated, batch)


async def test_tokens_are_in_no_record(lab: Laboratory):
    made = await lab.sensor()
    rotated = await lab.do(lambda work: work.sensors.rotate_token(made.sensor.id, grace=5.0))
    for record in await lab.audit():
        text = repr((record.before, record.after))
        assert "token_hash" not in text
        assert made.token not in text
        assert rotated.token not in text


@pytest.mark.parametrize("verb", ["retire", "delete"])
async def test_a_sensor_in_use_stays(lab: Laboratory, verb: str):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: getattr(work.sensors, verb)(made.sensor.id))
    assert refusal.value.code == "sensor_in_use"
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.runs.unbind(run.id, made.sensor.id))
    assert refusal.value.code == "sensor_in_use"

    await lab.stop(session)
    await lab.do(lambda work: work.runs.unbind(run.id, made.sensor.id))
    if verb == "delete":
        with pytest.raises(Conflict) as refusal:
            await lab.do(lambda work: work.sensors.delete(made.sensor.id))
        assert refusal.value.code == "sensor_has_recorded"
    retired = await lab.do(lambda work: work.sensors.retire(made.sensor.id))
    assert retired.status == "retired"


async def test_a_sensor_is_unbound_from_a_run_while_another_one_records_with_it(lab: Laboratory):
    run, other = await lab.run(start=True), await lab.run(start=True)
    made = await lab.sensor(run, other)
    await lab.session(run)
    await lab.do(lambda work: work.runs.unbind(other.id, made.sensor.id))


async def test_a_sensor_that_never_recorded_is_deleted(lab: Laboratory):
    run = await lab.run()
    made = await lab.sensor(run)
    profile = await lab.profile(made, 1, 0)
    await lab.do(lambda work: work.sensors.delete(made.sensor.id))
    for question in (
        lambda work: work.sensors.get(made.sensor.id),
        lambda work: work.conversions.get(profile.id),
    ):
        with pytest.raises(NotFound):
            await lab.ask(question)
    assert await lab.ask(lambda work: work.runs.sensors(run.id)) == []


async def test_a_retired_sensor_is_not_bound(lab: Laboratory):
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.retire(made.sensor.id))
    run = await lab.run()
    for command in (
        lambda work: work.runs.bind(run.id, made.sensor.id),
        lambda work: work.sensors.edit(made.sensor.id, name="B"),
        lambda work: work.sensors.rotate_token(made.sensor.id),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(command)
        assert refusal.value.code == "sensor_retired"


async def test_a_sensor_is_shared_with_a_project(lab: Laboratory):
    guest = await Laboratory.open(lab.units)
    run = await guest.run(start=True)
    made = await lab.sensor()
    sensor_id = made.sensor.id

    async def bind(work: Work) -> None:
        await work.runs.bind(run.id, sensor_id)

    with pytest.raises(NotFound):
        await guest.do(bind)
    # To share, one owns the sensor's project and edits the other.
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.sensors.share(sensor_id, guest.project.id))
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    await lab.do(lambda work: work.sensors.share(sensor_id, guest.project.id))
    assert await lab.ask(lambda work: work.sensors.projects(sensor_id)) == [lab.project.id, guest.project.id]
    audit = await lab.audit()
    await lab.do(lambda work: work.sensors.share(sensor_id, guest.project.id))
    assert await lab.audit() == audit

    # Guests see and bind it, and change nothing of it.
    assert (await guest.ask(lambda work: work.sensors.get(sensor_id), by=guest.viewer)).id == sensor_id
    page = await guest.ask(lambda work: work.sensors.page(SensorFilter(project_ids=())), by=guest.viewer)
    assert [sensor.id for sensor in page.items] == [sensor_id]
    with pytest.raises(NotFound):
        await guest.do(lambda work: work.sensors.edit(sensor_id, name="mine"))
    await guest.do(bind)
    session = await guest.session(run)
    accepted = await lab.ingest(made, a_batch(a_column([0], [1.0])))
    assert accepted.capture_session_id == session.id

    # Taken back, it is bound no more, but where it was bound it stays.
    await lab.do(lambda work: work.sensors.unshare(sensor_id, guest.project.id))
    other = await guest.run()
    with pytest.raises(NotFound):
        await guest.do(lambda work: work.runs.bind(other.id, sensor_id))
    for batch in (a_batch(a_column([1], [1.0])), a_batch(a_column([2], [1.0]), session=session.id)):
        assert (await lab.ingest(made, batch)).capture_session_id == session.id
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.sensors.unshare(sensor_id, guest.project.id))
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.sensors.unshare(sensor_id, lab.project.id))
    assert refusal.value.code == "owning_project"


async def test_who_may_not_know_of_a_project_is_not_told_that_it_shares_a_sensor(lab: Laboratory):
    guest = await Laboratory.open(lab.units)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.share(made.sensor.id, guest.project.id))
    assert await lab.ask(lambda work: work.sensors.projects(made.sensor.id), by=lab.viewer) == [lab.project.id]


async def test_a_sensor_that_is_taken_back_takes_part_in_no_further_session(lab: Laboratory):
    elsewhere = await Laboratory.open(lab.units)
    made = await elsewhere.sensor()
    await elsewhere.do(lambda work: work.projects.put_member(elsewhere.project.id, lab.owner.id, Role.OWNER))
    await lab.do(lambda work: work.sensors.share(made.sensor.id, lab.project.id))
    run = await lab.run(start=True)
    own = await lab.sensor(run)
    await lab.do(lambda work: work.runs.bind(run.id, made.sensor.id))
    first = await lab.session(run)
    assert {pin.sensor_id for pin in first.pins} == {own.sensor.id, made.sensor.id}
    await lab.do(lambda work: work.sensors.unshare(made.sensor.id, lab.project.id))
    await lab.ingest(made, a_batch(a_column([micros(NOW)], [1.0]), session=first.id))
    await lab.stop(first)
    second = await lab.session(run)
    assert {pin.sensor_id for pin in second.pins} == {own.sensor.id}


async def test_who_retires_a_sensor_in_use_learns_no_ids_of_other_projects(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.sensors.retire(made.sensor.id))
    assert refusal.value.code == "sensor_in_use"
    assert str(session.id) not in f"{refusal.value.detail} {refusal.value.facts}"
