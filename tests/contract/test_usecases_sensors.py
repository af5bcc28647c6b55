"""Sensors: tokens, signs of life, shares, and the sessions that hold them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from entities import NOW, SettableClock, a_batch, a_column, fresh
from experiment_domain import Services, Work
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import Role, SensorToken, System, User
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Refusal, Unauthenticated
from experiment_domain.projects import Project
from experiment_domain.sensors import (
    LONGEST_BUCKET,
    MINUTE,
    SIGN_OF_LIFE_EVERY,
    Connection,
    SensorFilter,
    StatusSummary,
    minute_of,
    token_hash,
)
from experiment_domain.telemetry.batches import micros
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.sensors import SensorWithToken
from keeping import ask
from laboratory import Laboratory, token_of


@pytest.mark.covers("sensors.register", "sensors.heartbeat")
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


async def _counts(lab: Laboratory, sensor_id: UUID) -> list[int]:
    """The signs of life of the minutes until now, from the first of them on."""
    found = [signs.count for signs in await lab.ask(lambda work: work.sensors.heartbeats(sensor_id))]
    while found and not found[0]:
        del found[0]
    return found


async def test_every_heartbeat_counts_and_of_batches_one_at_a_time(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.session(run)
    lab.clock.at = minute_of(lab.clock.at)
    assert await _counts(lab, made.sensor.id) == []
    for number in range(3):  # the first of them makes it active
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
        await lab.ingest(made, a_batch(a_column([number], [1.0])))
        lab.clock.pass_by(1)
    assert await _counts(lab, made.sensor.id) == [3]
    lab.clock.pass_by(57)
    for number in range(20):
        await lab.ingest(made, a_batch(a_column([10 + number], [1.0])))
        lab.clock.pass_by(1)
    assert await _counts(lab, made.sensor.id) == [3, 4]
    # A batch that is repeated, and one that is refused, are none.
    lab.clock.pass_by(60)
    await lab.ingest(made, a_batch(a_column([10], [1.0])))
    with pytest.raises(Invalid):
        await lab.ingest(made, a_batch(a_column([100], [float("nan")])))
    assert await _counts(lab, made.sensor.id) == [3, 4, 0]


async def test_a_first_batch_is_a_sign_of_life(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.session(run)
    await lab.ingest(made, a_batch(a_column([0], [1.0])))
    assert await _counts(lab, made.sensor.id) == [1]


async def test_the_usual_window_is_the_last_hour_with_this_minute(lab: Laboratory):
    made = await lab.sensor()
    found = await lab.ask(lambda work: work.sensors.heartbeats(made.sensor.id))
    assert len(found) == 60
    assert found[-1].timestamp == minute_of(lab.clock.at)
    assert found[0].timestamp == found[-1].end - timedelta(hours=1)
    start = lab.clock.at - timedelta(minutes=2)
    found = await lab.ask(lambda work: work.sensors.heartbeats(made.sensor.id, start=start, bucket=120))
    assert [(signs.timestamp, signs.end) for signs in found] == [
        (minute_of(start), minute_of(start) + 2 * MINUTE),
        (minute_of(start) + 2 * MINUTE, minute_of(start) + 3 * MINUTE),
    ]
    found = await lab.ask(lambda work: work.sensors.heartbeats(made.sensor.id, end=start, bucket=3_600))
    assert [(signs.timestamp, signs.end) for signs in found] == [
        (minute_of(start) + MINUTE - timedelta(hours=1), minute_of(start) + MINUTE)
    ]


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("bucket", {"bucket": 0}),
        ("bucket", {"bucket": -60}),
        ("bucket", {"bucket": 61}),
        ("bucket", {"bucket": LONGEST_BUCKET + 60}),
        ("bucket", {"start": NOW - 1_500 * MINUTE}),  # 1,501 with this minute
        ("bucket", {"start": NOW - timedelta(days=366 * 100), "bucket": LONGEST_BUCKET}),
        ("start", {"start": NOW, "end": NOW}),
        ("start", {"start": NOW + MINUTE, "end": NOW}),
        ("start", {"start": NOW + timedelta(seconds=1), "end": NOW}),  # of one minute, and yet the wrong way round
        ("start", {"start": NOW + timedelta(days=1)}),
        ("start", {"start": datetime.min.replace(tzinfo=UTC)}),
        ("end", {"end": datetime.max.replace(tzinfo=UTC)}),
        ("end", {"end": datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))}),
        ("start", {"start": datetime.max.replace(tzinfo=timezone(-timedelta(hours=23)))}),
    ],
)
async def test_windows_that_are_none_are_refused(lab: Laboratory, path: str, values: dict[str, Any]):
    made = await lab.sensor()
    with pytest.raises(Invalid) as refusal:
        await lab.ask(lambda work: work.sensors.heartbeats(made.sensor.id, **values))
    assert [error["path"] for error in refusal.value.errors] == [path]
    # Who may not see the sensor learns nothing of the window either.
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.sensors.heartbeats(made.sensor.id, **values), by=lab.outsider)


async def test_a_summary_counts_what_the_caller_may_read(lab: Laboratory):
    guest = await Laboratory.open(lab.units, lab.clock)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    seen, old, never, gone = [await lab.sensor() for _ in range(4)]
    foreign = await guest.sensor()

    async def beat(*sensors: SensorWithToken) -> None:
        for made in sensors:
            await lab.do(lambda work, made=made: work.sensors.heartbeat(made.sensor.id), by=token_of(made))

    await beat(old, gone)
    await lab.do(lambda work: work.sensors.retire(gone.sensor.id))
    await lab.do(lambda work: work.sensors.deactivate(old.sensor.id))  # off, but seen as any other
    lab.clock.pass_by(30)
    await beat(seen, foreign)
    for shared in (seen, old):
        await lab.do(lambda work, it=shared: work.sensors.share(it.sensor.id, guest.project.id))

    def summary(by: User, *projects: Project) -> Awaitable[StatusSummary]:
        return lab.ask(lambda work: work.sensors.status_summary([project.id for project in projects]), by=by)

    async def listed(by: User, *connections: Connection) -> set[UUID]:
        which = SensorFilter(project_ids=(), connections=connections)
        return {sensor.id for sensor in (await lab.ask(lambda work: work.sensors.page(which), by=by)).items}

    assert await summary(lab.viewer) == StatusSummary(online=1, delayed=1, offline=1)
    assert await summary(lab.viewer, lab.project) == await summary(lab.viewer)
    assert await summary(lab.viewer, guest.project) == await summary(lab.outsider) == StatusSummary()
    assert await summary(guest.viewer) == StatusSummary(online=2, delayed=1)
    assert await summary(lab.owner) == StatusSummary(online=2, delayed=1, offline=1)  # both projects, each once
    assert await summary(lab.owner, guest.project) == StatusSummary(online=2, delayed=1)
    assert await listed(lab.viewer, Connection.ONLINE) == {seen.sensor.id}
    assert await listed(lab.viewer, Connection.DELAYED) == {old.sensor.id, gone.sensor.id}  # lists hold retired ones
    assert await listed(lab.viewer, Connection.OFFLINE) == {never.sensor.id}
    assert await listed(guest.viewer, *Connection) == {foreign.sensor.id, seen.sensor.id, old.sensor.id}
    lab.clock.pass_by(270)
    assert await summary(lab.viewer) == StatusSummary(delayed=1, offline=2)
    with pytest.raises(Forbidden):
        await lab.ask(lambda work: work.sensors.status_summary(), by=token_of(seen))


async def test_guests_read_the_signs_of_life_of_a_shared_sensor(lab: Laboratory):
    guest = await Laboratory.open(lab.units, lab.clock)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
    questions: list[Callable[[Work], Awaitable[Any]]] = [
        lambda work: work.sensors.get(made.sensor.id),
        lambda work: work.sensors.heartbeats(made.sensor.id),
    ]
    for question in questions:
        with pytest.raises(NotFound):
            await guest.ask(question, by=guest.viewer)
    await lab.do(lambda work: work.sensors.share(made.sensor.id, guest.project.id))
    for question in questions:
        assert await guest.ask(question, by=guest.viewer) == await lab.ask(question)
    # What was done to it, and with whom else it is shared, is the affair of its own project.
    for secret in (
        lambda work: work.sensors.history(made.sensor.id),
        lambda work: work.sensors.projects(made.sensor.id),
    ):
        with pytest.raises(NotFound):
            await guest.ask(secret, by=guest.owner)


@pytest.mark.parametrize("verb", ["retire", "delete"])
async def test_a_sensor_in_use_elsewhere_stays(lab: Laboratory, verb: str):
    guest = await Laboratory.open(lab.units)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.share(made.sensor.id, guest.project.id))
    run = await guest.run(start=True)
    await guest.do(lambda work: work.runs.bind(run.id, made.sensor.id))
    session = await guest.session(run)
    await guest.do(lambda work: work.projects.remove_member(guest.project.id, lab.owner.id))
    for use, by in (
        (lambda work: getattr(work.sensors, verb)(made.sensor.id), lab.owner),
        (lambda work: work.runs.unbind(run.id, made.sensor.id), guest.editor),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(use, by=by)
        assert refusal.value.code == "sensor_in_use"
        said = f"{refusal.value.detail} {refusal.value.facts}"
        assert not any(str(thing.id) in said for thing in (session, run, guest.project))
    await guest.stop(session)
    await lab.do(lambda work: work.sensors.retire(made.sensor.id))


async def test_two_projects_record_with_one_sensor(lab: Laboratory):
    guest = await Laboratory.open(lab.units)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.share(made.sensor.id, guest.project.id))
    sessions = []
    for place in (lab, guest):
        run = await place.run(start=True)
        await place.do(lambda work, run=run: work.runs.bind(run.id, made.sensor.id))
        sessions.append(await place.session(run))
    with pytest.raises(Conflict) as refusal:
        await lab.ingest(made, a_batch(a_column([0], [1.0])))
    assert refusal.value.code == "ambiguous_session"
    for place, session in zip((lab, guest), sessions, strict=True):
        await lab.ingest(made, a_batch(a_column([0], [1.0]), session=session.id))
        (series,) = await place.ask(lambda work, it=session: work.telemetry.series(it.id), by=place.viewer)
        assert series.count == 1


@pytest.mark.postgres
@pytest.mark.timeout(300)
async def test_signs_of_life_from_everywhere_at_once_are_all_counted(
    runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork, module_postgres_url: str
):
    """Four processes' worth of pools, one sensor in sessions of two projects: nobody waits in a circle."""
    from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork

    lab = await Laboratory.open(postgres_units_of_work)
    guest = await Laboratory.open(postgres_units_of_work, lab.clock)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    made, other = await lab.sensor(), await lab.sensor()
    sessions: list[CaptureSession] = []
    for place in (lab, guest):
        run = await place.run(start=True)
        for it in (made, other):
            if place is guest:
                await lab.do(lambda work, it=it: work.sensors.share(it.sensor.id, guest.project.id))
            await place.do(lambda work, run=run, it=it: work.runs.bind(run.id, it.sensor.id))
        sessions.append(await place.session(run))
    lab.clock.at = minute_of(lab.clock.at)
    rounds, each = 6, 8
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(PostgresUnitsOfWork.open(module_postgres_url)) for _ in range(4)]
        processes = [Services(units_of_work=pool, clock=lab.clock) for pool in pools]

        async def do(number: int, use: Callable[[Work], Awaitable[Any]], by: Any) -> Any:
            try:
                async with processes[number % len(processes)].begin(by) as work:
                    return await use(work)
            except Refusal as refusal:
                return refusal.code

        for turn in range(rounds):
            uses: list[Awaitable[Any]] = []
            for number in range(each):
                for it in (made, other):
                    session = sessions[number % 2]
                    batch = a_batch(a_column([turn * each + number], [1.0]), session=session.id)
                    uses.append(do(number, lambda work, it=batch: work.telemetry.ingest(it), token_of(it)))
                    beat = lambda work, it=it: work.sensors.heartbeat(it.sensor.id)  # noqa: E731
                    uses.append(do(number + 1, beat, token_of(it)))
                    edit = lambda work, it=it, n=number: work.sensors.edit(it.sensor.id, name=f"TC {n}")  # noqa: E731
                    uses.append(do(number + 2, edit, lab.owner))
            uses.append(do(0, lambda work: work.captures.stop(sessions[1].id, CaptureStatus.SUCCEEDED), guest.owner))
            answers = await asyncio.gather(*uses)
            assert [answer for answer in answers if isinstance(answer, str)] == []
            lab.clock.pass_by(SIGN_OF_LIFE_EVERY.total_seconds())
    for it in (made, other):
        (found,) = await _counts(lab, it.sensor.id)
        # Each heartbeat, and in each turn at most one batch: most turns begin with a heartbeat.
        assert rounds * each <= found <= rounds * each + rounds
        shown = await lab.ask(lambda work, it=it: work.sensors.get(it.sensor.id))
        assert shown.last_seen_at == lab.clock.at - SIGN_OF_LIFE_EVERY
        assert len(await lab.history("sensor", it.sensor.id)) == 1
    with pytest.raises(Unauthenticated):
        await lab.do(
            lambda work: work.sensors.heartbeat(made.sensor.id), by=SensorToken(token_hash=token_hash("xps_no"))
        )


