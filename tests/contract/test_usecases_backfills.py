"""Backfills through the library's door: asked for, worked off piece by piece, and read only when they are whole."""

import asyncio
import math
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import define, evolve

from entities import a_batch, a_column, fresh
from experiment_domain import System
from experiment_domain.backfills import ATTEMPTS, LOSSES, Backfill, BackfillStatus
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.kernel.errors import Conflict, Forbidden, NotFound
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.runs import Run
from experiment_domain.telemetry.layers import Portion
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.usecases.backfilling import work_off_backfills
from experiment_domain.usecases.backfills import Requested
from experiment_domain.usecases.sensors import SensorWithToken
from laboratory import Laboratory

SYSTEM = System()
SMALL = Portion(chunks=2, readings=1_000)
AT_ONCE = timedelta()


@define
class Recorded:
    """A session that is over, with six chunks of a sensor whose first profile doubled, and whose second adds 100."""

    lab: Laboratory
    run: Run
    made: SensorWithToken
    session: CaptureSession
    first: ConversionProfile
    second: ConversionProfile

    @classmethod
    async def make(cls, lab: Laboratory, *, chunks: int = 6, outcome: CaptureStatus = CaptureStatus.SUCCEEDED) -> Any:
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        first = await lab.profile(made, 2, 0)
        session = await lab.session(run)
        recorded = cls(lab, run, made, session, first, first)
        for number in range(chunks):
            await recorded.send([2 * number, 2 * number + 1], [float(number), float(number) + 0.5])
        recorded.session = await lab.stop(session, outcome)
        recorded.second = await lab.profile(made, 1, 100, valid_range={"min": None, "max": 5.0})
        return recorded

    async def send(self, stamps: list[int], values: list[float], signal: str = "value") -> None:
        await self.lab.ingest(self.made, a_batch(a_column(stamps, values, signal), session=self.session.id))

    async def request(self, profile: ConversionProfile | None = None, by: Any = None) -> Requested:
        profile_id = (profile or self.second).id
        return await self.lab.do(
            lambda work: work.backfills.request(self.session.id, profile_id=profile_id, sensor_id=self.made.sensor.id),
            by,
        )

    async def work_off(self, **how: Any) -> int:
        return await work_off_backfills(self.lab.services, **how)

    async def claim(self, worker: UUID, **how: Any) -> Backfill | None:
        return await self.lab.do(lambda work: work.backfills.claim(worker, **how), SYSTEM)

    async def step(self, backfill: Backfill, worker: UUID, **how: Any) -> Backfill | None:
        return await self.lab.do(lambda work: work.backfills.step(backfill, worker, **how), SYSTEM)

    async def get(self, backfill_id: UUID) -> Backfill:
        return await self.lab.ask(lambda work: work.backfills.get(backfill_id))

    async def read(self, profile: ConversionProfile | None = None, signal: str = "value") -> dict[int, float]:
        query = ReadingQuery(
            capture_session_id=self.session.id,
            sensor_id=self.made.sensor.id,
            signal=signal,
            layer=Layer.PHYSICAL,
            profile_id=None if profile is None else profile.id,
            limit=1_000,
        )
        found = await self.lab.ask(lambda work: work.telemetry.read(query, layer=Layer.PHYSICAL))
        return dict(zip(found.readings.timestamps, found.readings.values, strict=True))

    async def events(self) -> list[RecordedEvent]:
        """What happened to the session, its backfills included."""
        page = await self.lab.ask(lambda work: work.captures.events(self.session.id, limit=500))
        return list(page.items)

    async def applied(self) -> list[str]:
        """Which profiles were told to have been applied, in order."""
        async with self.lab.units.begin(SYSTEM, read_only=True) as uow:
            found = await uow.events.of(f"conversion_profile/{self.second.id}", limit=100, after=None)
        return [event.event.type for event in found if event.event.type == "conversion_profile.applied"]


def doubled(chunks: int = 6) -> dict[int, float]:
    return {2 * number + half: 2 * (number + half / 2) for number in range(chunks) for half in (0, 1)}


def shifted(chunks: int = 6) -> dict[int, float]:
    raw = {2 * number + half: number + half / 2 for number in range(chunks) for half in (0, 1)}
    return {stamp: value + 100 if value <= 5.0 else math.nan for stamp, value in raw.items()}


