"""What every `TelemetryStore` promises: one reading per timestamp, the one received last, however it arrived."""

import asyncio
import math
import random
import statistics
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from entities import (
    NOW,
    a_batch,
    a_column,
    a_profile,
    a_run,
    a_session,
    an_experiment,
    fresh,
    later,
)
from experiment_domain.captures import CaptureSession, CaptureStatus, Pin
from experiment_domain.conversions.profiles import ProfileStatus
from experiment_domain.conversions.rules import Linear
from experiment_domain.sensors import new_token, token_hash
from experiment_domain.telemetry.batches import Batch, Column, micros, moment
from experiment_domain.telemetry.statistics import Statistics
from experiment_domain.telemetry.store import Layer, ReadingQuery, Receipt, Series
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import SYSTEM, ask, committed, keep, refused, save
from rig import SECOND, T0, Rig, check_statistics, column_of
from strategies import finite_floats


@pytest.fixture
def rig(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Rig:
    return runner.run(Rig.build(units_of_work))


async def test_readings_come_back_as_they_are(rig: Rig):
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 1e-7, 2**53 + 0.0]
    stamps = [T0 + place for place in range(len(values))]
    await rig.deliver(a_column(stamps, values))
    found = await rig.read()
    assert found == list(zip(stamps, values, strict=True))
    assert math.copysign(1, found[1][1]) == -1


async def test_the_ends_of_time(rig: Rig):
    first, last = micros(moment(-62_135_596_800_000_000)), micros(moment(253_402_300_799_999_999))
    await rig.deliver(a_column([first, -1, 0, 1, last], [1.0, 2.0, 3.0, 4.0, 5.0]))
    assert await rig.read() == [(first, 1.0), (-1, 2.0), (0, 3.0), (1, 4.0), (last, 5.0)]
    series = await rig.only_series()
    assert (series.first_timestamp, series.last_timestamp) == (moment(first), moment(last))
    assert await rig.read(start=last) == [(last, 5.0)]
    assert await rig.read(end=first) == []


async def test_the_reading_received_last_is_the_one_that_is_read(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10, T0 + 20], [1.0, 2.0, 3.0]))
    await rig.deliver(a_column([T0 + 10, T0 + 15], [22.0, 22.5]))
    await rig.deliver(a_column([T0 - 5, T0 + 20, T0 + 30], [0.5, 33.0, 4.0]))
    assert await rig.read() == [
        (T0 - 5, 0.5),
        (T0, 1.0),
        (T0 + 10, 22.0),
        (T0 + 15, 22.5),
        (T0 + 20, 33.0),
        (T0 + 30, 4.0),
    ]
    assert await rig.read(Layer.PHYSICAL) == [
        (T0 - 5, 2.0),
        (T0, 3.0),
        (T0 + 10, 45.0),
        (T0 + 15, 46.0),
        (T0 + 20, 67.0),
        (T0 + 30, 9.0),
    ]
    series = await rig.only_series()
    assert (series.count, series.late, series.out_of_range) == (6, 0, 0)