async def test_of_batches_that_are_due_at_once_one_gives_the_sign(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    lab.clock.at = minute_of(lab.clock.at)
    for turn in range(3):
        batches = [a_batch(a_column([turn * 100 + n], [1.0]), session=session.id) for n in range(10)]
        await asyncio.gather(*(lab.ingest(made, batch) for batch in batches))
        assert await _counts(lab, made.sensor.id) == [turn + 1]
        lab.clock.pass_by(SIGN_OF_LIFE_EVERY.total_seconds())


async def test_signs_are_forgotten_while_they_are_given(lab: Laboratory):
    made = await lab.sensor()
    now = minute_of(lab.clock.at)
    lab.clock.at = now - timedelta(days=400)
    for _ in range(20):
        lab.clock.pass_by(60)
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
    lab.clock.at = now

    async def forget() -> int:
        async with lab.units.begin(System()) as uow:
            forgotten = await uow.sensors.forget_signs_of_life(now - timedelta(days=399), most=7)
            await uow.commit()
        return forgotten

    async def beat() -> int:
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
        return 0

    forgotten = sum(await asyncio.gather(*(use() for use in [forget, beat] * 4)))
    assert forgotten + await forget() + await forget() + await forget() == 20
    assert await _counts(lab, made.sensor.id) == [4]


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        pytest.param("deactivate", "sensor_inactive", marks=pytest.mark.covers("sensors.deactivate")),
        pytest.param("retire", "sensor_retired", marks=pytest.mark.covers("sensors.retire")),
    ],
)
@pytest.mark.covers("sensors.activate")
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