def same(found: dict[int, float], expected: dict[int, float]) -> bool:
    return {stamp: repr(value) for stamp, value in found.items()} == {
        stamp: repr(value) for stamp, value in expected.items()
    }


@pytest.mark.covers("backfills.request", "backfills.claim", "backfills.step")
async def test_a_layer_becomes_current_in_one_step_when_it_is_whole(lab: Laboratory):
    recorded = await Recorded.make(lab)
    requested = await recorded.request(by=lab.editor)
    assert (requested.is_new, requested.backfill.status) == (True, "queued")
    worker, seen = fresh(), list[tuple[int, int, int]]()
    step = await recorded.claim(worker)
    while step is not None and step.status is BackfillStatus.RUNNING:
        assert same(await recorded.read(), doubled())
        with pytest.raises(NotFound):
            await recorded.read(recorded.second)
        step = await recorded.step(step, worker, portion=SMALL)
        assert step is not None
        seen.append((step.chunks_done, step.chunks_total, step.readings_converted))
    assert seen == [(2, 6, 4), (4, 6, 8), (6, 6, 12), (6, 6, 12)]
    done = await recorded.get(requested.backfill.id)
    assert (done.status, done.chunks_done, done.readings_converted, done.error) == ("succeeded", 6, 12, None)
    assert same(await recorded.read(), shifted())
    assert same(await recorded.read(recorded.second), shifted())
    assert same(await recorded.read(recorded.first), doubled())
    (series,) = await lab.ask(lambda work: work.telemetry.series(recorded.session.id))
    assert (series.profile_id, series.count, series.out_of_range) == (recorded.second.id, 12, 1)


