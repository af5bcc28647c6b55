"""What every `Envelopes` promises: few parts, and nothing lost in them, however the readings arrived."""

import asyncio
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from entities import a_column
from experiment_domain.telemetry.batches import EARLIEST, LATEST, Column
from experiment_domain.telemetry.envelopes import POINTS, Envelope
from experiment_domain.telemetry.store import Layer
from experiment_domain.unit_of_work import UnitsOfWork
from rig import SECOND, T0, Rig, column_of
from strategies import finite_floats

Readings = dict[int, float]


@pytest.fixture
def rig(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Rig:
    return runner.run(Rig.build(units_of_work))


def check(found: Envelope, readings: Readings, points: int, start: int | None = None, end: int | None = None) -> None:
    """Fail unless an envelope keeps every promise about these readings, of which NaN are without a value."""
    inside = {
        stamp: value
        for stamp, value in sorted(readings.items())
        if (start is None or stamp >= start) and (end is None or stamp < end)
    }
    assert len(found) <= points
    assert [(column.typecode, len(column)) for column in found.columns] == [
        (code, len(found)) for code in ("q", "q", "q", "d", "d", "d", "d", "d")
    ]
    parts = list(zip(found.starts, found.ends, strict=True))
    assert all(left[1] <= right[0] for left, right in pairwise(parts))
    held = 0
    for place, (low, high) in enumerate(parts):
        assert start is None or low >= start
        assert end is None or high <= end
        # There is no moment behind the last one, for the last part to end at.
        end_of_time = place == len(found) - 1 and high == LATEST
        within = [value for stamp, value in inside.items() if low <= stamp < high or (end_of_time and stamp == high)]
        assert within, "a part without a reading"
        held += len(within)
        values = [value for value in within if not math.isnan(value)]
        assert found.counts[place] == len(values)
        statistics = [column[place] for column in found.columns[3:]]
        if not values:
            assert all(map(math.isnan, statistics))
            continue
        # To the bit, but for the mean.
        assert repr(statistics[2:4]) == repr([values[0], values[-1]])
        assert statistics[:2] == [min(values), max(values)]
        scale = max(map(abs, values))
        expected = float(sum(map(Fraction, values)) / len(values))
        assert statistics[4] == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale)
        assert min(values) <= statistics[4] <= max(values)
    assert held == len(inside)


async def test_no_readings(rig: Rig):
    for layer in Layer:
        assert len(await rig.envelope(10, layer)) == 0
    await rig.deliver(a_column([T0], [1.0]))
    assert len(await rig.envelope(10, signal="other")) == 0
    assert len(await rig.envelope(10, start=T0 + 1)) == 0
    assert len(await rig.envelope(10, end=T0)) == 0
    assert len(await rig.envelope(10, Layer.PHYSICAL, profile_id=None)) == 0


async def test_parts_are_of_one_width(rig: Rig):
    stamps = [T0 + place * SECOND for place in range(1_000)]
    await rig.deliver(a_column(stamps, [float(n % 7) for n in range(1_000)]))
    found = await rig.envelope(100)
    assert set(found.counts) == {10}
    assert {end - start for start, end in zip(found.starts, found.ends, strict=True)} == {10 * SECOND}
    # Round widths leave a little unused, but not much.
    for points in (1, 2, 3, 97, 101, 333, 999, 1_000):
        assert points * 0.7 <= len(await rig.envelope(points)) <= points


async def test_parts_without_readings_are_left_out(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1, T0 + 98, T0 + 99], [1.0, 2.0, 3.0, 4.0]))
    found = await rig.envelope(10)
    assert list(found.starts) == [T0, T0 + 90]
    assert list(found.means) == [1.5, 3.5]


