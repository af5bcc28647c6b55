"""Batches of many sensors in one transaction: those that need nothing but to be kept, and none that has more to it."""

import asyncio
import math
import random
from typing import Any

import psycopg
import pytest
from attrs import evolve

from entities import a_batch, a_column
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import System
from experiment_domain.kernel.clock import SystemClock
from experiment_domain.kernel.errors import Refusal
from experiment_domain.sensors import SIGN_OF_LIFE_EVERY, new_token, token_hash
from experiment_domain.telemetry.admissions import Admissions
from experiment_domain.telemetry.batches import Batch
from experiment_domain.telemetry.store import Layer, Offer, ReadingQuery
from experiment_domain.usecases.sensors import SensorWithToken
from experiment_domain.usecases.telemetry import Accepted
from laboratory import Laboratory, token_of

GAP = math.nan


async def _recording(lab: Laboratory, **values: Any) -> tuple[SensorWithToken, CaptureSession]:
    """A sensor of which it is known what it delivers, and that has given a sign of life just now."""
    run = await lab.run(start=True)
    made = await lab.sensor(run, **values)
    session = await lab.session(run)
    await _deliver(lab, made, session)
    return made, session


async def _deliver(lab: Laboratory, made: SensorWithToken, session: CaptureSession, signal: str = "value") -> None:
    """Batches by themselves: the first one makes the series and the sensor active, the second one finds both."""
    for name in "ab":
        await lab.ingest(made, a_batch(a_column([0], [0.0], signal), session=session.id, batch_id=f"{signal} {name}"))


def _offer(made: SensorWithToken, batch: Batch) -> Offer:
    return Offer(token_hash=token_hash(made.token), batch=batch)


async def _at_once(lab: Laboratory, *offers: Offer) -> list[Accepted | None]:
    return list(await lab.do(lambda work: work.telemetry.ingest_at_once(offers), by=System()))


async def _stored(
    lab: Laboratory, made: SensorWithToken, session: CaptureSession, layer: Layer = Layer.RAW, signal: str = "value"
) -> dict[int, float]:
    query = ReadingQuery(
        capture_session_id=session.id, sensor_id=made.sensor.id, signal=signal, layer=layer, limit=1_000
    )
    found = (await lab.ask(lambda work: work.telemetry.read(query, layer=layer))).readings
    return dict(zip(found.timestamps, found.values, strict=True))


@pytest.mark.covers("telemetry.ingest_at_once")
async def test_batches_of_many_sensors_are_kept_together(lab: Laboratory):
    plain, plain_session = await _recording(lab)
    await _deliver(lab, plain, plain_session, "other")
    run = await lab.run(start=True)
    scaled = await lab.sensor(run)
    await lab.profile(scaled, 2.0, 1.0, valid_range={"max": 10.0})
    scaled_session = await lab.session(run)
    await _deliver(lab, scaled, scaled_session)
    outcomes = await _at_once(
        lab,
        _offer(plain, a_batch(a_column([1, 2], [1.5, -0.0]), a_column([5], [7.0], "other"), session=plain_session.id)),
        _offer(scaled, a_batch(a_column([1, 2, 3], [4.0, 5.0, 4.5]), session=scaled_session.id, batch_id="a")),
        _offer(scaled, a_batch(a_column([3], [100.0]), session=scaled_session.id, batch_id="b")),
        # Twice the same timestamp: of the two, the latter is the one that is read.
        _offer(plain, a_batch(a_column([9, 9], [1.0, 2.0]), session=plain_session.id)),
    )
    assert outcomes == [
        Accepted(capture_session_id=session.id, accepted=accepted, late=0, duplicate=False)
        for session, accepted in ((plain_session, 3), (scaled_session, 3), (scaled_session, 1), (plain_session, 2))
    ]
    assert await _stored(lab, plain, plain_session) == {0: 0.0, 1: 1.5, 2: -0.0, 9: 2.0}
    assert await _stored(lab, plain, plain_session, signal="other") == {0: 0.0, 5: 7.0}
    assert await _stored(lab, scaled, scaled_session) == {0: 0.0, 1: 4.0, 2: 5.0, 3: 100.0}
    physical = await _stored(lab, scaled, scaled_session, Layer.PHYSICAL)
    assert {stamp: value for stamp, value in physical.items() if not math.isnan(value)} == {0: 1.0, 1: 9.0, 2: 11.0}
    again = await lab.ingest(scaled, a_batch(a_column([3], [100.0]), session=scaled_session.id, batch_id="b"))
    assert again == evolve(outcomes[2], duplicate=True)


