"""What every `LiveReadings` promises: each chunk once, as it came in, whatever commits when; and what `News` tells."""

import asyncio
import math
import random
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import settings

from contention import contended
from entities import NOW, a_batch, a_column, fresh
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import System, User
from experiment_domain.kernel.errors import Conflict, Forbidden, NotFound
from experiment_domain.kernel.news import EVENTS
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.live import LivePart
from experiment_domain.telemetry.store import Layer
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.compaction import compact_telemetry
from experiment_domain.usecases.sensors import SensorWithToken
from keeping import ask
from laboratory import Laboratory, token_of

START = micros(NOW)
BATCHES = 5_000 if settings.get_current_profile_name() == "nightly" else 300


class BrokenError(Exception):
    """Something went wrong before the commit."""


async def recording(lab: Laboratory, *, profile: bool = True) -> tuple[SensorWithToken, CaptureSession]:
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    if profile:
        await lab.profile(made, 2.0, 1.0)
    return made, await lab.session(run)


async def send(lab: Laboratory, made: SensorWithToken, session: CaptureSession, at: int, *values: float) -> None:
    stamps = [START + at + number for number in range(len(values))]
    await lab.ingest(made, a_batch(a_column(stamps, values), session=session.id, batch_id=f"{at}-{len(values)}"))


async def latest(lab: Laboratory, session: CaptureSession) -> str:
    return await ask(lab.units, lambda uow: uow.live.latest(session.id))


async def since(lab: Laboratory, session: CaptureSession, place: str, **how: Any) -> LivePart:
    plain = {"layer": Layer.RAW, "chunks": 100, "readings": 100_000, **how}
    return await ask(lab.units, lambda uow: uow.live.since(session.id, place, **plain))


def values(part: LivePart) -> list[list[float]]:
    return [chunk.values.tolist() for chunk in part.chunks]


async def test_chunks_come_as_they_were_received(lab: Laboratory):
    made, session = await recording(lab)
    start = await latest(lab, session)
    await send(lab, made, session, 50, 1.0, 2.0)
    await send(lab, made, session, 10, 3.0)
    part = await since(lab, session, start)
    assert values(part) == [[1.0, 2.0], [3.0]]
    assert [chunk.timestamps.tolist() for chunk in part.chunks] == [[START + 50, START + 51], [START + 10]]
    assert {(chunk.sensor_id, chunk.signal, chunk.layer, chunk.profile_id) for chunk in part.chunks} == {
        (made.sensor.id, "value", Layer.RAW, None)
    }
    assert values(await since(lab, session, part.chunks[0].place)) == [[3.0]]
    assert values(await since(lab, session, part.place)) == []
    await send(lab, made, session, 90, 4.0)
    assert values(await since(lab, session, part.place)) == values(await since(lab, session, part.chunks[1].place))
    assert values(await since(lab, session, part.place)) == [[4.0]]


async def test_they_come_in_parts(lab: Laboratory):
    made, session = await recording(lab)
    start = await latest(lab, session)
    for number in range(5):
        await send(lab, made, session, number * 10, *[float(number)] * 3)
    first = await since(lab, session, start, chunks=2)
    assert (values(first), first.more) == ([[0.0] * 3, [1.0] * 3], True)
    await send(lab, made, session, 90, 9.0)
    second = await since(lab, session, first.place, readings=4)
    assert (values(second), second.more) == ([[2.0] * 3, [3.0] * 3], True)
    third = await since(lab, session, second.place, readings=1)
    # More has come meanwhile: who took this for the end would never look for it.
    assert (values(third), third.more) == ([[4.0] * 3], True)
    assert values(await since(lab, session, third.place)) == [[9.0]]


async def test_they_come_up_to_where_another_reader_is(lab: Laboratory):
    made, session = await recording(lab)
    start = await latest(lab, session)
    await send(lab, made, session, 0, 1.0)
    until = await latest(lab, session)
    await send(lab, made, session, 10, 2.0)
    part = await since(lab, session, start, until=until)
    assert (values(part), part.more) == ([[1.0]], False)
    assert values(await since(lab, session, part.place)) == [[2.0]]


async def test_layers(lab: Laboratory):
    made, session = await recording(lab)
    start = await latest(lab, session)
    await send(lab, made, session, 0, 1.0, 2.0)
    (chunk,) = (await since(lab, session, start, layer=Layer.PHYSICAL)).chunks
    assert (chunk.values.tolist(), chunk.layer) == ([3.0, 5.0], Layer.PHYSICAL)
    assert chunk.profile_id == session.pins[0].profile_id
    assert values(await since(lab, session, start, layer=None)) == [[3.0, 5.0]]