async def test_within_a_batch_too(rig: Rig):
    await rig.deliver(a_column([T0 + 2, T0, T0 + 2, T0 + 1, T0 + 2, T0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert await rig.read() == [(T0, 6.0), (T0 + 1, 4.0), (T0 + 2, 5.0)]
    assert (await rig.only_series()).count == 3
    (metrics,) = await rig.metrics(Layer.RAW)
    check_statistics(metrics.statistics, [6.0, 4.0, 5.0])


async def test_an_island_within_a_longer_chunk(rig: Rig):
    # The short chunks lie within the long one without having a timestamp in common.
    await rig.deliver(a_column([T0, T0 + 100], [1.0, 2.0]))
    await rig.deliver(a_column([T0 + 40, T0 + 50], [3.0, 4.0]))
    await rig.deliver(a_column([T0 + 20, T0 + 30], [5.0, 6.0]))
    assert [value for _, value in await rig.read()] == [1.0, 5.0, 6.0, 3.0, 4.0, 2.0]
    (metrics,) = await rig.metrics(Layer.RAW)
    check_statistics(metrics.statistics, [1.0, 5.0, 6.0, 3.0, 4.0, 2.0])
    # Part of the window is left of every chunk that begins in it.
    assert await rig.read(start=T0 + 45, end=T0 + 101) == [(T0 + 50, 4.0), (T0 + 100, 2.0)]


async def test_late_readings_are_those_that_are_read(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1, T0 + 2], [1.0, 2.0, 3.0]))
    stopped = await rig.stopped()
    await rig.deliver(a_column([T0 + 1, T0 + 3], [20.0, 40.0]), late=True, session=stopped)
    series = await rig.only_series()
    assert (series.count, series.late) == (4, 2)
    (metrics,) = await rig.metrics(Layer.RAW)
    assert metrics.late == 2
    # A late reading that is itself overridden is not read any more.
    await rig.deliver(a_column([T0 + 3], [41.0]), late=True, session=stopped)
    assert (await rig.only_series()).late == 2
    assert [value for _, value in await rig.read()] == [1.0, 20.0, 3.0, 41.0]


async def test_readings_out_of_range_have_no_physical_value(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1, T0 + 2, T0 + 3], [-1.0, 0.0, 100.0, 100.5]))
    physical = await rig.read(Layer.PHYSICAL)
    assert [stamp for stamp, _ in physical] == [T0, T0 + 1, T0 + 2, T0 + 3]
    assert [value for _, value in physical][1:3] == [1.0, 201.0]
    assert math.isnan(physical[0][1])
    assert math.isnan(physical[3][1])
    series = await rig.only_series()
    assert (series.count, series.out_of_range) == (4, 2)
    (metrics,) = await rig.metrics(Layer.PHYSICAL)
    assert metrics.out_of_range == 2
    check_statistics(metrics.statistics, [1.0, 201.0])
    (raw,) = await rig.metrics(Layer.RAW)
    assert raw.out_of_range == 0
    check_statistics(raw.statistics, [-1.0, 0.0, 100.0, 100.5])
    # A correction brings one back and takes another one out.
    await rig.deliver(a_column([T0, T0 + 1], [5.0, 500.0]))
    assert (await rig.only_series()).out_of_range == 2
    (metrics,) = await rig.metrics(Layer.PHYSICAL)
    check_statistics(metrics.statistics, [11.0, 201.0])


async def test_a_series_whose_readings_are_all_out_of_range(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1], [-1.0, -2.0]))
    (metrics,) = await rig.metrics(Layer.PHYSICAL)
    assert (metrics.statistics, metrics.out_of_range, metrics.late) == (None, 2, 0)
    assert (await rig.only_series()).out_of_range == 2


async def test_without_a_profile_there_is_no_physical_layer(units_of_work: UnitsOfWork):
    rig = await Rig.build(units_of_work, with_profile=False)
    await rig.deliver(a_column([T0, T0 + 1], [-1.0, 2.0]))
    series = await rig.only_series()
    assert (series.profile_id, series.count, series.out_of_range) == (None, 2, 0)
    assert await rig.read() == [(T0, -1.0), (T0 + 1, 2.0)]
    assert await rig.read(Layer.PHYSICAL, profile_id=None) == []
    assert await rig.metrics(Layer.PHYSICAL) == []
    async with units_of_work.begin(SYSTEM) as uow:
        key = (rig.session.id, rig.sensor.id, "value")
        assert await uow.telemetry.layer_of(*key) == (True, None)
        assert not await uow.telemetry.has_layer(*key, rig.profile.id)


async def test_the_layer_of_a_series(rig: Rig):
    key = (rig.session.id, rig.sensor.id)
    async with rig.units.begin(SYSTEM) as uow:
        assert await uow.telemetry.layer_of(*key, "value") == (False, None)
        assert not await uow.telemetry.has_layer(*key, "value", rig.profile.id)
        assert list(await uow.telemetry.series(rig.session.id)) == []
    assert await rig.read() == []
    assert await rig.read(Layer.PHYSICAL) == []
    assert await rig.metrics(Layer.RAW) == []
    await rig.deliver(a_column([T0], [1.0]))
    async with rig.units.begin(SYSTEM) as uow:
        assert await uow.telemetry.layer_of(*key, "value") == (True, rig.profile.id)
        assert await uow.telemetry.layer_of(*key, "other") == (False, None)
        assert await uow.telemetry.layer_of(fresh(), rig.sensor.id, "value") == (False, None)
        assert await uow.telemetry.has_layer(*key, "value", rig.profile.id)
        assert not await uow.telemetry.has_layer(*key, "value", fresh())