@pytest.mark.covers("telemetry.ingest_at_once")
async def test_what_has_more_to_it_is_left_alone(lab: Laboratory):
    made, session = await _recording(lab)
    known = a_batch(a_column([1], [1.0]), session=session.id, batch_id="known")
    await lab.ingest(made, known)
    over, over_session = await _recording(lab)
    await lab.stop(over_session)
    deaf, deaf_session = await _recording(lab)
    await lab.do(lambda work: work.sensors.deactivate(deaf.sensor.id))
    rotated, rotated_session = await _recording(lab)
    await lab.do(lambda work: work.sensors.rotate_token(rotated.sensor.id, grace=3_600.0))
    run = await lab.run(start=True)
    silent = await lab.sensor(run)
    silent_session = await lab.session(run)

    def of(session: CaptureSession) -> Batch:
        return a_batch(a_column([2], [2.0]), session=session.id)

    left = [
        _offer(made, known),
        _offer(made, evolve(known, columns=[a_column([1], [2.0])])),
        _offer(made, a_batch(a_column([3], [GAP]), session=session.id)),
        _offer(made, of(over_session)),
        _offer(over, of(over_session)),
        _offer(deaf, of(deaf_session)),
        _offer(rotated, of(rotated_session)),
        _offer(silent, of(silent_session)),
        _offer(made, a_batch(a_column([4], [1.0], "new"), session=session.id)),
        Offer(token_hash=token_hash(new_token()), batch=of(session)),
    ]
    good = _offer(made, of(session))
    assert await _at_once(lab, *left, good, good) == [*[None] * len(left), *await _accepted(session), None]
    assert await _stored(lab, made, session) == {0: 0.0, 1: 1.0, 2: 2.0}
    for other, its in ((over, over_session), (deaf, deaf_session), (rotated, rotated_session)):
        assert await _stored(lab, other, its) == {0: 0.0}
    # By itself, each is taken in or refused for what it is.
    assert (await lab.ingest(made, known)).duplicate
    assert (await lab.ingest(over, of(over_session))).late == 1
    assert (await lab.ingest(rotated, of(rotated_session))).accepted == 1
    assert (await lab.ingest(silent, of(silent_session))).accepted == 1
    with pytest.raises(Refusal) as refusal:
        await lab.ingest(deaf, of(deaf_session))
    assert refusal.value.code == "sensor_inactive"


async def _accepted(session: CaptureSession) -> list[Accepted]:
    return [Accepted(capture_session_id=session.id, accepted=1, late=0, duplicate=False)]


async def _narrow(lab: Laboratory, made: SensorWithToken, _: CaptureSession) -> None:
    await lab.do(lambda work: work.sensors.edit(made.sensor.id, signals=["other"]))


async def _rename(lab: Laboratory, made: SensorWithToken, _: CaptureSession) -> None:
    await lab.do(lambda work: work.sensors.edit(made.sensor.id, name="another"))


async def _rotate(lab: Laboratory, made: SensorWithToken, _: CaptureSession) -> None:
    await lab.do(lambda work: work.sensors.rotate_token(made.sensor.id, grace=0.0))


async def _retire(lab: Laboratory, made: SensorWithToken, session: CaptureSession) -> None:
    await lab.stop(session)
    await lab.do(lambda work: work.sensors.retire(made.sensor.id))


async def _deactivate(lab: Laboratory, made: SensorWithToken, _: CaptureSession) -> None:
    await lab.do(lambda work: work.sensors.deactivate(made.sensor.id))


async def _tolerate_more(lab: Laboratory, *_: object) -> None:
    await lab.do(lambda work: work.projects.edit(lab.project.id, future_tolerance=3_600.0))


async def _stop(lab: Laboratory, _: SensorWithToken, session: CaptureSession) -> None:
    await lab.stop(session)


async def _delete(lab: Laboratory, _: SensorWithToken, session: CaptureSession) -> None:
    await lab.stop(session, CaptureStatus.FAILED)
    await lab.do(lambda work: work.captures.delete(session.id))


