"""Runs that hang: who counts as alive, who is warned about, who fails, and who is left alone."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from entities import a_batch, a_column, later
from experiment_domain import vigils
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Conflict, Forbidden, NotFound
from experiment_domain.runs import Run, RunStatus
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.store import Offer
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.chores import time_out_hung_runs
from experiment_domain.usecases.services import Services
from keeping import ask, committed
from laboratory import Laboratory, token_of

SOON = 0.05
LONG = 3600.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence and grace last as long as a run says."""
    monkeypatch.setattr(vigils, "READINGS_COUNT_EVERY", timedelta())
    monkeypatch.setattr(vigils, "SHORTEST_GRACE", timedelta())


@pytest.fixture
def lab(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Laboratory:
    return runner.run(Laboratory.open(units_of_work))


async def warned(lab: Laboratory) -> set[UUID]:
    return set(await lab.do(lambda work: work.runs.warn_silent(), by=System()))


async def hung(lab: Laboratory) -> set[UUID]:
    return set(await lab.do(lambda work: work.runs.hung(), by=System()))


async def told(lab: Laboratory, run: Run) -> list[str]:
    found = await ask(lab.units, lambda uow: uow.events.of(f"run/{run.id}", limit=100, after=None))
    return [recorded.event.type for recorded in found]


async def silence(seconds: float = 2 * SOON) -> None:
    await asyncio.sleep(seconds)


@pytest.mark.covers("runs.warn_silent", "runs.hung", "runs.time_out")
async def test_a_silent_run_is_warned_about_and_then_fails_with_its_session(lab: Laboratory):
    run = await lab.run(start=True, auto_close_after=SOON)
    await lab.sensor(run)
    session = await lab.session(run)
    await silence()
    assert run.id in await warned(lab)
    assert run.id not in await warned(lab)  # once is enough
    await silence()
    assert run.id in await hung(lab)
    failed = await lab.do(lambda work: work.runs.time_out(run.id), by=System())
    assert failed is not None
    assert failed.status is RunStatus.FAILED
    assert failed.finished_at is not None
    stopped = await lab.ask(lambda work: work.captures.get(session.id))
    assert stopped.status is CaptureStatus.FAILED
    assert (await told(lab, run))[-3:] == ["run.fell_silent", "run.timed_out", "run.failed"]
    for noun, entity_id in (("run", run.id), ("capture_session", session.id)):
        change = (await lab.history(noun, entity_id))[-1]
        assert (change.source, change.target, change.actor, change.role, change.reason) == (
            "running",
            "failed",
            "system",
            "system",
            "timed_out",
        )
    assert [record.action for record in await lab.audit()][-2:] == ["stop", "time_out"]
    assert run.id not in await hung(lab)
    assert await lab.do(lambda work: work.runs.time_out(run.id), by=System()) is None


@pytest.mark.covers("runs.heartbeat")
async def test_a_heartbeat_within_the_grace_keeps_a_run(lab: Laboratory):
    run = await lab.run(start=True, auto_close_after=SOON)
    await silence()
    await warned(lab)
    await silence()
    assert run.id in await hung(lab)
    assert await lab.do(lambda work: work.runs.heartbeat(run.id), by=lab.editor) == run
    assert await lab.do(lambda work: work.runs.time_out(run.id), by=System()) is None
    assert run.id not in await hung(lab)
    await silence()
    assert run.id in await warned(lab)


@pytest.mark.parametrize("sign", ["readings", "edit", "tag", "session", "bind", "unbind", "metrics"])
async def test_readings_and_commands_are_signs_of_life(lab: Laboratory, sign: str):
    run = await lab.run(start=True, auto_close_after=SOON)
    made, other = await lab.sensor(run), await lab.sensor()
    session = await lab.session(run)
    spare = await lab.sensor(run)  # it takes no part in the session
    await silence()
    assert run.id in await warned(lab)
    lab.clock.pass_by(60)
    if sign == "readings":
        await lab.ingest(made, a_batch(a_column([micros(later(0))], [1.0]), session=session.id))
    elif sign == "edit":
        await lab.do(lambda work: work.runs.edit(run.id, notes="still there"))
    elif sign == "tag":
        await lab.do(lambda work: work.runs.edit(run.id, tags=["odd"]))
    elif sign == "session":
        await lab.stop(session)
    elif sign == "bind":
        await lab.do(lambda work: work.runs.bind(run.id, other.sensor.id))
    elif sign == "unbind":
        await lab.do(lambda work: work.runs.unbind(run.id, spare.sensor.id))
    else:
        from experiment_domain.scalars import Logged

        await lab.do(lambda work: work.scalars.log(run.id, [Logged(name="loss", value=1.0)]))
    await silence()
    assert run.id not in await hung(lab)
    assert await lab.do(lambda work: work.runs.time_out(run.id), by=System()) is None
    assert run.id in await warned(lab)  # anew


@pytest.mark.parametrize("elsewhere", ["heartbeat", "other run", "clock"])
async def test_readings_keep_their_run_whatever_else_their_sensor_does(lab: Laboratory, elsewhere: str):
    run, other = [await lab.run(start=True, auto_close_after=SOON) for _ in range(2)]
    made = await lab.sensor(run, other)
    session, another = [await lab.session(each) for each in (run, other)]

    async def deliver(number: int, to: CaptureSession) -> None:
        await lab.ingest(made, a_batch(a_column([micros(later(number))], [1.0]), session=to.id))

    await silence()
    assert run.id in await warned(lab)
    # Whatever the sensor has just been seen by, and by however wrong a clock.
    if elsewhere == "heartbeat":
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
    elif elsewhere == "other run":
        await deliver(1, another)
    else:
        lab.clock.pass_by(3_600)
        await lab.do(lambda work: work.sensors.heartbeat(made.sensor.id), by=token_of(made))
        lab.clock.pass_by(-3_600)
    await deliver(2, session)
    assert await lab.do(lambda work: work.runs.time_out(run.id), by=System()) is None
    await silence()
    assert run.id not in await hung(lab)


async def test_readings_that_are_to_keep_their_run_are_not_stored_with_those_of_others(lab: Laboratory):
    """Whoever holds the sign of life of one run would hold up the readings of the others."""
    runs = [await lab.run(start=True, auto_close_after=SOON) for _ in range(2)]
    offers: list[Offer] = []
    for run in runs:
        made = await lab.sensor(run)
        session = await lab.session(run)
        for number in range(2):
            batch = a_batch(a_column([micros(later(number))], [1.0]), session=session.id)
            if number == 0:
                await lab.ingest(made, batch)
            else:
                offers.append(Offer(token_hash=token_of(made).token_hash, batch=batch))
    await silence()
    assert {run.id for run in runs} <= await warned(lab)
    assert await lab.do(lambda work: work.telemetry.ingest_at_once(offers), by=System()) == [None, None]
    await silence()
    assert {run.id for run in runs} <= await hung(lab)


async def test_a_limit_that_is_raised_counts_for_runs_that_were_warned_about(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vigils, "LONGEST_GRACE", timedelta(seconds=SOON))
    await lab.do(lambda work: work.projects.edit(lab.project.id, auto_close_after=SOON))
    run = await lab.run(start=True)
    await silence()
    assert run.id in await warned(lab)
    await lab.do(lambda work: work.projects.edit(lab.project.id, auto_close_after=LONG))
    await silence()
    assert run.id not in await hung(lab)
    await lab.do(lambda work: work.projects.edit(lab.project.id, auto_close_after=SOON))
    assert run.id in await hung(lab)


@pytest.mark.postgres
async def test_a_heartbeat_that_is_answered_keeps_its_run(postgres_units_of_work: UnitsOfWork):
    lab = await Laboratory.open(postgres_units_of_work)
    run = await lab.run(start=True, auto_close_after=SOON)
    await silence()
    await warned(lab)
    await silence()
    async with lab.services.begin(System()) as work:
        assert await work.runs.time_out(run.id) is not None
        beating = asyncio.create_task(lab.do(lambda work: work.runs.heartbeat(run.id), by=lab.editor))
        await asyncio.wait([beating], timeout=0.3)
    with pytest.raises(Conflict, match="failed"):
        await beating


async def test_looking_is_no_sign_of_life(lab: Laboratory):
    run = await lab.run(start=True, auto_close_after=SOON)
    await silence()
    await lab.ask(lambda work: work.runs.get(run.id))
    assert run.id in await warned(lab)


async def test_a_run_without_a_limit_is_left_alone_and_the_projects_counts(lab: Laboratory):
    unlimited = await lab.run(start=True)
    await silence()
    assert unlimited.id not in await warned(lab)
    await lab.do(lambda work: work.projects.edit(lab.project.id, auto_close_after=SOON))
    own = await lab.run(start=True, auto_close_after=LONG)
    draft = await lab.run()
    await silence()
    found = await warned(lab)
    assert unlimited.id in found
    assert not {own.id, draft.id} & found


async def test_only_running_runs_have_a_heart(lab: Laboratory):
    draft = await lab.run()
    with pytest.raises(Conflict, match="draft"):
        await lab.do(lambda work: work.runs.heartbeat(draft.id))
    with pytest.raises(Forbidden):
        await lab.do(lambda work: work.runs.heartbeat(draft.id), by=lab.viewer)
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.runs.heartbeat(draft.id), by=lab.outsider)
    for use in (lambda work: work.runs.warn_silent(), lambda work: work.runs.hung()):
        with pytest.raises(Forbidden):
            await lab.do(use)