async def test_series_come_by_sensor_and_signal(rig: Rig):
    signals = ["b", "ä", "B", "a", "Δp", "value"]
    await rig.deliver(*(a_column([T0 + place], [float(place)], name) for place, name in enumerate(signals)))
    found = await rig.series()
    assert [series.signal for series in found] == sorted(signals)
    names = await ask(rig.units, lambda uow: uow.telemetry.names(rig.session.id))
    assert names == [(rig.sensor.id, signal) for signal in sorted(signals)]
    assert await ask(rig.units, lambda uow: uow.telemetry.names(fresh())) == []
    for series in found:
        place = signals.index(series.signal)
        assert series == Series(
            capture_session_id=rig.session.id,
            sensor_id=rig.sensor.id,
            signal=series.signal,
            count=1,
            late=0,
            out_of_range=0,
            first_timestamp=moment(T0 + place),
            last_timestamp=moment(T0 + place),
            profile_id=rig.profile.id,
        )
    assert [metrics.signal for metrics in await rig.metrics(Layer.RAW)] == sorted(signals)
    assert [metrics.signal for metrics in await rig.metrics(Layer.RAW, ["ä", "b", "none"])] == ["b", "ä"]


async def test_windows_are_half_open(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10, T0 + 20, T0 + 30], [0.0, 1.0, 2.0, 3.0]))
    expected: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [0, 1, 2, 3]),
        ({"start": T0 + 10}, [1, 2, 3]),
        ({"start": T0 + 11}, [2, 3]),
        ({"end": T0 + 20}, [0, 1]),
        ({"end": T0 + 21}, [0, 1, 2]),
        ({"start": T0 + 10, "end": T0 + 20}, [1]),
        ({"start": T0 + 10, "end": T0 + 10}, []),
        ({"start": T0 + 20, "end": T0 + 10}, []),
        ({"after": T0}, [1, 2, 3]),
        ({"after": T0 - 1}, [0, 1, 2, 3]),
        ({"after": T0 + 30}, []),
        ({"after": T0, "start": T0 + 20}, [2, 3]),
        ({"after": T0 + 20, "start": T0}, [3]),
        ({"after": T0, "end": T0 + 30}, [1, 2]),
        ({"start": T0 + 31}, []),
        ({"end": T0}, []),
    ]
    for values, wanted in expected:
        assert [value for _, value in await rig.read(**values)] == wanted, values


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 24, 25, 26])
async def test_pages_continue_after_the_one_before(rig: Rig, limit: int):
    # 25 timestamps in chunks that lie apart, touch, overlap and override each other.
    model: dict[int, float] = {}
    for number, offsets in enumerate([range(6), range(4, 9), range(20, 25), range(9, 20, 2), range(10, 20, 2)]):
        stamps = [T0 + offset * SECOND for offset in offsets]
        values = [100.0 * number + place for place in range(len(stamps))]
        model.update(zip(stamps, values, strict=True))
        await rig.deliver(a_column(stamps, values))
    found: list[tuple[int, float]] = []
    after: int | None = None
    for _ in range(30):
        query = ReadingQuery(
            capture_session_id=rig.session.id,
            sensor_id=rig.sensor.id,
            signal="value",
            layer=Layer.RAW,
            after=after,
            limit=limit,
        )
        part = await ask(rig.units, lambda uow: uow.telemetry.read(query))  # noqa: B023
        found += zip(part.timestamps, part.values, strict=True)
        if not part.more:
            break
        assert len(part.timestamps) == limit
        after = part.timestamps[-1]
    assert found == sorted(model.items())


@pytest.mark.parametrize("seed", range(6))
async def test_the_order_of_arrival_does_not_matter(units_of_work: UnitsOfWork, seed: int):
    chance = random.Random(seed)
    readings = [(T0 + offset * SECOND, float(chance.randrange(200) - 50)) for offset in range(300)]
    shuffled = chance.sample(readings, len(readings))
    cuts = sorted(chance.sample(range(1, 300), 9))
    batches = [shuffled[start:end] for start, end in pairwise([0, *cuts, 300])]
    # Some are sent twice over, in other batches and in another order.
    batches += [chance.sample(readings, 20) for _ in range(3)]
    in_order, out_of_order = await Rig.build(units_of_work), await Rig.build(units_of_work)
    await in_order.deliver(column_of(readings))
    for batch in batches:
        await out_of_order.deliver(column_of(batch))
    assert await out_of_order.read() == await in_order.read() == readings
    for layer in Layer:
        (one,), (other,) = await in_order.metrics(layer), await out_of_order.metrics(layer)
        values = [value for _, value in await in_order.read(layer)]
        check_statistics(one.statistics, values)
        check_statistics(other.statistics, values)
        assert (one.late, one.out_of_range) == (other.late, other.out_of_range)
    facts = [
        (it.count, it.late, it.out_of_range, it.first_timestamp, it.last_timestamp)
        for it in (await in_order.only_series(), await out_of_order.only_series())
    ]
    assert facts[0] == facts[1]