async def _nothing(*_: object) -> None:
    """Nothing."""


async def _publish(lab: Laboratory, made: SensorWithToken, _: CaptureSession) -> None:
    await lab.profile(made, 3.0, 0.0)


@pytest.mark.covers("telemetry.ingest_at_once")
@pytest.mark.parametrize(
    ("change", "is_kept", "refused"),
    [
        (_nothing, True, None),
        (_publish, True, None),  # the session has its pins
        (_rename, False, None),
        (_tolerate_more, False, None),
        (_stop, False, None),
        (_narrow, False, "bad_readings"),
        (_rotate, False, "unauthenticated"),
        (_retire, False, "sensor_retired"),
        (_deactivate, False, "sensor_inactive"),
        (_delete, False, "not_found"),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_was_found_before_is_asked_of_again(
    lab: Laboratory, change: Any, is_kept: bool, refused: str | None, elsewhere: bool
):
    """Whatever has changed since the last batch, in this process or in another one."""
    made, session = await _recording(lab)
    here = lab.services
    if elsewhere:
        lab.services = evolve(here, admissions=Admissions())
    await change(lab, made, session)
    lab.services = here
    offer = _offer(made, a_batch(a_column([1], [1.0]), session=session.id))
    assert await _at_once(lab, offer) == (await _accepted(session) if is_kept else [None])
    if refused is not None:
        with pytest.raises(Refusal) as refusal:
            await lab.ingest(made, offer.batch)
        assert refusal.value.code == refused
        assert await _at_once(lab, offer) == [None]
    elif not is_kept:
        assert not (await lab.ingest(made, offer.batch)).duplicate
        again = _offer(made, a_batch(a_column([2], [2.0]), session=session.id))
        # By what the one by itself has found, or in its turn by itself.
        assert await _at_once(lab, again) == ([None] if change is _stop else await _accepted(session))


@pytest.mark.covers("telemetry.ingest_at_once")
async def test_a_sensor_is_admitted_to_each_of_its_sessions(lab: Laboratory):
    """One that is known in one session is nobody in another one."""
    made, session = await _recording(lab)
    run = await lab.run(start=True)
    await lab.do(lambda work: work.runs.bind(run.id, made.sensor.id))
    other = await lab.session(run)
    offers = [_offer(made, a_batch(a_column([1], [1.0]), session=one.id)) for one in (session, other)]
    assert await _at_once(lab, *offers) == [*await _accepted(session), None]


@pytest.mark.covers("telemetry.ingest_at_once")
async def test_a_sign_of_life_that_is_due_is_given_by_a_batch_of_its_own(lab: Laboratory):
    made, session = await _recording(lab)
    lab.clock.pass_by(SIGN_OF_LIFE_EVERY.total_seconds())
    offer = _offer(made, a_batch(a_column([1], [1.0]), session=session.id))
    assert await _at_once(lab, offer) == [None]
    await lab.ingest(made, offer.batch)
    sensor = await lab.ask(lambda work: work.sensors.get(made.sensor.id))
    assert sensor.last_seen_at == lab.clock.at
    assert await _at_once(lab, _offer(made, a_batch(a_column([2], [1.0]), session=session.id))) == await _accepted(
        session
    )


@pytest.mark.postgres
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sensors SET updated_at = updated_at + interval '1 second' WHERE id = %(sensor)s",
        "UPDATE sensors SET last_seen_at = last_seen_at - interval '1 minute' WHERE id = %(sensor)s",
        "UPDATE run_vigils SET alive_at = alive_at - interval '1 minute' WHERE run_id = %(run)s",
        "UPDATE run_vigils SET warned_at = now() WHERE run_id = %(run)s",
        "UPDATE capture_sessions SET deleted_at = now() WHERE id = %(session)s",
        """
        UPDATE capture_session_pins SET profile_id = (SELECT id FROM conversion_profiles WHERE sensor_id = %(sensor)s)
        WHERE capture_session_id = %(session)s
        """,
        """
        INSERT INTO telemetry_marks
            (capture_session_id, sensor_id, late, starts_at, ends_at, received_from, received_to, readings, marks)
        VALUES (%(session)s, %(sensor)s, false, now(), now(), now(), now(), 1, '{1}')
        """,
    ],
)
async def test_each_thing_that_was_found_is_asked_of_by_itself(
    runner: asyncio.Runner, postgres_units_of_work: PostgresUnitsOfWork, module_postgres_url: str, change: str
):
    """Each of them alone, whatever else would have changed with it by the ways that there are."""
    lab = await Laboratory.open(postgres_units_of_work)
    made, session = await _recording(lab)
    await lab.profile(made, 3.0, 0.0)
    await lab.ingest(made, a_batch(a_column([0], [0.0]), session=session.id))  # publishing may have made a new version
    good = _offer(made, a_batch(a_column([1], [1.0]), session=session.id))
    assert await _at_once(lab, good) == await _accepted(session)
    async with await psycopg.AsyncConnection.connect(module_postgres_url) as connection:
        ids = {"sensor": made.sensor.id, "session": session.id, "run": session.run_id}
        await connection.execute(change.encode(), ids)
    assert await _at_once(lab, _offer(made, a_batch(a_column([2], [2.0]), session=session.id))) == [None]