async def test_history_audit_and_events_tell_of_it(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request(by=lab.editor)
    before = len(await recorded.events())
    assert await recorded.work_off() == 1
    history = await lab.ask(lambda work: work.backfills.history(asked.backfill.id), by=lab.viewer)
    assert [(step.source, step.target, step.actor) for step in history] == [
        ("queued", "running", "system"),
        ("running", "succeeded", "system"),
    ]
    told = (await recorded.events())[before:]
    assert [event.event.type for event in told] == ["capture.backfill.started", "capture.backfill.finished"]
    assert {event.event.data["backfill_id"] for event in told} == {str(asked.backfill.id)}
    assert told[-1].event.data["readings"] == 12
    assert await recorded.applied() == ["conversion_profile.applied"]
    audit = [record for record in await lab.audit() if record.target_id == str(asked.backfill.id)]
    assert [(record.action, record.actor) for record in audit] == [
        ("backfill", lab.editor.id),
        ("start", "system"),
        ("finish", "system"),
    ]
    # Where to go on is nobody's business.
    assert all("place" not in (record.after or {}) for record in audit)


async def test_identical_requests_are_one_backfill(lab: Laboratory):
    recorded = await Recorded.make(lab)
    found = await asyncio.gather(*(recorded.request(by=lab.editor) for _ in range(5)))
    assert len({requested.backfill.id for requested in found}) == 1
    assert sum(requested.is_new for requested in found) == 1
    await recorded.work_off()
    again = await recorded.request()
    assert (again.is_new, again.backfill.status) == (False, "succeeded")
    # Once another layer is current, it is something new to ask for the first again, and little to do.
    back = await recorded.request(recorded.first)
    assert back.is_new
    await recorded.work_off()
    assert same(await recorded.read(), doubled())
    assert (await recorded.get(back.backfill.id)).readings_converted == 0
    forth = await recorded.request()
    assert forth.is_new
    await recorded.work_off()
    assert same(await recorded.read(), shifted())
    assert await recorded.applied() == ["conversion_profile.applied"] * 2


async def test_the_last_one_asked_for_is_current_at_the_end(lab: Laboratory):
    recorded = await Recorded.make(lab)
    third = await lab.profile(recorded.made, 0, 7)
    await recorded.request()
    lab.clock.pass_by(1)
    await recorded.request(third)
    assert await recorded.work_off(portion=SMALL) == 2
    assert set((await recorded.read()).values()) == {7.0}
    assert same(await recorded.read(recorded.second), shifted())


async def test_who_may_not_be_converted_is_refused(lab: Laboratory):
    recorded = await Recorded.make(lab)
    draft = await lab.profile(recorded.made, 3, 0, publish=False)
    stranger = await lab.sensor()
    foreign = await lab.profile(stranger, 3, 0)

    async def refusal(code: str, session: CaptureSession, profile: ConversionProfile, sensor_id: UUID) -> None:
        with pytest.raises((Conflict, NotFound)) as refused:
            await lab.do(lambda work: work.backfills.request(session.id, profile_id=profile.id, sensor_id=sensor_id))
        assert refused.value.code == code

    own = recorded.made.sensor.id
    await refusal("profile_is_draft", recorded.session, draft, own)
    await refusal("not_found", recorded.session, foreign, own)
    await refusal("sensor_not_in_session", recorded.session, foreign, stranger.sensor.id)
    waiting = await lab.session(recorded.run, start=False)
    await refusal("session_not_started", waiting, recorded.second, own)
    running = await lab.do(lambda work: work.captures.start(waiting.id))
    await refusal("session_running", running, recorded.second, own)
    await lab.stop(running)
    await lab.do(lambda work: work.captures.archive(recorded.session.id))
    await refusal("archived", recorded.session, recorded.second, own)


async def test_a_retired_version_is_as_good_as_a_published_one(lab: Laboratory):
    recorded = await Recorded.make(lab)
    third = await lab.profile(recorded.made, 1, 1)
    assert third.status == "published"
    await recorded.request()  # publishing the third has retired the second
    assert await recorded.work_off() == 1
    assert same(await recorded.read(), shifted())


async def test_a_session_is_active_until_its_backfills_have_ended(lab: Laboratory):
    recorded = await Recorded.make(lab, outcome=CaptureStatus.FAILED)
    requested = await recorded.request()
    session_id, run_id, sensor_id = recorded.session.id, recorded.run.id, recorded.made.sensor.id

    async def refused(code: str, use: Any) -> None:
        with pytest.raises(Conflict) as refusal:
            await lab.do(use)
        assert refusal.value.code == code

    for _ in ("queued", "running"):
        await refused("active_backfills", lambda work: work.captures.archive(session_id))
        await refused("active_backfills", lambda work: work.captures.delete(session_id))
        await refused("active_capture_sessions", lambda work: work.runs.finish(run_id))
        await refused("active_capture_sessions", lambda work: work.runs.fail(run_id))
        await refused("sensor_in_use", lambda work: work.runs.unbind(run_id, sensor_id))
        await refused("sensor_in_use", lambda work: work.sensors.retire(sensor_id))
        await refused("sensor_in_use", lambda work: work.sensors.delete(sensor_id))
        await recorded.claim(fresh(), lasting=AT_ONCE)
    await lab.do(lambda work: work.backfills.cancel(requested.backfill.id, reason="enough"))
    await lab.do(lambda work: work.captures.delete(session_id))
    await lab.do(lambda work: work.runs.finish(run_id))


@pytest.mark.covers("backfills.cancel")
async def test_cancelled_it_leaves_nothing_to_be_read(lab: Laboratory):
    recorded = await Recorded.make(lab)
    requested = await recorded.request()
    worker = fresh()
    claimed = await recorded.claim(worker)
    assert claimed is not None
    claimed = await recorded.step(claimed, worker, portion=SMALL)
    assert claimed is not None
    cancelled = await lab.do(lambda work: work.backfills.cancel(requested.backfill.id, reason="wrong one"), lab.editor)
    assert (cancelled.status, cancelled.chunks_done) == ("cancelled", 2)
    assert await lab.do(lambda work: work.backfills.cancel(requested.backfill.id)) == cancelled
    assert await recorded.step(claimed, worker) is None
    assert await recorded.work_off() == 0
    assert same(await recorded.read(), doubled())
    with pytest.raises(NotFound):
        await recorded.read(recorded.second)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.backfills.retry(requested.backfill.id))
    assert refusal.value.code == "invalid_transition"
    # What was converted is found there by the next one, which converts the rest.
    again = await recorded.request()
    assert again.is_new
    await recorded.work_off()
    assert (await recorded.get(again.backfill.id)).readings_converted == 8
    assert same(await recorded.read(), shifted())


