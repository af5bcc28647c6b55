"""What nobody asks for and is put right all the same: sensors that went offline, sessions left running."""

import asyncio
import json
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import evolve

from entities import NOW, a_batch, a_column, later
from experiment_adapters.postgres.captures import _LEFT_RUNNING
from experiment_adapters.postgres.vigils import _DUE, _STILL_DUE
from experiment_domain import System
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import SensorToken
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.runs import Run, RunStatus
from experiment_domain.sensors import DELAYED_FOR, token_hash
from experiment_domain.telemetry.batches import micros
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.captures import RUN_OVER
from experiment_domain.usecases.chores import close_sessions_left_running, look_at_sensors
from experiment_domain.usecases.sensors import Looked, SensorWithToken
from keeping import ask, committed
from laboratory import Laboratory

FIVE_MINUTES = DELAYED_FOR.total_seconds()


def never() -> bool:
    return False


@pytest.fixture
def lab(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Laboratory:
    return runner.run(Laboratory.open(units_of_work))


async def look(lab: Laboratory, **how: Any) -> Looked:
    return await lab.do(lambda work: work.sensors.look(**how), by=System())


async def beat(lab: Laboratory, made: SensorWithToken) -> None:
    await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=SensorToken(token_hash=token_hash(made.token)))


async def told(lab: Laboratory, subject: str) -> list[RecordedEvent]:
    return list(await ask(lab.units, lambda uow: uow.events.of(subject, limit=100, after=None)))


async def told_of(lab: Laboratory, made: SensorWithToken) -> list[str]:
    """Whether it was told to be offline and online, in order."""
    kinds = [each.event.type for each in await told(lab, f"sensor/{made.sensor.id}")]
    return [kind.removeprefix("sensor.") for kind in kinds if kind in ("sensor.offline", "sensor.online")]


@pytest.mark.covers("sensors.look", "worker.look_at_sensors")
async def test_a_sensor_that_goes_offline_is_told_once_and_so_is_that_it_came_back(lab: Laboratory):
    made = await lab.sensor()
    await look(lab)
    assert await told_of(lab, made) == []  # never seen
    await beat(lab, made)
    await look(lab)
    lab.clock.pass_by(FIVE_MINUTES - 1)
    await look(lab)
    assert await told_of(lab, made) == []
    lab.clock.pass_by(1)
    assert await look_at_sensors(lab.services, never) >= 1
    for _ in range(2):
        lab.clock.pass_by(FIVE_MINUTES)
        await look(lab)
    assert await told_of(lab, made) == ["offline"]
    (event,) = [each for each in await told(lab, f"sensor/{made.sensor.id}") if each.event.type == "sensor.offline"]
    assert (event.actor, event.event.data) == ("system", {"last_seen_at": NOW.isoformat().replace("+00:00", "Z")})
    await beat(lab, made)
    await look(lab)
    await look(lab)
    assert await told_of(lab, made) == ["offline", "online"]
    lab.clock.pass_by(FIVE_MINUTES)
    await look(lab)
    assert await told_of(lab, made) == ["offline", "online", "offline"]
    assert (await lab.ask(lambda work: work.sensors.get(made.sensor.id))).version == made.sensor.version + 1


