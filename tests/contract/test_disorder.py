"""100,000 readings, shuffled, repeated and late, are read as those of a sorted recording are."""

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve

from entities import SettableClock, a_batch
from experiment_domain.captures import CaptureSession
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.envelopes import EnvelopeQuery
from experiment_domain.telemetry.grids import GridQuestion
from experiment_domain.telemetry.store import Layer, Metrics, ReadingQuery
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.sensors import SensorWithToken
from laboratory import Laboratory
from rig import column_of

READINGS = 100_000
LATE = READINGS // 20
REPEATED = READINGS // 10
STEP = 10_007
MOST = 4_000
"""The most readings of a batch."""
Reading = tuple[int, float]


@pytest.mark.postgres
async def test_disorder_leaves_no_trace(runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork):
    chance = random.Random(20_260_309)
    clock = SettableClock()
    lab = await Laboratory.open(postgres_units_of_work, clock=clock)
    start = micros(clock.now()) - READINGS * STEP
    readings = [(start + place * STEP, chance.gauss(0.0, 60.0)) for place in range(READINGS)]
    spike = chance.randrange(READINGS)
    readings[spike] = (readings[spike][0], 1e6)
    runs = [await lab.run(start=True), await lab.run(start=True)]
    made = await lab.sensor(*runs)
    await lab.profile(made, 2.0, 1.0)
    in_order = await lab.session(runs[0])
    for place in range(0, READINGS, MOST):
        await send(lab, made, in_order, readings[place : place + MOST])
    await lab.stop(in_order)
    in_disorder = await lab.session(runs[1])
    shuffled = chance.sample(readings, READINGS)
    on_time, late = shuffled[LATE:], shuffled[:LATE]
    # Readings are repeated in batches with others, and whole batches are sent again, late ones too.
    await send_in_batches(lab, made, in_disorder, [*on_time, *chance.sample(on_time, REPEATED)], chance)
    await lab.stop(in_disorder)
    await send_in_batches(lab, made, in_disorder, late, chance)

    sorted_facts, facts = [await facts_of(lab, made, session) for session in (in_order, in_disorder)]
    assert facts["series"].late == LATE
    assert (sorted_facts["series"].count, facts["series"].count) == (READINGS, READINGS)
    for name in ("first_timestamp", "last_timestamp", "out_of_range"):
        assert getattr(facts["series"], name) == getattr(sorted_facts["series"], name)
    for layer in Layer:
        assert facts[f"{layer} readings"] == sorted_facts[f"{layer} readings"]
        assert facts[f"{layer} grid"] == sorted_facts[f"{layer} grid"]
        one, other = sorted_facts[f"{layer} envelope"], facts[f"{layer} envelope"]
        assert list(map(repr, one.columns[:-1])) == list(map(repr, other.columns[:-1]))
        assert other.means == pytest.approx(one.means, rel=1e-9, abs=1e-9)
        assert max(other.maximums) == (1e6 if layer is Layer.RAW else 2e6 + 1)
        for kind in ("metrics", "buckets"):
            assert_same(facts[f"{layer} {kind}"], sorted_facts[f"{layer} {kind}"])
        assert sum(metrics.late for metrics in facts[f"{layer} buckets"]) == LATE
    assert facts["raw readings"] == [(stamp, repr(value)) for stamp, value in readings]


async def send_in_batches(
    lab: Laboratory,
    made: SensorWithToken,
    session: CaptureSession,
    readings: Sequence[Reading],
    chance: random.Random,
) -> None:
    place = 0
    while place < len(readings):
        size = chance.randrange(1, MOST)
        batch = readings[place : place + size]
        await send(lab, made, session, batch)
        if chance.random() < 0.1:
            await send(lab, made, session, batch, again=True)
        place += size


async def send(
    lab: Laboratory,
    made: SensorWithToken,
    session: CaptureSession,
    readings: Sequence[Reading],
    *,
    again: bool = False,
) -> None:
    accepted = await lab.ingest(made, a_batch(column_of(readings), session=session.id))
    assert (accepted.accepted, accepted.duplicate) == (len(readings), again)


async def facts_of(lab: Laboratory, made: SensorWithToken, session: CaptureSession) -> dict[str, Any]:
    """All that can be read of a session."""
    which: dict[str, Any] = {"capture_session_id": session.id, "sensor_id": made.sensor.id, "signal": "value"}
    (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))
    facts: dict[str, Any] = {"series": series}
    for layer in Layer:
        query = ReadingQuery(layer=layer, limit=30_000, **which)
        found: list[tuple[int, str]] = []
        while True:
            part = (await lab.ask(lambda work: work.telemetry.read(query, layer=layer))).readings  # noqa: B023
            found += zip(part.timestamps, map(repr, part.values), strict=True)
            if not part.more:
                break
            query = evolve(query, after=part.timestamps[-1])
        facts[f"{layer} readings"] = found
        envelope = EnvelopeQuery(layer=layer, points=300, **which)
        facts[f"{layer} envelope"] = (
            await lab.ask(lambda work: work.telemetry.envelope(envelope, layer=layer))  # noqa: B023
        ).envelope
        question = GridQuestion(step=1_234_567, layer=layer)
        page = await lab.ask(lambda work: work.telemetry.grid(session.run_id, question))  # noqa: B023
        facts[f"{layer} grid"] = [list(map(repr, column)) for column in page.values]
        for kind, bucket in (("metrics", None), ("buckets", 60_000_000)):
            facts[f"{layer} {kind}"] = await lab.ask(
                lambda work: work.telemetry.metrics(session.run_id, layer=layer, bucket=bucket)  # noqa: B023
            )
    return facts


def assert_same(found: Sequence[Metrics], expected: Sequence[Metrics]) -> None:
    """Exactly the same, but for sums of floats, and for what came late."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.timestamp, one.duration, one.out_of_range) == (other.timestamp, other.duration, other.out_of_range)
        assert one.statistics is not None
        assert other.statistics is not None
        exact = ("count", "minimum", "maximum", "first", "last")
        assert [getattr(one.statistics, name) for name in exact] == [getattr(other.statistics, name) for name in exact]
        assert math.isclose(one.statistics.mean, other.statistics.mean, rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(one.statistics.deviation, other.statistics.deviation, rel_tol=1e-9)
