"""Batches that arrive while the database is away: who may wait, in which order, and judged as of when."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from attrs import define, evolve, field

from doors import Door
from entities import SettableClock
from experiment_adapters.memory.spool import MemorySpool
from experiment_domain import Caller, Services
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.idempotency import IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.errors import BrokenOff, Refusal, Unauthenticated, Unavailable
from experiment_domain.runs import Run
from experiment_domain.sensors import SensorStatus
from experiment_domain.spool import KNOWN_FOR, Promise, Sender, Senders, SpoolFull
from experiment_domain.telemetry.batches import Batch, Column, micros
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.sensors import SensorWithToken
from experiment_domain.usecases.spooling import Kept, Reception, Spooled, drain_spool
from experiment_domain.usecases.telemetry import Accepted, TelemetryUseCases
from keeping import ask
from laboratory import Laboratory, token_of

SECOND = 1_000_000


@define
class Rig:
    """A session that runs, a sensor that takes part, and the reception with its spool."""

    laboratory: Laboratory
    door: Door
    spool: MemorySpool
    reception: Reception
    run: Run
    session: CaptureSession
    made: SensorWithToken
    errors: list[Exception] = field(factory=list)

    @classmethod
    async def build(cls, units: UnitsOfWork, **sensor: Any) -> "Rig":
        door, spool = Door(units), MemorySpool(most=20)
        laboratory = await Laboratory.open(door, SettableClock())
        run = await laboratory.run(start=True)
        made = await laboratory.sensor(run, **sensor)
        await laboratory.profile(made, 2.0, 1.0)
        session = await laboratory.session(run)
        reception = Reception(laboratory.services, spool, pause=0.0)
        return cls(laboratory, door, spool, reception, run, session, made)

    @property
    def services(self) -> Services:
        return self.laboratory.services

    @property
    def clock(self) -> SettableClock:
        return self.laboratory.clock

    def batch(self, *values: float, at: int = 0, **more: Any) -> Batch:
        """Values from some seconds ago on, a second apart."""
        start = micros(self.clock.now()) + (at - 100) * SECOND
        stamps = array("q", [start + place * SECOND for place in range(len(values))])
        return Batch([Column("value", stamps, array("d", values))], **more)

    async def send(self, batch: Batch, made: SensorWithToken | None = None, promise: Promise | None = None) -> Any:
        caller = Caller(principal=token_of(made or self.made), request_id="r-1", address="10.0.0.7")

        async def store() -> Accepted:
            async with self.services.begin(caller) as work:
                return await work.telemetry.ingest(batch)

        found = await self.reception.receive(caller, [batch], store, lambda _: promise)
        if not isinstance(found, Kept):
            return found
        (outcome,) = found.outcomes
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    async def get_known(self) -> None:
        """A batch is accepted, as one was before the database went away."""
        assert isinstance(await self.send(self.batch(0.0, at=-1000)), Accepted)

    async def drain(self) -> tuple[int, int]:
        counts = [0, 0]

        def count(stored: int, refused: int) -> None:
            counts[0] += stored
            counts[1] += refused

        await drain_spool(self.services, self.spool, drained=count, failed=lambda _, error: self.errors.append(error))
        return counts[0], counts[1]

    async def values(self, session: CaptureSession | None = None, layer: Layer = Layer.RAW) -> list[float]:
        """What is read, without the reading that made the sensor known."""
        session = session or self.session
        found = await self.laboratory.ask(
            lambda work: work.telemetry.read(
                ReadingQuery(
                    capture_session_id=session.id,
                    sensor_id=self.made.sensor.id,
                    signal="value",
                    layer=layer,
                    start=micros(self.laboratory.project.created_at) - 500 * SECOND,
                    limit=1000,
                ),
                layer=layer,
            )
        )
        return found.readings.values.tolist()

    async def late(self, session: CaptureSession | None = None) -> int:
        session = session or self.session
        return sum(one.late for one in await self.laboratory.ask(lambda work: work.telemetry.series(session.id)))

    @property
    def refusals(self) -> list[str]:
        return [refusal.code for _, refusal in self.spool.refused]


@pytest.fixture
def rig(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Rig:
    return runner.run(Rig.build(units_of_work))


async def refused(doing: Awaitable[object], code: str) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        await doing
    assert refusal.value.code == code
    return refusal.value


@pytest.mark.covers("telemetry.ingest", "telemetry.ingest_waiting")
async def test_batches_wait_while_the_database_is_away(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    named = rig.batch(1.0, 2.0, capture_session_id=rig.session.id)
    assert await rig.send(named) == Spooled(accepted=2, capture_session_id=rig.session.id)
    assert await rig.send(rig.batch(3.0, at=10)) == Spooled(accepted=1, capture_session_id=None)
    with pytest.raises(Unavailable):
        await rig.drain()
    assert len(rig.spool.waiting) == 2
    rig.door.is_shut = False
    assert await rig.drain() == (2, 0)
    assert await rig.values() == [1.0, 2.0, 3.0]
    assert await rig.values(layer=Layer.PHYSICAL) == [3.0, 5.0, 7.0]
    assert isinstance(await rig.send(rig.batch(4.0, at=20)), Accepted)


async def test_nobody_but_who_was_let_in_of_late_waits(rig: Rig, runner: object) -> None:
    rig.door.is_shut = True
    await refused(rig.send(rig.batch(1.0)), "unavailable")
    rig.door.is_shut = False
    await rig.get_known()
    rig.door.is_shut = True
    stranger = evolve(rig.made, token="xps_nobody's")
    await refused(rig.send(rig.batch(1.0), stranger), "unavailable")
    rig.clock.pass_by(KNOWN_FOR.total_seconds() + 1)
    await refused(rig.send(rig.batch(1.0)), "unavailable")
    assert rig.spool.waiting == []


async def test_who_waits_stays_known(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    for _ in range(3):
        rig.clock.pass_by(KNOWN_FOR.total_seconds() - 1)
        assert isinstance(await rig.send(rig.batch(1.0)), Spooled)
    # Of a process that has just begun, those who wait are all that it knows.
    other = Reception(Services(units_of_work=rig.door, clock=rig.clock), rig.spool)
    batch = rig.batch(2.0)

    async def store() -> None:
        raise AssertionError("its batches go behind those that wait")

    caller = Caller(principal=token_of(rig.made))
    assert await other.receive(caller, [batch], store) == Kept([Spooled(accepted=1, capture_session_id=None)])
    assert other.is_taking
    assert not Reception(Services(units_of_work=rig.door), MemorySpool()).is_taking


async def test_who_was_refused_is_known_no_longer(rig: Rig, runner: object) -> None:
    await rig.get_known()
    await rig.laboratory.do(lambda work: work.sensors.rotate_token(rig.made.sensor.id))
    with pytest.raises(Unauthenticated):
        await rig.send(rig.batch(1.0))
    rig.door.is_shut = True
    await refused(rig.send(rig.batch(1.0)), "unavailable")


async def test_what_can_be_told_without_the_database_is_refused_at_once(
    runner: asyncio.Runner, units_of_work: UnitsOfWork
) -> None:
    rig = await Rig.build(units_of_work, signals=["value"])
    await rig.get_known()
    rig.door.is_shut = True
    await refused(rig.send(rig.batch(1.0, float("nan"))), "bad_readings")
    await refused(rig.send(rig.batch(1.0, at=100 + 301)), "bad_readings")
    await refused(rig.send(rig.batch()), "invalid")
    await refused(rig.send(Batch([Column("speed", array("q", [0]), array("d", [0.0]))])), "bad_readings")
    assert rig.spool.waiting == []
    assert isinstance(await rig.send(rig.batch(1.0, at=100 + 299)), Spooled)


async def test_a_sensors_batches_keep_their_order(rig: Rig, runner: object) -> None:
    """Of one timestamp the reading received last is read, wherever it had to wait."""
    await rig.get_known()
    other = await rig.laboratory.sensor(name="TC-2")
    rig.door.is_shut = True
    await rig.send(rig.batch(1.0))
    rig.door.is_shut = False
    assert isinstance(await rig.send(rig.batch(2.0)), Spooled), "it must not overtake the one before it"
    await refused(rig.send(rig.batch(1.0), other), "no_running_session")  # others do not wait
    assert await rig.drain() == (2, 0)
    assert await rig.values() == [2.0]
    assert isinstance(await rig.send(rig.batch(3.0)), Accepted)
    assert await rig.values() == [3.0]


async def test_a_sensor_that_sends_without_a_pause_catches_up(rig: Rig, runner: object) -> None:
    """While those before it are being stored, its next batch waits for that instead of going behind them."""
    await rig.get_known()
    rig.door.is_shut = True
    await rig.send(rig.batch(1.0))
    rig.door.is_shut = False
    rig.spool.let_go(0)  # others are leaving it
    sending = asyncio.create_task(rig.send(rig.batch(2.0)))
    await asyncio.sleep(0)
    assert await rig.drain() == (1, 0)
    assert isinstance(await sending, Accepted)
    assert await rig.values() == [2.0]


async def test_many_are_stored_at_once(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    for number in range(20):
        # Some go to the session by its name, some to none that there is.
        named = {0: None, 1: rig.session.id, 2: rig.run.id}[number % 3 if number > 10 else 0]
        await rig.send(rig.batch(float(number), at=number, capture_session_id=named))
    rig.door.is_shut = False
    rig.door.asked = 0
    assert await rig.drain() == (17, 3)
    assert rig.door.asked < 10
    assert await rig.values() == [float(number) for number in range(20) if number <= 10 or number % 3 != 2]
    assert rig.refusals == ["not_found"] * 3


async def test_the_same_batch_has_one_effect(rig: Rig, runner: object) -> None:
    await rig.get_known()
    batch = rig.batch(1.0, batch_id="b-1")
    rig.door.loses_answers = True
    assert isinstance(await rig.send(batch), Spooled)  # though it is stored: the answer to the commit was lost
    rig.door.loses_answers = False
    assert isinstance(await rig.send(batch), Spooled)
    assert await rig.drain() == (2, 0)
    answer = await rig.send(batch)
    assert isinstance(answer, Accepted)
    assert answer.duplicate
    series = await rig.laboratory.ask(lambda work: work.telemetry.series(rig.session.id))
    assert [one.count for one in series] == [2]


async def test_the_database_is_asked_by_one_at_a_time(rig: Rig, runner: object) -> None:
    await rig.get_known()
    others = [await rig.laboratory.sensor(rig.run, name=f"TC-{number}") for number in range(2, 6)]
    for other in others:
        rig.services.senders.note(token_of(other).token_hash, Sender(sensor_id=other.sensor.id), rig.clock.now())
    rig.reception = Reception(rig.services, rig.spool, pause=60.0)
    rig.door.is_shut = True
    rig.door.asked = 0
    for made in (rig.made, *others):
        assert isinstance(await rig.send(rig.batch(1.0), made), Spooled)
    assert rig.door.asked == 1


async def test_a_full_spool_refuses(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    for number in range(20):
        await rig.send(rig.batch(float(number)))
    with pytest.raises(SpoolFull):
        await rig.send(rig.batch(20.0))
    assert not rig.reception.is_taking
    rig.door.is_shut = False
    with pytest.raises(SpoolFull):
        await rig.send(rig.batch(20.0))  # it must not overtake those that wait
    assert await rig.drain() == (20, 0)
    assert await rig.values() == [19.0]


async def test_a_batch_is_late_as_of_its_reception(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    rig.clock.pass_by(1)
    await rig.send(rig.batch(1.0, capture_session_id=rig.session.id))
    rig.clock.pass_by(1)
    rig.door.is_shut = False
    await rig.laboratory.stop(rig.session)
    rig.clock.pass_by(1)
    await rig.send(rig.batch(2.0, at=10, capture_session_id=rig.session.id))
    rig.clock.pass_by(1000)
    assert await rig.drain() == (2, 0)
    assert len(await rig.values()) == 2
    assert await rig.late() == 1


async def test_the_session_is_the_one_that_ran_at_its_reception(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    rig.clock.pass_by(1)
    await rig.send(rig.batch(1.0))
    rig.door.is_shut = False
    rig.clock.pass_by(1)
    await rig.laboratory.stop(rig.session)
    rig.clock.pass_by(1)
    await rig.send(rig.batch(0.0))  # between two sessions
    rig.clock.pass_by(1)
    second = await rig.laboratory.session(rig.run)
    rig.clock.pass_by(1)
    await rig.send(rig.batch(2.0))
    assert await rig.drain() == (2, 1)
    assert await rig.values(rig.session) == [1.0]
    assert await rig.values(second) == [2.0]
    assert await rig.late() == 0
    assert rig.refusals == ["no_running_session"]


async def test_the_clock_that_counts_is_that_of_the_reception(rig: Rig, runner: object) -> None:
    """A timestamp that was too far in the future then is not accepted because it had to wait."""
    await rig.get_known()
    rig.door.is_shut = True
    await rig.send(rig.batch(1.0, at=100 + 200))
    rig.door.is_shut = False
    project = rig.laboratory.project
    await rig.laboratory.do(lambda work: work.projects.edit(project.id, future_tolerance=60.0))
    rig.clock.pass_by(3600)
    assert await rig.drain() == (0, 1)
    assert rig.refusals == ["bad_readings"]


async def archive(rig: Rig) -> None:
    await rig.laboratory.stop(rig.session)
    await rig.laboratory.do(lambda work: work.captures.archive(rig.session.id))


async def delete(rig: Rig) -> None:
    await rig.laboratory.stop(rig.session, CaptureStatus.FAILED)
    await rig.laboratory.do(lambda work: work.captures.delete(rig.session.id))


async def rotate(rig: Rig) -> None:
    await rig.laboratory.do(lambda work: work.sensors.rotate_token(rig.made.sensor.id))


async def deactivate(rig: Rig) -> None:
    await rig.laboratory.do(lambda work: work.sensors.deactivate(rig.made.sensor.id))


@pytest.mark.parametrize(
    ("meanwhile", "code"),
    [
        (archive, "archived"),
        (delete, "not_found"),
        (rotate, "unauthenticated"),
        (deactivate, "sensor_inactive"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
async def test_what_is_refused_by_now_is_set_aside_and_holds_up_nothing(
    rig: Rig, runner: object, meanwhile: Callable[[Rig], Awaitable[None]], code: str, named: bool
) -> None:
    await rig.get_known()
    other = await rig.laboratory.sensor(rig.run, name="TC-2")
    second = await rig.laboratory.run(start=True)
    await rig.laboratory.do(lambda work: work.runs.bind(second.id, other.sensor.id))
    elsewhere = await rig.laboratory.session(second)
    assert isinstance(await rig.send(rig.batch(0.0), other), Accepted)
    rig.door.is_shut = True
    rig.clock.pass_by(1)
    await rig.send(rig.batch(1.0, capture_session_id=rig.session.id if named else None))
    await rig.send(rig.batch(2.0), other)
    rig.door.is_shut = False
    rig.clock.pass_by(1)
    await meanwhile(rig)
    assert await rig.drain() == (1, 1)
    code = "no_running_session" if code == "not_found" and not named else code
    assert rig.refusals == [code]
    ((waiting, _),) = rig.spool.refused
    assert waiting.batch.columns[0].values.tolist() == [1.0]
    found = await rig.laboratory.ask(lambda work: work.telemetry.series(elsewhere.id))
    assert [one.count for one in found] == [2]


async def test_a_promise_is_kept_with_its_effect(rig: Rig, runner: object) -> None:
    await rig.get_known()
    at = rig.clock.now()
    key = IdempotencyKey(principal=f"sensor:{rig.made.sensor.id}", key="k-1")
    promise = Promise(key=key, answer=RememberedAnswer(fingerprint=b"same", content=b"sealed", answered_at=at))
    rig.door.is_shut = True
    assert isinstance(await rig.send(rig.batch(1.0), promise=promise), Spooled)
    assert await rig.send(rig.batch(1.0), promise=promise) == promise
    rig.door.is_shut = False
    rig.clock.pass_by(10)
    assert await rig.drain() == (1, 0)
    found = await ask(rig.door, lambda uow: uow.idempotency.claim(key, rig.clock.now()))
    assert found == promise.answer
    # The commit whose answer was lost had kept another answer: there is no second effect.
    rig.spool.waiting.append(
        evolve(rig.spool.waiting[0], promise=promise)
        if rig.spool.waiting
        else await waiting_with(rig, promise, rig.batch(9.0, at=50), at)
    )
    assert await rig.drain() == (1, 0)
    assert await rig.values() == [1.0]


async def waiting_with(rig: Rig, promise: Promise, batch: Batch, at: datetime) -> Any:
    from experiment_domain.spool import WaitingBatch

    token = token_of(rig.made).token_hash
    sensor_id = rig.made.sensor.id
    return WaitingBatch(batch=batch, token_hash=token, sensor_id=sensor_id, received_at=at, promise=promise)


async def test_a_sign_of_life_is_of_the_moment_of_reception(rig: Rig, runner: object) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    received_at = rig.clock.pass_by(30)
    await rig.send(rig.batch(1.0))
    rig.door.is_shut = False
    rig.clock.pass_by(600)
    await rig.drain()
    sensor = await rig.laboratory.ask(lambda work: work.sensors.get(rig.made.sensor.id))
    assert sensor.last_seen_at == received_at
    assert sensor.status is SensorStatus.ACTIVE


async def test_a_fault_of_the_service_holds_up_nothing(
    rig: Rig, runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    await rig.send(rig.batch(1.0))
    await rig.send(rig.batch(2.0, at=10))
    rig.door.is_shut = False
    first = rig.spool.waiting[0].batch
    object.__setattr__(first.columns[0], "timestamps", None)  # nobody knows how
    monkeypatch.setattr("experiment_domain.usecases.spooling.TRIES", 2)
    assert await rig.drain() == (1, 1)
    assert rig.refusals == ["internal_error"]
    assert len(rig.errors) == 2
    assert await rig.values() == [2.0]


async def test_what_is_broken_off_together_is_stored_one_by_one(
    rig: Rig, runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.get_known()
    rig.door.is_shut = True
    for number in range(3):
        await rig.send(rig.batch(float(number), at=number))
    rig.door.is_shut = False
    ingest_waiting = TelemetryUseCases.ingest_waiting
    most = 0

    async def ingest(work: TelemetryUseCases, batches: Sequence[Batch]) -> Sequence[Accepted | Refusal]:
        if len(batches) > most:
            raise BrokenOff("It took too long.")
        return await ingest_waiting(work, batches)

    monkeypatch.setattr(TelemetryUseCases, "ingest_waiting", ingest)
    with pytest.raises(BrokenOff):
        await rig.drain()
    assert len(rig.spool.waiting) == 3
    most = 1
    assert await rig.drain() == (3, 0)
    assert await rig.values() == [0.0, 1.0, 2.0]


def test_few_senders_are_remembered() -> None:
    senders, clock = Senders(most=2), SettableClock()
    sender = Sender(sensor_id=Any)  # type: ignore[arg-type]
    for name in (b"1", b"2", b"1", b"3"):
        senders.note(name, sender, clock.now())
    assert [senders.find(name, clock.now()) for name in (b"1", b"2", b"3")] == [sender, None, sender]
    senders.forget(b"3")
    assert senders.find(b"3", clock.now()) is None
    assert senders.are_known(clock.now())
    assert not senders.are_known(clock.pass_by(KNOWN_FOR.total_seconds() + 1))