async def test_one_that_goes_on_sending_is_never_told(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    for number in range(12):
        await lab.ingest(made, a_batch(a_column([micros(later(number))], [1.0]), session=session.id))
        lab.clock.pass_by(FIVE_MINUTES / 3)
        await look(lab)
    assert await told_of(lab, made) == []


@pytest.mark.parametrize("command", ["deactivate", "retire"])
async def test_silence_that_was_asked_for_is_not_told(lab: Laboratory, command: str):
    made = await lab.sensor()
    await beat(lab, made)
    await lab.do(lambda work: getattr(work.sensors, command)(made.sensor.id))
    lab.clock.pass_by(FIVE_MINUTES)
    await look(lab)
    assert await told_of(lab, made) == []
    if command == "deactivate":
        await lab.do(lambda work: work.sensors.activate(made.sensor.id))
        await look(lab)
        assert await told_of(lab, made) == []  # until it has given a sign of life
        await beat(lab, made)
        lab.clock.pass_by(FIVE_MINUTES)
        await look(lab)
        assert await told_of(lab, made) == ["offline"]


async def test_many_are_looked_at_in_parts(lab: Laboratory, monkeypatch: pytest.MonkeyPatch):
    lab.clock.pass_by(10 * FIVE_MINUTES)
    await look(lab)
    sensors = [await lab.sensor() for _ in range(5)]
    for made in sensors:
        await beat(lab, made)
    lab.clock.pass_by(FIVE_MINUTES)
    monkeypatch.setattr("experiment_domain.usecases.chores.LOOKED_AT_ONCE", 2)
    assert await look(lab, most=2) == Looked(count=2, offline=2, online=0)
    assert sorted([await told_of(lab, made) for made in sensors]) == [[], [], [], ["offline"], ["offline"]]
    assert await look_at_sensors(lab.services, never) == 3
    assert [await told_of(lab, made) for made in sensors] == [["offline"]] * 5


async def test_a_deleted_sensor_is_not_looked_at(lab: Laboratory):
    made = await lab.sensor()
    await beat(lab, made)
    await lab.do(lambda work: work.sensors.delete(made.sensor.id))
    lab.clock.pass_by(FIVE_MINUTES)
    await look(lab)
    assert await told_of(lab, made) == []


@pytest.mark.postgres
async def test_signs_of_life_and_two_that_look_agree_in_the_end(postgres_units_of_work: UnitsOfWork):
    """However they meet: what was told last is what is so, offline and online come by turns."""
    lab = await Laboratory.open(postgres_units_of_work)
    sensors = [await lab.sensor() for _ in range(8)]
    for made in sensors:
        await beat(lab, made)
    for number in range(12):
        lab.clock.pass_by(FIVE_MINUTES)
        beating = [made for place, made in enumerate(sensors) if (place + number) % 2]
        await asyncio.gather(look(lab), *(beat(lab, made) for made in beating), look(lab))
        await look(lab)
        await look(lab)
        for made in sensors:
            kinds = await told_of(lab, made)
            assert kinds == ["offline", "online"] * (len(kinds) // 2) + ["offline"] * (len(kinds) % 2)
            assert (kinds[-1:] == ["offline"]) == (made not in beating)


async def a_session_left(lab: Laboratory, status: RunStatus) -> tuple[Run, CaptureSession]:
    """A running session in a run that is over, as no command leaves it behind."""
    run = await lab.run(start=True)
    await lab.sensor(run)
    session = await lab.session(run)
    async with committed(lab.units) as uow:
        run = await uow.runs.get(run.id)
        assert run is not None
        uow.runs.save(evolve(run, status=status, finished_at=later(1), version=run.version + 1))
    return run, session


async def left(lab: Laboratory) -> list[UUID]:
    return list(await lab.do(lambda work: work.captures.left_running(), by=System()))


@pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED, RunStatus.ARCHIVED])
@pytest.mark.covers("captures.left_running", "captures.close_left", "worker.close_sessions_left_running")
async def test_a_session_left_running_is_failed_by_the_ordinary_command(lab: Laboratory, status: RunStatus):
    run, session = await a_session_left(lab, status)
    assert session.id in await left(lab)
    assert await close_sessions_left_running(lab.services, never) >= 1
    assert await left(lab) == []
    end = [CaptureStatus.FAILED, *([CaptureStatus.ARCHIVED] if status is RunStatus.ARCHIVED else [])]
    after = await lab.ask(lambda work: work.captures.get(session.id))
    assert (after.status, after.stopped_at) == (end[-1], lab.clock.now())
    steps = (await lab.history("capture_session", session.id))[-len(end) :]
    assert [(step.target, step.actor, step.role, step.reason) for step in steps] == [
        (target, "system", "system", RUN_OVER) for target in end
    ]
    kinds = [each.event.type for each in await told(lab, f"capture_session/{session.id}")]
    assert kinds[-len(end) :] == [f"capture.{target}" for target in end]
    assert [record.action for record in await lab.audit()][-len(end) :] == ["stop", "archive"][: len(end)]
    assert (await lab.ask(lambda work: work.runs.get(run.id))).status is status
    assert await lab.do(lambda work: work.captures.close_left(session.id), by=System()) is None