@pytest.mark.covers("worker.time_out_hung_runs")
async def test_the_chore_does_all_of_it(lab: Laboratory):
    services = Services(units_of_work=lab.units)
    over: Callable[[], bool] = lambda: False  # noqa: E731
    runs = [await lab.run(start=True, auto_close_after=SOON) for _ in range(3)]
    alive = await lab.run(start=True, auto_close_after=LONG)

    async def statuses() -> list[RunStatus]:
        return [(await lab.ask(lambda work: work.runs.get(run.id))).status for run in (*runs, alive)]  # noqa: B023

    await silence()
    await time_out_hung_runs(services, over)
    assert await statuses() == [RunStatus.RUNNING] * 4
    await silence()
    assert await time_out_hung_runs(services, lambda: True) == 0
    assert await time_out_hung_runs(services, over) >= 3
    assert await statuses() == [RunStatus.FAILED] * 3 + [RunStatus.RUNNING]


@pytest.mark.postgres
def test_running_runs_are_found_by_their_index(postgres_url: str):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO projects (id, version, created_at, updated_at, created_by, name, raw_readers, physical_only,"
            " auto_close_after, future_tolerance)"
            " VALUES ('00000000-0000-7000-8000-000000000001', 1, now(), now(), 'ann', 'P', '{}', false, 60, 300)"
        )
        connection.execute(
            "INSERT INTO experiments (id, project_id, version, created_at, updated_at, created_by, name, tags,"
            " metadata, status) SELECT '00000000-0000-7000-8000-000000000002', id, 1, now(), now(), 'ann', 'E', '{}',"
            " '{}', 'running' FROM projects"
        )
        connection.execute(
            "INSERT INTO runs (id, project_id, version, created_at, updated_at, created_by, experiment_id, name,"
            " params, tags, metadata, env, participants, status)"
            " SELECT gen_random_uuid(), project_id, 1, now(), now(), 'ann', id, 'R', '{}', '{}', '{}', '{}', '{}',"
            " CASE WHEN number % 1000 = 0 THEN 'running' ELSE 'finished' END"
            " FROM experiments, generate_series(1, 50000) AS number"
        )
        connection.execute("INSERT INTO run_vigils SELECT id, now() - interval '1 hour' FROM runs")
        connection.execute("ANALYZE runs, run_vigils, projects")
        from experiment_adapters.postgres.vigils import _HUNG, _WARN

        for query, values in ((_WARN, [timedelta(), 500]), (_HUNG, [timedelta(), timedelta()])):
            row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", values).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]
            assert row is not None
            text = json.dumps(row[0])
            assert "runs_running" in text
            assert row[0][0]["Plan"]["Shared Hit Blocks"] < 2_000


@pytest.mark.postgres
async def test_a_batch_and_a_time_out_do_not_wait_in_a_circle(postgres_units_of_work: UnitsOfWork):
    lab = await Laboratory.open(postgres_units_of_work)
    for number in range(10):
        run = await lab.run(start=True, auto_close_after=SOON)
        made = await lab.sensor(run)
        session = await lab.session(run)
        await silence()
        await warned(lab)
        await silence()
        lab.clock.pass_by(60)
        batch = a_batch(a_column([micros(later(number))], [1.0]), session=session.id)
        outcomes = await asyncio.gather(
            lab.ingest(made, batch),
            lab.do(lambda work: work.runs.time_out(run.id), by=System()),  # noqa: B023
        )
        after = await lab.ask(lambda work: work.runs.get(run.id))  # noqa: B023
        # Either the readings came first, and the run lives, or they came late.
        assert (after.status is RunStatus.RUNNING) == (outcomes[1] is None)
        assert outcomes[0].late == (0 if outcomes[1] is None else 1)
    async with committed(lab.units) as uow:
        assert await uow.vigils.hung(most=1) is not None