async def test_a_window_that_is_moved_shows_the_same_parts(rig: Rig):
    await rig.deliver(a_column(range(T0, T0 + 5_000), [math.sin(n) for n in range(5_000)]))
    one = await rig.envelope(50, start=T0 + 1_000, end=T0 + 2_000)
    other = await rig.envelope(50, start=T0 + 1_490, end=T0 + 2_490)

    def parts(found: Envelope) -> dict[int, tuple[Any, ...]]:
        return {row[0]: row for row in zip(*found.columns, strict=True)}

    shared = parts(one).keys() & parts(other).keys()
    assert len(shared) >= 20
    whole = [start for start in shared if start > T0 + 1_490 and parts(one)[start][1] < T0 + 2_000]
    assert [parts(one)[start] for start in whole] == [parts(other)[start] for start in whole]


@pytest.mark.parametrize("layer", Layer)
async def test_a_spike_shows_at_every_zoom(rig: Rig, layer: Layer):
    readings = {T0 + place * SECOND: 10.0 for place in range(4_000)}
    spike = T0 + 2_718 * SECOND
    readings[spike] = 99.5
    batches = sorted(readings.items())
    for start in range(0, len(batches), 113):
        await rig.deliver(column_of(batches[start : start + 113]))
    peak = 99.5 if layer is Layer.RAW else 200.0
    for points in (1, 2, 10, 50, 1_000, POINTS):
        for around in (4_000, 1_000, 100, 1):
            window = {"start": spike - around * SECOND, "end": spike + around * SECOND}
            found = await rig.envelope(points, layer, **window)
            (place,) = (place for place, value in enumerate(found.maximums) if value == peak)
            assert found.starts[place] <= spike < found.ends[place]


async def test_what_was_overridden_is_no_extreme(rig: Rig):
    await rig.deliver(a_column(range(T0, T0 + 40), [1e9] * 40))
    await rig.deliver(a_column(range(T0 + 5, T0 + 45), [-1e9] * 40))
    await rig.deliver(a_column(range(T0, T0 + 45), [2.0] * 45))
    for points in (1, 4, 45):
        found = await rig.envelope(points)
        assert set(found.minimums) == set(found.maximums) == {2.0}
        assert sum(found.counts) == 45


async def test_the_ends_of_time(rig: Rig):
    readings = {EARLIEST: 1.0, T0: 2.0, LATEST: 3.0}
    await rig.deliver(column_of(sorted(readings.items())))
    for points in (1, 2, 3, POINTS):
        check(await rig.envelope(points), readings, points)
    check(await rig.envelope(5, start=EARLIEST, end=LATEST), readings, 5, EARLIEST, LATEST)


@pytest.mark.parametrize("values", [[1.7e308] * 4, [-1.7e308, 1.7e308] * 2, [5e-324] * 4, [1e308, 1.0, -1e308, 5e-324]])
async def test_no_reading_is_too_small_or_too_large(rig: Rig, values: list[float]):
    readings = dict(zip(range(T0, T0 + 4), values, strict=True))
    await rig.deliver(column_of(sorted(readings.items())))
    for points in (1, 2, 3, 4):
        check(await rig.envelope(points), readings, points)


STAMPS = st.integers(0, 40).map(lambda offset: T0 + offset) | st.integers(0, 10**9).map(lambda offset: T0 + offset)
ODD_STAMPS = STAMPS | st.sampled_from([EARLIEST, EARLIEST + 1, LATEST - 1, LATEST])
VALUES = st.integers(-20, 120).map(float) | finite_floats()


@st.composite
def _columns(draw: st.DrawFn) -> Column:
    """A column in or out of order, mostly of readings that lie close together."""
    if draw(st.booleans()):
        return column_of(draw(st.lists(st.tuples(ODD_STAMPS, VALUES), min_size=1, max_size=12)))
    first, step = draw(STAMPS), draw(st.sampled_from([1, 2, 7, 1_000_000]))
    values = draw(st.lists(VALUES, min_size=1, max_size=30))
    return column_of([(first + place * step, value) for place, value in enumerate(values)])


BATCHES = st.lists(st.tuples(_columns(), st.booleans()), min_size=1, max_size=6)
EDGES = st.none() | ODD_STAMPS