async def test_late_readings_are_in_every_layer(lab: Laboratory):
    recorded = await Recorded.make(lab)
    await recorded.request()
    worker = fresh()
    running = await recorded.claim(worker)
    assert running is not None
    # Some come while it is under way: behind what was swept, over it, and of a signal that is new.
    await recorded.send([0, 20], [4.0, 3.0])
    await recorded.send([7], [1.0], "other")
    while running is not None and running.status is BackfillStatus.RUNNING:
        running = await recorded.step(running, worker, portion=SMALL)
        await recorded.send([1], [1.0])
    late = {0: 4.0, 20: 3.0, 1: 1.0}
    assert same(await recorded.read(), {**shifted(), **{stamp: value + 100 for stamp, value in late.items()}})
    assert same(await recorded.read(recorded.first), {**doubled(), **{s: value * 2 for s, value in late.items()}})
    assert same(await recorded.read(signal="other"), {7: 101.0})
    # And some when it is done.
    await recorded.send([30], [2.0])
    assert (await recorded.read())[30] == 102.0
    assert (await recorded.read(recorded.first))[30] == 4.0


@pytest.mark.covers("backfills.stumble", "backfills.retry")
async def test_errors_are_tried_again_and_then_it_has_failed(lab: Laboratory, monkeypatch: pytest.MonkeyPatch):
    recorded = await Recorded.make(lab)
    requested = await recorded.request()
    worker, backfill_id = fresh(), requested.backfill.id
    # The pause before the next try is not waited for here.
    monkeypatch.setattr("experiment_domain.backfills.FIRST_PAUSE", timedelta())
    for attempt in range(1, ATTEMPTS + 1):
        claimed = await recorded.claim(worker)
        assert claimed is not None
        await lab.do(lambda work: work.backfills.stumble(backfill_id, worker, "OSError: no"), SYSTEM)
        found = await recorded.get(backfill_id)
        assert (found.attempts, found.error) == (attempt, "OSError: no")
        assert found.status == ("queued" if attempt < ATTEMPTS else "failed")
    assert await recorded.claim(worker) is None
    (failed,) = [e.event for e in await recorded.events() if e.event.type == "capture.backfill.failed"]
    assert failed.data["error"] == "OSError: no"
    assert same(await recorded.read(), doubled())
    retried = await lab.do(lambda work: work.backfills.retry(backfill_id, reason="mended"), lab.editor)
    assert (retried.status, retried.attempts) == ("queued", 0)
    assert await lab.do(lambda work: work.backfills.retry(backfill_id)) == retried
    await recorded.work_off()
    assert same(await recorded.read(), shifted())


async def test_a_fault_of_the_rule_is_noted_and_others_are_worked_on(lab: Laboratory):
    broken, sound = await Recorded.make(lab), await Recorded.make(lab)

    class Broken(type(lab.services.converter)):
        def convert(self, rule: Any, values: Any, valid_range: Any = None) -> Any:
            raise ArithmeticError("of this rule")

    await broken.request()
    worker = fresh()
    services, told = evolve(lab.services, converter=Broken()), list[Exception]()
    assert await work_off_backfills(services, failed=lambda _, error: told.append(error), portion=SMALL) == 0
    assert [str(error) for error in told] == ["of this rule"]
    await sound.request()
    assert await sound.work_off() == 1
    assert same(await sound.read(), shifted())
    assert await sound.claim(worker) is None  # the other one pauses
    (pausing,) = (await lab.ask(lambda work: work.backfills.page(broken.session.id))).items
    assert (pausing.status, pausing.error) == ("queued", "ArithmeticError: of this rule")
    await lab.do(lambda work: work.backfills.cancel(pausing.id))


async def test_a_worker_that_vanished_is_followed_by_another(lab: Laboratory):
    recorded = await Recorded.make(lab)
    requested = await recorded.request()
    lost, heir = fresh(), fresh()
    claimed = await recorded.claim(lost, lasting=AT_ONCE)
    assert claimed is not None
    claimed = await recorded.step(claimed, lost, portion=SMALL, lasting=AT_ONCE)
    assert claimed is not None
    taken = await recorded.claim(heir)
    assert taken is not None
    assert (taken.id, taken.attempts, taken.chunks_done) == (requested.backfill.id, 1, 2)
    # Nobody else gets it while the claim lasts, and the first one has lost it.
    assert await recorded.claim(fresh()) is None
    assert await recorded.step(claimed, lost, portion=SMALL) is None
    while taken is not None and taken.status is BackfillStatus.RUNNING:
        taken = await recorded.step(taken, heir, portion=SMALL)
    done = await recorded.get(requested.backfill.id)
    assert (done.status, done.readings_converted, done.attempts) == ("succeeded", 12, 0)
    assert same(await recorded.read(), shifted())