async def test_what_has_no_physical_value_is_nan(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    await lab.profile(made, 2.0, 1.0, valid_range={"min": 0.0, "max": 10.0})
    session = await lab.session(run)
    start = await latest(lab, session)
    await send(lab, made, session, 0, 1.0, 99.0)
    (chunk,) = (await since(lab, session, start, layer=Layer.PHYSICAL)).chunks
    assert chunk.values[0] == 3.0
    assert math.isnan(chunk.values[1])


async def test_a_series_without_a_profile_is_raw_or_nothing(lab: Laboratory):
    made, session = await recording(lab, profile=False)
    start = await latest(lab, session)
    await send(lab, made, session, 0, 1.0)
    part = await since(lab, session, start, layer=Layer.PHYSICAL)
    assert values(part) == []
    assert values(await since(lab, session, part.place, layer=None)) == []
    (chunk,) = (await since(lab, session, start, layer=None)).chunks
    assert (chunk.values.tolist(), chunk.layer, chunk.profile_id) == ([1.0], Layer.RAW, None)


async def test_who_may_watch(lab: Laboratory):
    _, session = await recording(lab)
    watched = await lab.ask(lambda work: work.live.watch(session.id, layer=Layer.RAW), by=lab.editor)
    assert (watched.is_over, watched.may_read_raw) == (False, True)
    assert not (await lab.ask(lambda work: work.live.watch(session.id, layer=None), by=lab.viewer)).may_read_raw
    with pytest.raises(Forbidden):
        await lab.ask(lambda work: work.live.watch(session.id, layer=Layer.RAW), by=lab.viewer)
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.live.watch(session.id, layer=None), by=lab.outsider)
    for use in (lambda work: work.live.latest(session.id), lambda work: work.live.since(session.id, "0", layer=None)):
        with pytest.raises(Forbidden):
            await lab.ask(use)
    await lab.stop(session)
    assert (await lab.ask(lambda work: work.live.watch(session.id, layer=None))).is_over


async def test_who_may_follow_events(lab: Laboratory):
    other = await Laboratory.open(lab.units, lab.clock)

    async def mine(by: User, *projects: UUID) -> list[UUID]:
        found: list[UUID] = []
        place: str | None = None
        while True:
            part = await lab.ask(lambda work: work.events.page(projects, after=place, limit=3), by=by)  # noqa: B023
            found += [placed.recorded.event.project_id for placed in part.events]
            place = part.place
            if not part.more:
                return found

    await lab.run(start=True)
    await other.run(start=True)
    assert set(await mine(lab.viewer)) == {lab.project.id}
    assert await mine(lab.viewer) == await mine(lab.owner, lab.project.id)
    assert await mine(lab.outsider) == []
    with pytest.raises(NotFound):
        await mine(lab.viewer, other.project.id)
    assert await lab.ask(lambda work: work.events.watch(), by=lab.viewer) == {lab.project.id}
    for use in (lambda work: work.events.latest(), lambda work: work.events.since("0")):
        with pytest.raises(Forbidden):
            await lab.ask(use)


@pytest.mark.covers("live.latest", "live.since", "events.latest", "events.since")
async def test_the_service_reads_for_all(lab: Laboratory):
    made, session = await recording(lab)
    service = System()
    place = await lab.ask(lambda work: work.live.latest(session.id), by=service)
    end = await lab.ask(lambda work: work.events.latest(), by=service)
    await send(lab, made, session, 0, 1.0)
    await lab.stop(session)
    part, status = await lab.ask(lambda work: work.live.since(session.id, place, layer=None), by=service)
    assert (values(part), status) == ([[3.0]], CaptureStatus.SUCCEEDED)
    told = await lab.ask(lambda work: work.events.since(end), by=service)
    assert told.events[-1].recorded.event.type == "capture.completed"
    _, status = await lab.ask(lambda work: work.live.since(fresh(), place, layer=None), by=service)
    assert status is None


async def test_there_is_news_of_what_is_committed(lab: Laboratory):
    made, session = await recording(lab)
    with lab.units.news.of(session.subject) as readings, lab.units.news.of(EVENTS) as events:
        await send(lab, made, session, 0, 1.0)
        async with asyncio.timeout(30):
            await readings.wait(60)
        await lab.stop(session)
        async with asyncio.timeout(30):
            await readings.wait(60)
            await events.wait(60)
        await readings.wait(0.01)  # none comes of itself