@pytest.mark.timeout(3_600)  # for the nights, when far more is tried
def test_any_batches_make_the_envelope_that_sorted_ones_make(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    @given(BATCHES, st.integers(1, 12) | st.sampled_from([100, POINTS]), EDGES, EDGES)
    def agrees(batches: list[tuple[Column, bool]], points: int, start: int | None, end: int | None) -> None:
        if start is not None and end is not None and start >= end:
            start, end = (end, start) if end < start else (start, None)
        runner.run(_agrees(units_of_work, batches, points, start, end))

    agrees()


async def _agrees(
    units: UnitsOfWork, batches: Sequence[tuple[Column, bool]], points: int, start: int | None, end: int | None
) -> None:
    rig, in_order = await Rig.build(units), await Rig.build(units)
    readings: Readings = {}
    for column, late in batches:
        await rig.deliver(column, late=late)
        readings.update(zip(column.timestamps, column.values, strict=True))
    await in_order.deliver(column_of(sorted(readings.items())))
    physical = {stamp: 2 * value + 1 if 0 <= value <= 100 else math.nan for stamp, value in readings.items()}
    for layer, values in ((Layer.RAW, readings), (Layer.PHYSICAL, physical)):
        found = await rig.envelope(points, layer, start=start, end=end)
        check(found, values, points, start, end)
        same = await in_order.envelope(points, layer, start=start, end=end)
        assert list(map(repr, found.columns[:-1])) == list(map(repr, same.columns[:-1]))
    event(f"parts: {min(len(found), 3)}")


async def test_windows_across_the_edges_of_chunks(rig: Rig):
    chance = random.Random(7)
    readings = {T0 + place * 10: chance.gauss(50.0, 40.0) for place in range(3_000)}
    batches = sorted(readings.items())
    cuts = [0, *sorted(chance.sample(range(1, 3_000), 29)), 3_000]
    for first, last in pairwise(cuts):
        await rig.deliver(column_of(batches[first:last]))
    # Some overlap others.
    for first in chance.sample(range(2_900), 5):
        batch = [(stamp, value + 1.0) for stamp, value in batches[first : first + 100]]
        readings.update(batch)
        await rig.deliver(column_of(batch), late=True)
    physical = {stamp: 2 * value + 1 if 0 <= value <= 100 else math.nan for stamp, value in readings.items()}
    for _ in range(40):
        start = T0 + chance.randrange(-100, 30_000)
        end = start + chance.randrange(1, 30_000)
        points = chance.choice([1, 7, 50, 200])
        check(await rig.envelope(points, start=start, end=end), readings, points, start, end)
        found = await rig.envelope(points, Layer.PHYSICAL, start=start, end=end)
        check(found, physical, points, start, end)


async def test_what_was_looked_at_before_is_still_right_when_more_has_come(rig: Rig):
    chance = random.Random(8)
    readings: Readings = {}
    stamps = [T0 + place * SECOND for place in range(3_000)]
    for start in range(0, len(stamps), 75):
        batch = [(stamp, chance.gauss(0, 1)) for stamp in stamps[start : start + 75]]
        # Sometimes what stands out changes which side of an edge has to be looked at, in parts that are known already.
        if start % 450 == 0:
            batch[chance.randrange(75)] = (batch[0][0] + 1, chance.choice((-50.0, 50.0)))
        batch.sort()
        readings.update(batch)
        await rig.deliver(column_of(batch))
        for points in (3, 20, 40):
            check(await rig.envelope(points), readings, points)
    late = {stamp + 7: 100.0 for stamp in chance.sample(stamps, 40)}
    for start in range(0, 40, 10):
        part = sorted(late.items())[start : start + 10]
        await rig.deliver(column_of(part))
        readings.update(part)
        for points in (3, 20, 40):
            check(await rig.envelope(points), readings, points)
            check(await rig.envelope(points, start=T0 + 500 * SECOND), readings, points, start=T0 + 500 * SECOND)