async def test_metrics_by_hand(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10], [2.0, 4.0]), a_column([T0], [7.0], "other"))
    await rig.deliver(a_column([T0 + 20, T0 + 30], [4.0, 4.0]))
    await rig.deliver(a_column([T0 + 25, T0 + 40, T0 + 50, T0 + 60], [5.0, 5.0, 7.0, 9.0]))
    other, value = await rig.metrics(Layer.RAW)
    assert (other.sensor_id, other.signal, other.layer, other.profile_id) == (
        rig.sensor.id,
        "other",
        Layer.RAW,
        None,
    )
    assert other.statistics == Statistics(count=1, minimum=7.0, maximum=7.0, mean=7.0, squares=0.0, first=7.0, last=7.0)
    # The textbook example: mean 5, standard deviation 2.
    assert value.statistics is not None
    assert value.statistics.deviation == pytest.approx(2.0, rel=1e-12)
    assert value.statistics.mean == pytest.approx(5.0, rel=1e-12)
    assert (value.statistics.count, value.statistics.minimum, value.statistics.maximum) == (8, 2.0, 9.0)
    assert (value.statistics.first, value.statistics.last) == (2.0, 9.0)
    (_, physical) = await rig.metrics(Layer.PHYSICAL)
    assert (physical.layer, physical.profile_id) == (Layer.PHYSICAL, rig.profile.id)
    assert physical.statistics is not None
    assert physical.statistics.deviation == pytest.approx(4.0, rel=1e-12)
    assert physical.statistics.mean == pytest.approx(11.0, rel=1e-12)


@pytest.mark.parametrize(
    "values",
    [[5e-324, 1e-300, 0.0], [5e-324] * 3, [1.7e308, 1.7e308, 1.6e308], [-1.7e308, 1.7e308], [1e200, 1.0, -1e200]],
    ids=str,
)
async def test_no_reading_is_too_small_or_too_large_for_metrics(rig: Rig, values: list[float]):
    for place, value in enumerate(values):
        await rig.deliver(a_column([T0 + place], [value]))
    assert (await rig.only_series()).count == len(values)
    (metrics,) = await rig.metrics(Layer.RAW)
    check_statistics(metrics.statistics, values)


async def test_metrics_span_the_sessions_of_a_run(rig: Rig):
    await rig.deliver(a_column([T0 + 100, T0 + 200], [10.0, 20.0]))
    stopped = await rig.stopped()
    second = a_session(rig.run, ordinal=2, status=CaptureStatus.RUNNING, pins=stopped.pins)
    # By its timestamps it lies before and after the first one, and shares a moment with it.
    deleted = a_session(rig.run, ordinal=3, status=CaptureStatus.FAILED, pins=stopped.pins, deleted_at=later(1))
    await keep(rig.units, second, deleted)
    await rig.deliver(a_column([T0, T0 + 100, T0 + 300], [1.0, 2.0, 3.0]), late=True, session=second)
    await rig.deliver(a_column([T0 - 100], [1000.0]), session=deleted)
    (metrics,) = await rig.metrics(Layer.RAW)
    check_statistics(metrics.statistics, [1.0, 10.0, 2.0, 20.0, 3.0])
    assert metrics.late == 3
    assert await ask(rig.units, lambda uow: uow.telemetry.metrics(fresh(), layer=Layer.RAW)) == []


async def test_series_of_different_profile_versions_are_kept_apart(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1], [10.0, 20.0]))
    retired = rig.profile.retire(at=later(1)).result
    newer = a_profile(rig.sensor, profile_version=2, rule=Linear(2.0, 1.0), status=ProfileStatus.PUBLISHED)
    stopped = await rig.stopped()
    pin = Pin(sensor_id=rig.sensor.id, profile_id=newer.id, profile_version=2)
    second = a_session(rig.run, ordinal=2, status=CaptureStatus.RUNNING, pins=(pin,))
    await save(rig.units, retired)
    await keep(rig.units, newer, second)
    await rig.deliver(a_column([T0 + 2, T0 + 3], [30.0, 500.0]), session=second)
    one, other = sorted(await rig.metrics(Layer.PHYSICAL), key=lambda it: it.profile_id == newer.id)
    assert (one.profile_id, other.profile_id) == (rig.profile.id, newer.id)
    check_statistics(one.statistics, [21.0, 41.0])
    check_statistics(other.statistics, [61.0])
    assert (one.out_of_range, other.out_of_range) == (0, 1)
    (raw,) = await rig.metrics(Layer.RAW)
    check_statistics(raw.statistics, [10.0, 20.0, 30.0, 500.0])
    assert (await rig.only_series()).profile_id == stopped.pins[0].profile_id