@pytest.mark.covers("sensors.rotate_token")
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


@pytest.mark.covers("sensors.register", "sensors.rotate_token")
async def test_tokens_are_in_no_record(lab: Laboratory):
    made = await lab.sensor()
    rotated = await lab.do(lambda work: work.sensors.rotate_token(made.sensor.id, grace=5.0))
    for record in await lab.audit():
        text = repr((record.before, record.after))
        assert "token_hash" not in text
        assert made.token not in text
        assert rotated.token not in text


@pytest.mark.parametrize("verb", ["retire", "delete"])
@pytest.mark.covers("sensors.retire")
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


@pytest.mark.covers("sensors.delete")
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


@pytest.mark.covers("sensors.delete")
async def test_runs_that_lose_a_deleted_sensor_are_told(lab: Laboratory):
    guest = await Laboratory.open(lab.units)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    run, theirs = await lab.run(start=True), await guest.run()
    made = await lab.sensor(run)
    sensor_id = made.sensor.id
    await lab.do(lambda work: work.sensors.share(sensor_id, guest.project.id))
    await guest.do(lambda work: work.runs.bind(theirs.id, sensor_id))
    await lab.do(lambda work: work.sensors.delete(sensor_id))
    for rig, lost_by in ((lab, run), (guest, theirs)):
        told = [record for record in await rig.audit() if record.action == "unbind"]
        assert [(record.target_id, record.actor, record.before) for record in told] == [
            (str(lost_by.id), lab.owner.id, {"sensor_id": str(sensor_id)})
        ]
    told_of = await ask(lab.units, lambda uow: uow.events.of(f"sensor/{sensor_id}", limit=10, after=None))
    unbound = [it.event for it in told_of if it.event.type == "sensor.unbound"]
    assert {event.project_id: event.data for event in unbound} == {
        lab.project.id: {"run_id": str(run.id)},
        guest.project.id: {"run_id": str(theirs.id)},
    }
    assert len(unbound) == 2