@pytest.mark.postgres
async def test_a_live_place_outlives_merging_or_is_lost(postgres_units_of_work: UnitsOfWork, module_postgres_url: str):
    lab = await Laboratory.open(postgres_units_of_work)
    made, session = await recording(lab)
    before = await latest(lab, session)
    await send(lab, made, session, 0, 1.0)
    await send(lab, made, session, 10, 2.0)
    after = (await since(lab, session, before)).place
    await send(lab, made, session, 20, 3.0)
    async with await psycopg.AsyncConnection.connect(module_postgres_url) as connection:
        await connection.execute(
            "WITH merged AS (SELECT * FROM telemetry_chunks WHERE capture_session_id = %s ORDER BY position LIMIT 1)"
            " UPDATE telemetry_chunks SET transaction_id = NULL FROM merged"
            " WHERE telemetry_chunks.capture_session_id = merged.capture_session_id"
            " AND telemetry_chunks.position = merged.position",
            [session.id],
        )
        await connection.execute(
            "DELETE FROM telemetry_physical_chunks WHERE capture_session_id = %(id)s AND position ="
            " (SELECT position FROM telemetry_chunks WHERE capture_session_id = %(id)s ORDER BY position"
            " OFFSET 1 LIMIT 1)",
            {"id": session.id},
        )
        await connection.execute(
            "DELETE FROM telemetry_chunks WHERE capture_session_id = %(id)s AND position ="
            " (SELECT position FROM telemetry_chunks WHERE capture_session_id = %(id)s ORDER BY position"
            " OFFSET 1 LIMIT 1)",
            {"id": session.id},
        )
    assert values(await since(lab, session, after)) == [[3.0]]
    with pytest.raises(Conflict) as refusal:
        await since(lab, session, before)
    assert refusal.value.code == "place_lost"


@pytest.mark.postgres
async def test_a_transaction_that_lasts_makes_no_place_unknown(
    postgres_units_of_work: UnitsOfWork, module_postgres_url: str
):
    lab = await Laboratory.open(postgres_units_of_work)
    made, session = await recording(lab)

    async def compacted() -> int:
        how = {"lag": timedelta(minutes=1), "quiet": timedelta(minutes=10), "least": 10}
        return await compact_telemetry(lab.services, lambda: False, **how)

    async with await psycopg.AsyncConnection.connect(module_postgres_url) as lasting:
        await lasting.execute("SELECT pg_current_xact_id()")
        for number in range(40):
            await send(lab, made, session, 10 * number, float(number))
        lab.clock.pass_by(3_600)
        await compacted()
        place = await latest(lab, session)
        await send(lab, made, session, 1_000, 1.0)
        assert values(await since(lab, session, place)) == [[1.0]]
    lab.clock.pass_by(3_600)
    assert await compacted() > 40  # what was left is found again
    (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))
    assert series.count == 41
    place = await latest(lab, session)
    await send(lab, made, session, 2_000, 2.0)
    assert values(await since(lab, session, place)) == [[2.0]]


@pytest.mark.timeout(3600)
@pytest.mark.postgres
def test_nothing_is_skipped_or_doubled_however_batches_commit(postgres_url: str):
    async def everything() -> None:
        async with contended(postgres_url) as units:
            await _send_and_read(await Laboratory.open(units))

    asyncio.run(everything())


async def _send_and_read(lab: Laboratory) -> None:
    made, session = await recording(lab)
    start = await latest(lab, session)
    left = list(range(BATCHES))
    sent: set[float] = set()

    async def sensor(chance: random.Random) -> None:
        while left:
            number = left.pop()
            batch = a_batch(a_column([START + number], [float(number)]), session=session.id)
            with suppress(BrokenError):
                async with lab.services.begin(token_of(made)) as work:
                    await work.telemetry.ingest(batch)
                    await work.check_caller()  # everything has been sent by then, and the position is taken
                    await asyncio.sleep(chance.uniform(0, 0.03))
                    if chance.random() < 0.1:
                        raise BrokenError
                sent.add(float(number))

    async def reader(sensors: "asyncio.Task[Any]", chance: random.Random) -> list[float]:
        place, found = start, [0.0][:0]
        while True:
            over = sensors.done()
            part = await since(lab, session, place, chunks=chance.randint(1, 30))
            found += [value for chunk in part.chunks for value in chunk.values]
            place = chance.choice([part.place, part.chunks[-1].place]) if part.chunks else part.place
            if over and not part.chunks:
                return found
            await asyncio.sleep(chance.uniform(0, 0.01))

    sensors = asyncio.gather(*(sensor(random.Random(number)) for number in range(12)))
    results = await asyncio.gather(*(reader(sensors, random.Random(number)) for number in range(3)))  # pyright: ignore[reportArgumentType]
    for found in results:
        assert len(found) == len(sent)
        assert set(found) == sent