async def test_sensors_are_kept_apart(rig: Rig):
    other = await Rig.build(rig.units)
    await rig.deliver(a_column([T0], [1.0]))
    await other.deliver(a_column([T0], [2.0]))
    assert [await it.read() for it in (rig, other)] == [[(T0, 1.0)], [(T0, 2.0)]]


BATCH = a_batch(a_column([T0], [1.0]), batch_id="b-1")


async def _keep_batch(rig: Rig, batch: Batch, session: CaptureSession | None = None, **values: Any) -> Receipt:
    intake = rig.intake(batch, session or rig.session, **values)
    async with committed(rig.units) as uow:
        await uow.telemetry.admit(rig.sensor.token_hash, batch.capture_session_id, [batch.key], NOW)
        uow.telemetry.append(intake)
    return intake.receipt


async def test_admission_tells_all_that_decides_on_a_batch(units_of_work: UnitsOfWork):
    rig = await Rig.build(units_of_work, future_tolerance=1.5)
    for session_id in (None, rig.session.id):
        admission = await rig.admit(evolve(BATCH, capture_session_id=session_id))
        assert admission is not None
        assert (admission.sensor, admission.future_tolerance) == (rig.sensor, 1.5)
        assert not admission.repeated
        (destination,) = admission.destinations
        assert (destination.capture_session_id, destination.project_id) == (rig.session.id, rig.project.id)
        assert (destination.run_id, destination.status) == (rig.run.id, CaptureStatus.RUNNING)
        assert (destination.profile, destination.takes_part) == (rig.profile, True)


async def test_a_token_that_no_sensor_has_is_not_admitted(rig: Rig):
    async with rig.units.begin(SYSTEM) as uow:
        for session_id in (None, rig.session.id):
            assert await uow.telemetry.admit(token_hash(new_token()), session_id, [BATCH.key], NOW) is None


async def test_a_rotated_token_is_admitted_until_it_dies(rig: Rig):
    await save(rig.units, rig.sensor.rotate_token(token_hash=token_hash(new_token()), grace=60.0, at=later(0)).result)
    assert await rig.admit(BATCH, later(59)) is not None
    assert await rig.admit(BATCH, later(60)) is None


async def test_a_batch_that_names_no_session_goes_to_the_running_ones(rig: Rig):
    project = rig.project
    experiment = an_experiment(project)
    runs = [a_run(experiment) for _ in range(4)]
    pins = rig.session.pins
    sessions = [
        a_session(runs[0], status=CaptureStatus.RUNNING, pins=pins),
        a_session(runs[1], status=CaptureStatus.SUCCEEDED, pins=pins),
        a_session(runs[2], status=CaptureStatus.FAILED, pins=pins, deleted_at=later(1)),
        a_session(runs[3], status=CaptureStatus.RUNNING),
    ]
    await keep(rig.units, experiment, *runs, *sessions)
    admission = await rig.admit(BATCH)
    assert admission is not None
    found = [destination.capture_session_id for destination in admission.destinations]
    assert sorted(found) == sorted([rig.session.id, sessions[0].id])
    await save(
        rig.units,
        rig.session.stop(CaptureStatus.FAILED, at=later(1)).result,
        sessions[0].stop(CaptureStatus.FAILED, at=later(1)).result,
    )
    admission = await rig.admit(BATCH)
    assert admission is not None
    assert list(admission.destinations) == []