@pytest.mark.parametrize("verb", ["finish", "fail", "archive"])
async def test_a_run_that_is_over_loses_no_sensor(lab: Laboratory, verb: str):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.do(lambda work: getattr(work.runs, verb)(run.id))
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.sensors.delete(made.sensor.id))
    assert refusal.value.code == "sensor_bound"
    assert [it.sensor_id for it in await lab.ask(lambda work: work.runs.sensors(run.id))] == [made.sensor.id]
    await lab.do(lambda work: work.sensors.retire(made.sensor.id))


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


@pytest.mark.covers("sensors.share", "sensors.unshare")
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


async def test_a_project_that_only_a_token_knows_of_gets_no_sensor(lab: Laboratory):
    made = await lab.sensor()
    gone = fresh()
    claimant = User(id=lab.owner.id, projects={gone: Role.OWNER})
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.sensors.share(made.sensor.id, gone), by=claimant)


async def test_who_may_not_know_of_a_project_is_not_told_that_it_shares_a_sensor(lab: Laboratory):
    guest = await Laboratory.open(lab.units)
    await guest.do(lambda work: work.projects.put_member(guest.project.id, lab.owner.id, Role.EDITOR))
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.share(made.sensor.id, guest.project.id))
    assert await lab.ask(lambda work: work.sensors.projects(made.sensor.id), by=lab.viewer) == [lab.project.id]


@pytest.mark.covers("sensors.share", "sensors.unshare")
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
