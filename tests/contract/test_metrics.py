"""What every `TelemetryStore` promises of metrics: exact, whole or by buckets, whatever came when and how often."""

import asyncio
import math
import random
import tracemalloc
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities import a_column, a_profile, a_session, later
from experiment_adapters.postgres.telemetry import summaries
from experiment_domain.captures import CaptureSession, CaptureStatus, Pin
from experiment_domain.conversions.profiles import ProfileStatus
from experiment_domain.conversions.rules import Linear
from experiment_domain.kernel.errors import Invalid
from experiment_domain.telemetry.batches import EARLIEST, LATEST, Column, micros
from experiment_domain.telemetry.store import BUCKETS, Layer, Metrics
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ask, keep
from rig import SECOND, T0, Rig, check_statistics, column_of
from strategies import finite_floats

Reading = tuple[int, int, float, bool]
"""Timestamp, number of the session, value, and whether it came late."""


@pytest.fixture
def rig(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Rig:
    return runner.run(Rig.build(units_of_work))


async def further_session(rig: Rig, ordinal: int) -> CaptureSession:
    session = a_session(rig.run, ordinal=ordinal, status=CaptureStatus.SUCCEEDED, pins=rig.session.pins)
    await keep(rig.units, session)
    return session


def starts(found: Sequence[Metrics]) -> list[int]:
    return [micros(metrics.timestamp) for metrics in found if metrics.timestamp is not None]


def check(found: Metrics, readings: Sequence[Reading]) -> None:
    """Fail unless metrics are those of readings, of which NaN are without a value."""
    stamps = [stamp for stamp, *_ in readings]
    values = [value for _, _, value, _ in readings]
    check_statistics(found.statistics, values)
    assert found.late == sum(late for *_, late in readings)
    assert found.out_of_range == sum(map(math.isnan, values))
    assert found.duration == (max(stamps) - min(stamps)) / SECOND


async def test_buckets_are_aligned_to_the_epoch(rig: Rig):
    begin = T0 // SECOND * SECOND
    await rig.deliver(a_column([begin - 1, begin, begin + SECOND - 1, begin + 3 * SECOND], [1.0, 2.0, 4.0, 8.0]))
    found = await rig.metrics(Layer.RAW, bucket=SECOND)
    assert starts(found) == [begin - SECOND, begin, begin + 3 * SECOND]
    assert [metrics.duration for metrics in found] == [0.0, 0.999999, 0.0]
    assert [metrics.statistics and metrics.statistics.mean for metrics in found] == [1.0, 3.0, 8.0]
    (whole,) = await rig.metrics(Layer.RAW)
    assert (whole.timestamp, whole.duration) == (None, 3.000001)


async def test_readings_before_the_epoch_and_at_the_ends_of_time(rig: Rig):
    await rig.deliver(a_column([EARLIEST, -1, 0, LATEST], [1.0, 2.0, 3.0, 4.0]))
    found = await rig.metrics(Layer.RAW, bucket=86_400 * SECOND)
    assert [metrics.statistics and metrics.statistics.first for metrics in found] == [1.0, 2.0, 3.0, 4.0]
    # The first bucket begins with the years.
    assert starts(found) == [EARLIEST, -86_400 * SECOND, 0, LATEST // (86_400 * SECOND) * 86_400 * SECOND]


async def test_what_was_overridden_counts_for_nothing(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1, T0 + 2], [100.0, 1.0, -100.0]))
    await rig.deliver(a_column([T0, T0 + 2], [2.0, 3.0]), late=True)
    for bucket in (None, 10**9):
        (found,) = await rig.metrics(Layer.RAW, bucket=bucket)
        check(found, [(T0, 1, 2.0, True), (T0 + 1, 1, 1.0, False), (T0 + 2, 1, 3.0, True)])


async def test_a_bucket_without_physical_values(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10 * SECOND], [500.0, 5.0]))
    first, second = await rig.metrics(Layer.PHYSICAL, bucket=SECOND)
    assert (first.statistics, first.out_of_range, second.out_of_range) == (None, 1, 0)
    assert second.statistics is not None


async def test_not_too_many_buckets(rig: Rig):
    half = BUCKETS // 2
    stamps = [T0 + place * SECOND for place in range(half)]
    await rig.deliver(a_column(stamps, [1.0] * half), a_column(stamps, [1.0] * half, "other"))
    found = await rig.metrics(Layer.RAW, bucket=SECOND)
    assert len(found) == BUCKETS
    assert [metrics.signal for metrics in found] == ["other"] * half + ["value"] * half
    assert starts(found[:half]) == sorted(starts(found[:half]))
    await rig.deliver(a_column([T0 + half * SECOND], [1.0]))
    with pytest.raises(Invalid, match="buckets"):
        await rig.metrics(Layer.RAW, bucket=SECOND)
    assert len(await rig.metrics(Layer.RAW, ["value"], bucket=SECOND)) == half + 1


async def test_raw_values_stand_in_where_there_are_no_others(rig: Rig):
    session = a_session(
        rig.run,
        ordinal=2,
        status=CaptureStatus.SUCCEEDED,
        pins=(Pin(sensor_id=rig.sensor.id, profile_id=None, profile_version=None),),
    )
    await keep(rig.units, session)
    await rig.deliver(a_column([T0], [1.0]))
    await rig.deliver(a_column([T0 + 1], [10.0]), session=session)
    for bucket in (None, SECOND):
        found = await rig.metrics(None, bucket=bucket)
        means = {metrics.layer: metrics.statistics and metrics.statistics.mean for metrics in found}
        assert means == {Layer.PHYSICAL: 3.0, Layer.RAW: 10.0}