async def test_what_ends_every_worker_is_given_up(lab: Laboratory):
    recorded = await Recorded.make(lab)
    requested = await recorded.request()
    for _ in range(LOSSES + 1):
        last = await recorded.claim(fresh(), lasting=AT_ONCE)
        assert last is not None
    found = await recorded.get(requested.backfill.id)
    assert (found.status, found.attempts) == ("failed", LOSSES)
    assert await recorded.claim(fresh()) is None
    assert same(await recorded.read(), doubled())


@pytest.mark.covers("backfills.leave")
async def test_they_take_turns(lab: Laboratory):
    one, other = await Recorded.make(lab), await Recorded.make(lab)
    ids = [(await one.request()).backfill.id, (await other.request()).backfill.id]
    worker, order = fresh(), list[UUID]()
    for _ in range(4):
        claimed = await one.claim(worker)
        assert claimed is not None
        order.append(backfill_id := claimed.id)
        await lab.do(lambda work: work.backfills.leave(backfill_id, worker), SYSTEM)
    assert order == ids * 2
    assert await one.work_off(turn=0.0, seconds=0.0) == 0  # not even begun
    assert await one.work_off() == 2


async def test_two_workers_at_once_double_nothing(lab: Laboratory):
    several = [await Recorded.make(lab, chunks=9) for _ in range(3)]
    for recorded in several:
        await recorded.request()
    ended = await asyncio.gather(*(several[0].work_off(portion=SMALL, turn=0.0) for _ in range(3)), _turns(several[0]))
    # Where a claim was lost to nobody, every one ended once.
    assert sum(ended[:3]) <= 3
    await several[0].work_off()
    for recorded in several:
        assert same(await recorded.read(), shifted(9))
        (found,) = (await lab.ask(lambda work: work.backfills.page(recorded.session.id))).items  # noqa: B023
        assert (found.status, found.readings_converted) == ("succeeded", 18)
        types = [event.event.type for event in await recorded.events()]
        assert types.count("capture.backfill.started") == types.count("capture.backfill.finished") == 1
        assert await recorded.applied() == ["conversion_profile.applied"]


async def _turns(recorded: Recorded) -> int:
    return await recorded.work_off(portion=SMALL, turn=0.01)


async def test_only_the_service_works_on_them(lab: Laboratory):
    recorded = await Recorded.make(lab)
    requested = await recorded.request()
    for use in (
        lambda work: work.backfills.claim(fresh()),
        lambda work: work.backfills.step(requested.backfill, fresh()),
        lambda work: work.backfills.stumble(requested.backfill.id, fresh(), "no"),
        lambda work: work.backfills.leave(requested.backfill.id, fresh()),
    ):
        with pytest.raises(Forbidden):
            await lab.do(use, lab.owner)
    await lab.do(lambda work: work.backfills.cancel(requested.backfill.id))


async def test_a_session_without_readings_is_converted_at_once(lab: Laboratory):
    recorded = await Recorded.make(lab, chunks=0)
    await recorded.request()
    assert await recorded.work_off() == 1
    await recorded.send([1], [1.0])
    assert same(await recorded.read(), {1: 101.0})
    assert same(await recorded.read(recorded.first), {1: 2.0})


async def test_the_list_narrows_by_status(lab: Laboratory):
    recorded = await Recorded.make(lab)
    first = await recorded.request()
    await recorded.work_off()
    lab.clock.pass_by(1)
    second = await recorded.request(recorded.first)

    async def listed(*statuses: BackfillStatus) -> list[UUID]:
        use = lambda work: work.backfills.page(recorded.session.id, statuses=statuses)  # noqa: E731
        return [found.id for found in (await lab.ask(use, by=lab.viewer)).items]

    assert await listed() == [second.backfill.id, first.backfill.id]
    assert await listed(BackfillStatus.QUEUED) == [second.backfill.id]
    assert await listed(BackfillStatus.SUCCEEDED, BackfillStatus.FAILED) == [first.backfill.id]
    await lab.do(lambda work: work.backfills.cancel(second.backfill.id))