async def test_a_session_that_is_named_is_found_if_the_sensor_may_know_of_it(rig: Rig):
    own, foreign = a_run(an_experiment(rig.project)), await Rig.build(rig.units)
    experiment = an_experiment(rig.project, id=own.experiment_id)
    pins = rig.session.pins
    named = {
        "succeeded": a_session(own, status=CaptureStatus.SUCCEEDED, pins=pins),
        "archived": a_session(own, ordinal=2, status=CaptureStatus.ARCHIVED, pins=pins),
        "draft": a_session(own, ordinal=3),
        "without": a_session(own, ordinal=4, status=CaptureStatus.RUNNING),
        "deleted": a_session(own, ordinal=5, status=CaptureStatus.FAILED, pins=pins, deleted_at=later(1)),
    }
    await keep(rig.units, experiment, own, *named.values())

    async def destinations(session_id: UUID) -> list[tuple[str, bool]]:
        admission = await rig.admit(evolve(BATCH, capture_session_id=session_id))
        assert admission is not None
        return [(str(found.status), found.takes_part) for found in admission.destinations]

    assert await destinations(named["succeeded"].id) == [("succeeded", True)]
    assert await destinations(named["archived"].id) == [("archived", True)]
    assert await destinations(named["draft"].id) == [("draft", False)]
    assert await destinations(named["without"].id) == [("running", False)]
    assert await destinations(named["deleted"].id) == []
    assert await destinations(foreign.session.id) == []
    assert await destinations(fresh()) == []
    async with committed(rig.units) as uow:
        uow.sensors.share(rig.sensor.id, foreign.project.id, NOW, "ann")
    assert await destinations(foreign.session.id) == [("running", False)]


async def test_the_sessions_that_ran_at_a_moment(rig: Rig):
    """Of a sensor that took part: started by then, and not stopped; those that are deleted by now are gone."""
    pins = rig.session.pins
    run = a_run(an_experiment(rig.project))
    experiment = an_experiment(rig.project, id=run.experiment_id)
    over: dict[str, Any] = {"status": CaptureStatus.SUCCEEDED, "started_at": later(10), "stopped_at": later(20)}
    ended = a_session(run, ordinal=1, pins=pins, **over)
    archived = a_session(run, ordinal=2, pins=pins, **{**over, "status": CaptureStatus.ARCHIVED})
    failed = {**over, "status": CaptureStatus.FAILED, "deleted_at": later(30)}
    deleted = a_session(run, ordinal=3, pins=pins, **failed)
    foreign = a_session(run, ordinal=4, **over)
    draft = a_session(run, ordinal=5)
    running = a_session(run, ordinal=6, pins=pins, status=CaptureStatus.RUNNING, started_at=later(15))
    await keep(rig.units, experiment, run, ended, archived, deleted, foreign, draft, running)

    async def between(since: float, until: float, token: bytes = rig.sensor.token_hash) -> Any:
        return await ask(rig.units, lambda uow: uow.telemetry.ran_between(token, later(since), later(until), NOW))

    async def at(seconds: float) -> set[UUID]:
        found = await between(seconds, seconds)
        assert all(one.ran_at(later(seconds)) for one in found)
        return {one.capture_session_id for one in found}

    assert await at(9.9) == set()
    assert await at(10) == await at(14.9) == {ended.id, archived.id}
    assert await at(15) == await at(19.9) == {ended.id, archived.id, running.id}
    assert await at(20) == await at(1000) == {running.id}
    found = {one.capture_session_id: one for one in await between(5, 10)}
    assert (found[ended.id].started_at, found[ended.id].stopped_at) == (later(10), later(20))
    assert [found[ended.id].ran_at(later(seconds)) for seconds in (9.9, 10, 19.9, 20)] == [False, True, True, False]
    assert {one.capture_session_id for one in await between(5, 15)} == {ended.id, archived.id, running.id}
    assert await between(5, 15, token_hash(new_token())) == []
    admission = await rig.admit(evolve(BATCH, capture_session_id=ended.id))
    assert admission is not None
    (destination,) = admission.destinations
    assert destination.stopped_at == later(20)
    assert [destination.is_late(received_at) for received_at in (None, later(19.9), later(20))] == [True, False, True]


async def test_a_sensor_delivers_to_the_session_that_pins_it_even_if_it_is_no_longer_shared(rig: Rig):
    foreign = await Rig.build(rig.units)
    run = a_run(an_experiment(foreign.project))
    experiment = an_experiment(foreign.project, id=run.experiment_id)
    session = a_session(run, status=CaptureStatus.RUNNING, pins=rig.session.pins)
    await keep(rig.units, experiment, run, session)
    admission = await rig.admit(evolve(BATCH, capture_session_id=session.id))
    assert admission is not None
    assert [(it.capture_session_id, it.takes_part) for it in admission.destinations] == [(session.id, True)]