async def test_metrics_of_several_runs_are_those_of_each(rig: Rig):
    other = await Rig.build(rig.units)
    empty = await Rig.build(rig.units)
    await rig.deliver(a_column([T0], [1.0]), a_column([T0], [2.0], "b"))
    await other.deliver(a_column([T0 + 5], [7.0]))
    second = await further_session(rig, 2)
    await rig.deliver(a_column([T0 + 9], [3.0]), session=second)
    layers = {rig.run.id: Layer.RAW, other.run.id: Layer.PHYSICAL, empty.run.id: None}
    found = await ask(rig.units, lambda uow: uow.telemetry.metrics_of_runs(layers))
    assert empty.run.id not in found
    assert list(found[rig.run.id]) == await rig.metrics(Layer.RAW)
    assert list(found[other.run.id]) == await other.metrics(Layer.PHYSICAL)
    found = await ask(rig.units, lambda uow: uow.telemetry.metrics_of_runs(layers, signals=["b"]))
    assert {run_id: [metrics.signal for metrics in of_run] for run_id, of_run in found.items()} == {rig.run.id: ["b"]}


async def test_versions_are_kept_apart_in_buckets(rig: Rig):
    newer = a_profile(rig.sensor, profile_version=2, rule=Linear(2.0, 1.0), status=ProfileStatus.DRAFT)
    pin = Pin(sensor_id=rig.sensor.id, profile_id=newer.id, profile_version=2)
    session = a_session(rig.run, ordinal=2, status=CaptureStatus.SUCCEEDED, pins=(pin,), started_at=later(1))
    await keep(rig.units, newer, session)
    await rig.deliver(a_column([T0], [1.0]))
    await rig.deliver(a_column([T0 + 1], [3.0]), session=session)
    found = await rig.metrics(Layer.PHYSICAL, bucket=SECOND)
    assert {metrics.profile_id for metrics in found} == {rig.profile.id, newer.id}
    assert len(found) == 2


STAMPS = st.integers(0, 40).map(lambda offset: T0 + offset) | st.integers(0, 10**4).map(lambda offset: T0 + offset)
VALUES = st.integers(-20, 120).map(float) | finite_floats()
COLUMNS = st.lists(st.tuples(STAMPS, VALUES), min_size=1, max_size=12).map(column_of)
BATCHES = st.lists(st.tuples(COLUMNS, st.integers(0, 1), st.booleans()), min_size=1, max_size=6)


@pytest.mark.timeout(3_600)  # for the nights, when far more is tried
def test_any_batches_are_summed_up_as_the_model_says(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    @given(BATCHES, st.sampled_from([3, 10, 500, 10**5]))
    def agrees(batches: list[tuple[Column, int, bool]], bucket: int) -> None:
        runner.run(_agrees(units_of_work, batches, bucket))

    agrees()


async def _agrees(units: UnitsOfWork, batches: Sequence[tuple[Column, int, bool]], bucket: int) -> None:
    rig = await Rig.build(units)
    sessions = [rig.session, await further_session(rig, 2)]
    received: list[dict[int, tuple[float, bool]]] = [{}, {}]
    for column, place, late in batches:
        await rig.deliver(column, session=sessions[place], late=late)
        readings = zip(column.timestamps, column.values, strict=True)
        received[place].update({stamp: (value, late) for stamp, value in readings})
    raw = sorted(
        (stamp, ordinal, value, late)
        for ordinal, of_session in enumerate(received)
        for stamp, (value, late) in of_session.items()
    )
    physical = [
        (stamp, ordinal, 2 * value + 1 if 0 <= value <= 100 else math.nan, late) for stamp, ordinal, value, late in raw
    ]
    for layer, readings in ((Layer.RAW, raw), (Layer.PHYSICAL, physical)):
        (whole,) = await rig.metrics(layer)
        check(whole, readings)
        found = await rig.metrics(layer, bucket=bucket)
        expected: dict[int, list[Reading]] = {}
        for reading in readings:
            expected.setdefault(reading[0] // bucket * bucket, []).append(reading)
        assert starts(found) == list(expected)
        for metrics, within in zip(found, expected.values(), strict=True):
            check(metrics, within)


async def test_large_chunks_across_the_edges_of_buckets(rig: Rig):
    chance = random.Random(11)
    readings: Mapping[int, float] = {T0 + place * 1_000: chance.gauss(50.0, 20.0) for place in range(20_000)}
    batches = list(readings.items())
    for start in range(0, len(batches), 1_700):
        await rig.deliver(column_of(batches[start : start + 1_700]))
    for bucket in (SECOND, 1_300_000, 60 * SECOND):
        found = await rig.metrics(Layer.RAW, bucket=bucket)
        assert sum(metrics.statistics.count for metrics in found if metrics.statistics) == len(readings)
        for start, metrics in zip(starts(found), found, strict=True):
            within = [(stamp, 1, value, False) for stamp, value in batches if start <= stamp < start + bucket]
            check(metrics, within)


async def test_large_batches_are_opened_a_few_at_a_time(
    runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(summaries, "READINGS_AT_ONCE", 20_000)
    rig = await Rig.build(postgres_units_of_work)
    for batch in range(50):
        begin = T0 + batch * 10 * SECOND
        await rig.deliver(a_column(range(begin, begin + 10 * SECOND, 1_000), [float(batch)] * 10_000))
    tracemalloc.start()
    try:
        found = await rig.metrics(Layer.RAW, bucket=3 * SECOND)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(metrics.statistics.count for metrics in found if metrics.statistics) == 500_000
    # All of them together have 8 MB of timestamps and values.
    assert peak < 4 << 20