async def test_a_session_of_a_running_run_is_left_alone(lab: Laboratory):
    run = await lab.run(start=True)
    await lab.sensor(run)
    session = await lab.session(run)
    assert session.id not in await left(lab)
    assert await lab.do(lambda work: work.captures.close_left(session.id), by=System()) is None
    assert (await lab.ask(lambda work: work.captures.get(session.id))).is_running


@pytest.mark.postgres
async def test_of_two_that_close_a_session_one_does(postgres_units_of_work: UnitsOfWork):
    lab = await Laboratory.open(postgres_units_of_work)
    _, session = await a_session_left(lab, RunStatus.FINISHED)
    outcomes = await asyncio.gather(
        *(lab.do(lambda work: work.captures.close_left(session.id), by=System()) for _ in range(2))
    )
    assert sorted(outcome is None for outcome in outcomes) == [False, True]
    assert [step.target for step in await lab.history("capture_session", session.id)][-2:] == ["running", "failed"]


@pytest.mark.postgres
def test_who_is_due_is_found_by_an_index(postgres_url: str):
    """Among 50,000 sensors of which a few are due, and 50,000 sessions of which a few are running."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO projects (id, version, created_at, updated_at, created_by, name, raw_readers, physical_only,"
            " auto_close_after, future_tolerance)"
            " VALUES ('00000000-0000-7000-8000-000000000001', 1, now(), now(), 'ann', 'P', '{}', false, 60, 300)"
        )
        entity = "project_id, 1, now(), now(), 'ann'"
        columns = "project_id, version, created_at, updated_at, created_by"
        connection.execute(
            f"INSERT INTO experiments (id, {columns}, name, tags, metadata, status) SELECT"
            " '00000000-0000-7000-8000-000000000002', id, 1, now(), now(), 'ann', 'E', '{}', '{}', 'running'"
            " FROM projects"
        )
        connection.execute(
            f"INSERT INTO runs (id, {columns}, experiment_id, name, params, tags, metadata, env, participants, status)"
            f" SELECT gen_random_uuid(), {entity}, id, 'R', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', 'finished'"
            " FROM experiments, generate_series(1, 50000)"
        )
        connection.execute(
            f"INSERT INTO capture_sessions (id, {columns}, run_id, ordinal, status)"
            f" SELECT gen_random_uuid(), {entity}, id, 1, CASE WHEN row_number() OVER () % 1000 = 0 THEN 'running'"
            " ELSE 'succeeded' END FROM runs"
        )
        connection.execute(
            f"INSERT INTO sensors (id, {columns}, name, sensor_type, input_unit, display_unit, signals, metadata,"
            " status, token_hash)"
            f" SELECT gen_random_uuid(), {entity}, 'S', 't', 'V', 'V', '{{}}', '{{}}', 'active',"
            " sha256(number::text::bytea) FROM experiments, generate_series(1, 50000) AS number"
        )
        connection.execute(
            "INSERT INTO sensor_vigils (sensor_id, look_at) SELECT id, CASE WHEN row_number() OVER () % 1000 = 0"
            " THEN now() - interval '1 minute' WHEN row_number() OVER () % 2 = 0 THEN now() + interval '1 minute' END"
            " FROM sensors"
        )
        connection.execute("ANALYZE")
        now = datetime.now().astimezone()
        ids = [sensor_id for (sensor_id,) in connection.execute(_DUE.encode(), [now, 500]).fetchall()]
        assert len(ids) == 50

        def explained(query: str, values: list[Any]) -> Any:
            row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}".encode(), values).fetchone()
            assert row is not None
            return row[0]

        for query, values, index in (
            (_DUE, [now, 500], "sensor_vigils_due"),
            (_STILL_DUE, [ids, now], "sensor_vigils_"),
            (_LEFT_RUNNING, [100], "capture_sessions_running"),
        ):
            plan = explained(query, values)
            assert index in json.dumps(plan)
            assert "Seq Scan" not in json.dumps(plan)
            assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 1_000