async def test_a_batch_that_is_sent_again_is_known(rig: Rig):
    named = evolve(BATCH, capture_session_id=rig.session.id)
    for batch in (BATCH, named):
        admission = await rig.admit(batch)
        assert admission is not None
        assert not admission.repeated
    receipt = await _keep_batch(rig, BATCH)
    for batch in (BATCH, named):
        admission = await rig.admit(batch)
        assert admission is not None
        assert list(admission.repeated.values()) == [receipt]
    other = evolve(BATCH, batch_id="b-2")
    admission = await rig.admit(other)
    assert admission is not None
    assert not admission.repeated


async def test_a_batch_is_known_after_its_session_is_over(rig: Rig):
    receipt = await _keep_batch(rig, BATCH)
    stopped = await rig.stopped()
    await save(rig.units, stopped.archive(at=later(99)).result)
    for batch in (BATCH, evolve(BATCH, capture_session_id=rig.session.id)):
        admission = await rig.admit(batch)
        assert admission is not None
        assert list(admission.repeated.values()) == [receipt]


async def test_the_same_batch_for_another_session_is_another_batch(rig: Rig):
    stopped = await rig.stopped()
    second = a_session(rig.run, ordinal=2, status=CaptureStatus.RUNNING, pins=stopped.pins)
    await keep(rig.units, second)
    to_first = evolve(BATCH, capture_session_id=stopped.id)
    first = await _keep_batch(rig, to_first, stopped, late=True)
    to_second = evolve(BATCH, capture_session_id=second.id)
    admission = await rig.admit(to_second)
    assert admission is not None
    assert not admission.repeated
    newest = await _keep_batch(rig, to_second, second, at=later(1))
    for batch, receipt in ((to_first, first), (to_second, newest), (BATCH, newest)):
        admission = await rig.admit(batch)
        assert admission is not None
        assert list(admission.repeated.values()) == [receipt]


async def test_a_batch_of_another_sensor_with_the_same_key_is_another_batch(rig: Rig):
    other = await Rig.build(rig.units)
    await _keep_batch(rig, BATCH)
    admission = await other.admit(BATCH)
    assert admission is not None
    assert not admission.repeated


async def test_one_batch_is_not_kept_twice(rig: Rig):
    await _keep_batch(rig, BATCH)
    async with refused(rig.units, "duplicate_batch") as uow:
        uow.telemetry.append(rig.intake(BATCH, rig.session))
    assert (await rig.only_series()).count == 1


async def test_readings_are_of_a_session_that_is_there(rig: Rig):
    intake = rig.intake(BATCH, rig.session)
    receipt = evolve(intake.receipt, capture_session_id=fresh())
    async with refused(rig.units, "reference_missing") as uow:
        uow.telemetry.append(evolve(intake, receipt=receipt))


async def test_a_batch_that_is_not_committed_was_never_there(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 1], [1.0, 2.0]))
    async with rig.units.begin(SYSTEM) as uow:
        await uow.telemetry.admit(rig.sensor.token_hash, None, [BATCH.key], NOW)
        batch = a_batch(a_column([T0 + 1, T0 + 2], [9.0, 9.0]), a_column([T0], [1.0], "new"), batch_id="b-1")
        uow.telemetry.append(rig.intake(batch, rig.session))
        assert len(await uow.telemetry.series(rig.session.id)) == 2
    assert await rig.read() == [(T0, 1.0), (T0 + 1, 2.0)]
    assert (await rig.only_series()).count == 2
    admission = await rig.admit(BATCH)
    assert admission is not None
    assert not admission.repeated


async def test_of_twenty_that_send_the_same_batch_one_keeps_it(rig: Rig):
    async def send() -> bool:
        async with committed(rig.units) as uow:
            admission = await uow.telemetry.admit(rig.sensor.token_hash, None, [BATCH.key], NOW)
            assert admission is not None
            if admission.repeated:
                return False
            await asyncio.sleep(0.001)
            uow.telemetry.append(rig.intake(BATCH, rig.session))
        return True

    assert (await asyncio.gather(*(send() for _ in range(20)))).count(True) == 1
    assert (await rig.only_series()).count == 1


async def test_a_session_does_not_end_under_a_batch(rig: Rig):
    from experiment_domain.kernel.entity import Lock

    admitted, order = asyncio.Event(), list[str]()

    async def send() -> None:
        async with committed(rig.units) as uow:
            admission = await uow.telemetry.admit(rig.sensor.token_hash, None, [BATCH.key], NOW)
            assert admission is not None
            admitted.set()
            await asyncio.sleep(0.05)
            uow.telemetry.append(rig.intake(BATCH, rig.session))
            order.append("kept")

    async def stop() -> None:
        await admitted.wait()
        async with committed(rig.units) as uow:
            session = await uow.captures.get(rig.session.id, Lock.UPDATE)
            assert session is not None
            order.append("stopped")
            uow.captures.save(session.stop(CaptureStatus.SUCCEEDED, at=later(1)).result)

    await asyncio.gather(send(), stop())
    assert order == ["kept", "stopped"]


