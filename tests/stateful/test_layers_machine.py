"""Batches, backfills, compaction, crashes and reads in any order, against a model of plain dictionaries.

The worker's steps are taken one by one, by two workers, and each may be abandoned at its end, as a crash would: with
its unit of work not committed.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import field, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from entities import a_batch, a_column, fresh
from experiment_domain import System, Work
from experiment_domain.backfills import Backfill, BackfillStatus
from experiment_domain.captures import CaptureStatus
from experiment_domain.kernel.errors import NotFound
from experiment_domain.telemetry.batches import Batch
from experiment_domain.telemetry.envelopes import EnvelopeQuery
from experiment_domain.telemetry.layers import Portion
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.compaction import compact_telemetry
from laboratory import Laboratory

pytestmark = pytest.mark.timeout(3_600)  # for the nights, when far more is tried

SYSTEM = System()
LIMIT = 20.0
"""What is above has no physical value, under every profile."""
AT_ONCE = timedelta(seconds=-1)
PORTIONS = (Portion(chunks=1), Portion(chunks=3), Portion())
READINGS = st.lists(st.tuples(st.integers(0, 30), st.integers(-9, 30)), min_size=1, max_size=5)


class Abandoned(Exception):  # noqa: N818 - what a crash is here
    """The process ended before the unit of work was committed."""


@frozen
class Rule:
    """What a profile makes of a raw value."""

    profile_id: UUID
    a: int

    def of(self, value: float) -> float:
        return self.a * value if value <= LIMIT else math.nan


@frozen
class Sent:
    """A batch that was taken in, and what was answered."""

    batch: Batch
    late: int


@frozen
class Model:
    """What is read, by timestamp: the value and whether it came late; and by which rules."""

    readings: dict[int, tuple[float, bool]] = field(factory=dict, init=False)
    sent: list[Sent] = field(factory=list, init=False)
    rules: list[Rule] = field(factory=list, init=False)
    whole: list[Rule] = field(factory=list, init=False)  # the current one last


class LayersMachine(RuleBasedStateMachine):
    """One session of one sensor, on one adapter."""

    def __init__(self, runner: asyncio.Runner, units: UnitsOfWork) -> None:
        super().__init__()
        self.runner = runner
        self.lab = runner.run(Laboratory.open(units))
        self.model = Model()
        self.is_over = False
        self.held: dict[UUID, Backfill] = {}
        self.asked: dict[UUID, Rule] = {}
        self.workers = (fresh(), fresh())

    def do(self, use: Callable[[Work], Awaitable[Any]], by: Any = None, *, crash: bool = False) -> Any:
        """What is answered; None where its process crashed."""

        async def one() -> Any:
            async with self.lab.services.begin(by or self.lab.owner) as work:
                result = await use(work)
                if crash:
                    raise Abandoned
                return result

        try:
            return self.runner.run(one())
        except Abandoned:
            return None

    @initialize()
    def open(self) -> None:
        self.run = self.runner.run(self.lab.run(start=True))
        self.made = self.runner.run(self.lab.sensor(self.run))
        self.publish(2)
        self.session = self.runner.run(self.lab.session(self.run))
        self.model.whole.append(self.model.rules[0])

    def teardown(self) -> None:
        # Nothing is left for the next machine's workers.
        for backfill_id in self.asked:
            if self.backfill(backfill_id).is_active:
                self.do(lambda work: work.backfills.cancel(backfill_id))  # noqa: B023

    def backfill(self, backfill_id: UUID) -> Backfill:
        return self.runner.run(self.lab.ask(lambda work: work.backfills.get(backfill_id)))

    @rule(a=st.integers(-3, 3))
    def publish(self, a: int) -> None:
        bounds = {"min": None, "max": LIMIT}
        profile = self.runner.run(self.lab.profile(self.made, a, 0, valid_range=bounds))
        self.model.rules.append(Rule(profile.id, a))

    @rule(readings=READINGS, times=st.integers(1, 6))
    def send(self, readings: list[tuple[int, int]], times: int) -> None:
        """Some batches, each a bit behind the one before."""
        for step in range(times):
            stamps = [stamp + 3 * step for stamp, _ in readings]
            values = [float(value + step) for _, value in readings]
            batch = a_batch(a_column(stamps, values), session=self.session.id)
            if all(batch.key != sent.batch.key for sent in self.model.sent):
                self.take_in(batch)

    def take_in(self, batch: Batch) -> None:
        answer = self.runner.run(self.lab.ingest(self.made, batch))
        late = len(batch) if self.is_over else 0
        assert (answer.accepted, answer.late, answer.duplicate) == (len(batch), late, False)
        self.model.sent.append(Sent(batch, late))
        for column in batch.columns:
            for stamp, value in zip(column.timestamps, column.values, strict=True):
                self.model.readings[stamp] = (value, self.is_over)

    @precondition(lambda self: self.model.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.model.sent))
        answer = self.runner.run(self.lab.ingest(self.made, sent.batch))
        assert (answer.accepted, answer.late, answer.duplicate) == (len(sent.batch), sent.late, True)

    @precondition(lambda self: not self.is_over)
    @rule()
    def stop(self) -> None:
        self.runner.run(self.lab.stop(self.session, CaptureStatus.SUCCEEDED))
        self.is_over = True

    @precondition(lambda self: self.is_over)
    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        wanted = data.draw(st.sampled_from(self.model.rules))
        self.lab.clock.pass_by(1)
        ids = {"profile_id": wanted.profile_id, "sensor_id": self.made.sensor.id}
        requested = self.do(lambda work: work.backfills.request(self.session.id, **ids))
        known = [key for key, asked in self.asked.items() if asked == wanted and self.backfill(key).is_active]
        assert requested.is_new or requested.backfill.id in known or self.model.whole[-1] == wanted
        assert not (requested.is_new and known)
        self.asked[requested.backfill.id] = wanted

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        active = [key for key in self.asked if self.backfill(key).is_active]
        if active:
            backfill_id = data.draw(st.sampled_from(active))
            self.do(lambda work: work.backfills.cancel(backfill_id))

    @precondition(lambda self: self.asked)
    @rule(
        worker=st.sampled_from((0, 1)),
        portion=st.sampled_from(PORTIONS),
        crash=st.booleans(),
        lost=st.booleans(),
        steps=st.integers(1, 6),
    )
    def work(self, worker: int, portion: Portion, crash: bool, lost: bool, steps: int) -> None:
        """Some steps of a worker; the last of them may crash, and its claim may run out at once."""
        name = self.workers[worker]
        lasting = timedelta() if lost else timedelta(hours=1)
        for step in range(steps):
            crashes = crash and step == steps - 1
            backfill = self.held.pop(name, None)
            if backfill is None:
                backfill = self.do(lambda work: work.backfills.claim(name, lasting=lasting), SYSTEM, crash=crashes)
            else:
                held = backfill
                backfill = self.do(
                    lambda work: work.backfills.step(held, name, portion=portion, lasting=lasting),  # noqa: B023
                    SYSTEM,
                    crash=crashes,
                )
            if backfill is None:
                continue
            if backfill.status is BackfillStatus.SUCCEEDED:
                made = self.asked[backfill.id]
                self.model.whole[:] = [*(whole for whole in self.model.whole if whole != made), made]
            elif backfill.status is BackfillStatus.RUNNING:
                self.held[name] = backfill

    @rule(crash=st.booleans(), is_quiet=st.booleans())
    def compact(self, crash: bool, is_quiet: bool) -> None:
        if crash:
            self.runner.run(self.abandon_merging())
        quiet = AT_ONCE if is_quiet else timedelta(days=1)
        self.runner.run(compact_telemetry(self.lab.services, lambda: False, lag=AT_ONCE, quiet=quiet, least=1))

    async def abandon_merging(self) -> None:
        now = self.lab.clock.now() + timedelta(seconds=1)
        async with self.lab.units.begin(SYSTEM) as uow:
            for pile in await uow.compaction.piles(before=now, settled=now, least=1, limit=3):
                held = await uow.compaction.hold(pile)
                await uow.compaction.merge(held)
                await uow.compaction.put_away(held, before=now, most=100)

    @invariant()
    def what_is_read_is_what_the_model_says(self) -> None:
        if not self.model.whole:
            return
        raw = {stamp: value for stamp, (value, _) in self.model.readings.items()}
        assert self.read(Layer.RAW, None) == raw
        for number, whole in enumerate([*self.model.whole, self.model.whole[-1]]):
            expected = {stamp: whole.of(value) for stamp, value in raw.items()}
            asked = None if number == len(self.model.whole) else whole.profile_id
            if raw:
                assert same(self.read(Layer.PHYSICAL, asked), expected), asked
        for known in self.model.rules:
            if raw and known not in self.model.whole:
                with pytest.raises(NotFound):
                    self.read(Layer.PHYSICAL, known.profile_id)

    @invariant()
    def what_is_counted_is_what_the_model_says(self) -> None:
        if not self.model.readings:
            return
        current = self.model.whole[-1]
        values = [current.of(value) for _, (value, _) in sorted(self.model.readings.items())]
        found = [value for value in values if not math.isnan(value)]
        late = sum(is_late for _, is_late in self.model.readings.values())
        (series,) = self.runner.run(self.lab.ask(lambda work: work.telemetry.series(self.session.id)))
        assert (series.count, series.late, series.out_of_range) == (len(values), late, len(values) - len(found))
        assert series.profile_id == current.profile_id
        (metrics,) = self.runner.run(
            self.lab.ask(lambda work: work.telemetry.metrics(self.run.id, layer=Layer.PHYSICAL))
        )
        assert (metrics.late, metrics.out_of_range) == (late, len(values) - len(found))
        statistics = metrics.statistics
        assert (statistics is None) is (not found)
        if statistics is not None:
            assert (statistics.count, statistics.minimum, statistics.maximum) == (len(found), min(found), max(found))
            assert (statistics.first, statistics.last) == (found[0], found[-1])
            assert statistics.mean == pytest.approx(sum(found) / len(found), abs=1e-9)
        query = EnvelopeQuery(**self.question(Layer.PHYSICAL, None), points=4)
        answer = self.runner.run(self.lab.ask(lambda work: work.telemetry.envelope(query, layer=Layer.PHYSICAL)))
        assert sum(answer.envelope.counts) == len(found)

    def question(self, layer: Layer, profile_id: UUID | None) -> dict[str, Any]:
        return {
            "capture_session_id": self.session.id,
            "sensor_id": self.made.sensor.id,
            "signal": "value",
            "layer": layer,
            "profile_id": profile_id,
        }

    def read(self, layer: Layer, profile_id: UUID | None) -> dict[int, float]:
        query = ReadingQuery(**self.question(layer, profile_id), limit=10_000)
        found = self.runner.run(self.lab.ask(lambda work: work.telemetry.read(query, layer=layer)))
        return dict(zip(found.readings.timestamps, found.readings.values, strict=True))


def same(one: dict[int, float], other: dict[int, float]) -> bool:
    return one.keys() == other.keys() and all(
        value == other[stamp] or (math.isnan(value) and math.isnan(other[stamp])) for stamp, value in one.items()
    )


def test_layers(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> None:
    few = settings(max_examples=max(12, settings().max_examples // 5))

    class OnThisAdapter(LayersMachine):
        def __init__(self) -> None:
            super().__init__(runner, units_of_work)

    run_state_machine_as_test(OnThisAdapter, settings=few)