@pytest.mark.postgres
async def test_nobody_is_waited_for(runner: asyncio.Runner, postgres_units_of_work: PostgresUnitsOfWork):
    lab = await Laboratory.open(postgres_units_of_work)
    free, free_session = await _recording(lab)
    stopping, stopping_session = await _recording(lab)
    busy, busy_session = await _recording(lab)
    batch = a_batch(a_column([1], [1.0]), session=busy_session.id)
    async with lab.services.begin(lab.owner) as work, lab.services.begin(token_of(busy)) as other:
        await work.captures.stop(stopping_session.id, CaptureStatus.SUCCEEDED)
        await other.telemetry.ingest(batch)
        async with asyncio.timeout(5):
            assert await _at_once(
                lab,
                _offer(stopping, a_batch(a_column([1], [1.0]), session=stopping_session.id)),
                _offer(busy, batch),
                _offer(free, a_batch(a_column([1], [1.0]), session=free_session.id)),
            ) == [None, None, *await _accepted(free_session)]
    assert await _at_once(lab, _offer(busy, batch)) == [None]  # by now it is known
    assert await _stored(lab, busy, busy_session) == {0: 0.0, 1: 1.0}


@pytest.mark.postgres
@pytest.mark.covers("telemetry.ingest_at_once")
async def test_what_is_sent_both_ways_at_the_same_time_is_kept_once(
    runner: asyncio.Runner, postgres_units_of_work: PostgresUnitsOfWork, module_postgres_url: str
):
    lab = await Laboratory.open(postgres_units_of_work, clock=_system_clock())
    rigs = [await _recording(lab) for _ in range(4)]
    batches = [
        (made, a_batch(a_column([stamp], [float(stamp)]), session=session.id))
        for made, session in rigs
        for stamp in range(1, 21)
    ]
    chance = random.Random(11)
    counts = {False: 0, True: 0}

    async def alone(made: SensorWithToken, batch: Batch) -> None:
        counts[(await lab.ingest(made, batch)).duplicate] += 1

    async def together(some: list[tuple[SensorWithToken, Batch]]) -> None:
        for (made, batch), outcome in zip(some, await _at_once(lab, *(_offer(*one) for one in some)), strict=True):
            if outcome is None:
                await alone(made, batch)
            else:
                counts[outcome.duplicate] += 1

    ways: list[Any] = []
    for _ in range(2):
        chance.shuffle(batches)
        ways += [together(batches[start : start + 8]) for start in range(0, len(batches), 8)]
        ways += [alone(*one) for one in batches]
    chance.shuffle(ways)
    await asyncio.gather(*ways)
    assert counts == {False: len(batches), True: 3 * len(batches)}
    for made, session in rigs:
        assert await _stored(lab, made, session) == {stamp: float(stamp) for stamp in range(21)}
    async with await psycopg.AsyncConnection.connect(module_postgres_url) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM telemetry_chunks WHERE capture_session_id = ANY(%s)",
            [[session.id for _, session in rigs]],
        )
        assert await found.fetchone() == (2 * len(rigs) + len(batches),)


def _system_clock() -> Any:
    return SystemClock()