async def test_batches_at_once_are_all_kept(rig: Rig):
    async def send(number: int) -> None:
        await rig.deliver(a_column([T0 + number, T0 + 1_000], [float(number), float(number)]))

    await asyncio.gather(*map(send, range(30)))
    found = dict(await rig.read())
    assert {found[T0 + number] for number in range(30)} == {float(number) for number in range(30)}
    assert (await rig.only_series()).count == 31


async def test_a_large_batch(rig: Rig):
    count = 100_000
    stamps, values = range(T0, T0 + count * 1_000, 1_000), [float(number % 97) for number in range(count)]
    await rig.deliver(a_column(stamps, values))
    assert await rig.read(limit=count) == list(zip(stamps, values, strict=True))
    (metrics,) = await rig.metrics(Layer.RAW)
    assert metrics.statistics is not None
    assert metrics.statistics.mean == pytest.approx(statistics.fmean(values), rel=1e-9)


STAMPS = st.integers(0, 12).map(lambda offset: T0 + offset * SECOND)
COLUMNS = st.builds(
    column_of,
    st.lists(st.tuples(STAMPS, st.integers(-20, 120).map(float) | finite_floats()), min_size=1, max_size=8),
    st.sampled_from(["value", "other"]),
)
BATCHES = st.lists(st.tuples(st.lists(COLUMNS, min_size=1, max_size=3), st.booleans()), max_size=6)


@pytest.mark.timeout(3_600)  # for the nights, when far more is tried
def test_any_batches_are_read_as_the_model_says(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    @given(BATCHES, st.integers(1, 9), st.tuples(STAMPS, STAMPS))
    def agrees(batches: list[tuple[list[Column], bool]], limit: int, window: tuple[int, int]) -> None:
        runner.run(_agrees(units_of_work, batches, limit, window))

    agrees()


async def _agrees(
    units: UnitsOfWork, batches: list[tuple[list[Column], bool]], limit: int, window: tuple[int, int]
) -> None:
    rig = await Rig.build(units)
    model: dict[str, dict[int, tuple[float, bool]]] = {}
    for columns, late in batches:
        await rig.deliver(*columns, late=late)
        for column in columns:
            readings = zip(column.timestamps, column.values, strict=True)
            model.setdefault(column.signal, {}).update({stamp: (value, late) for stamp, value in readings})

    assert [series.signal for series in await rig.series()] == sorted(model)
    metrics = {(it.signal, it.layer): it for layer in Layer for it in await rig.metrics(layer)}
    assert len(metrics) == 2 * len(model)
    for series in await rig.series():
        readings = dict(sorted(model[series.signal].items()))
        raw = {stamp: value for stamp, (value, _) in readings.items()}
        late = sum(is_late for _, is_late in readings.values())
        physical = {stamp: 2 * value + 1 if 0 <= value <= 100 else math.nan for stamp, value in raw.items()}
        gone = sum(map(math.isnan, physical.values()))
        assert (series.count, series.late, series.out_of_range) == (len(raw), late, gone)
        assert (series.first_timestamp, series.last_timestamp) == (moment(min(raw)), moment(max(raw)))
        for layer, values in ((Layer.RAW, raw), (Layer.PHYSICAL, physical)):
            found = metrics[series.signal, layer]
            assert (found.late, found.out_of_range) == (late, gone if layer is Layer.PHYSICAL else 0)
            check_statistics(found.statistics, list(values.values()))
            assert repr(await rig.read(layer, signal=series.signal)) == repr(list(values.items()))
            start, end = window
            inside = [(stamp, value) for stamp, value in values.items() if start <= stamp < end]
            assert repr(await rig.read(layer, signal=series.signal, start=start, end=end)) == repr(inside)
        query = ReadingQuery(
            capture_session_id=rig.session.id,
            sensor_id=rig.sensor.id,
            signal=series.signal,
            layer=Layer.RAW,
            limit=limit,
        )
        part = await ask(units, lambda uow: uow.telemetry.read(query))  # noqa: B023
        assert list(part.timestamps) == list(raw)[:limit]
        assert part.more is (len(raw) > limit)
