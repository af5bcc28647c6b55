"""What every `Grids` promises: series at given moments, previous values or on a line, within a tolerance."""

import asyncio
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from entities import a_column, a_session, fresh, later
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.errors import Invalid
from experiment_domain.telemetry.batches import EARLIEST, LATEST, Column
from experiment_domain.telemetry.grids import (
    CELLS,
    COLUMNS,
    LONGEST,
    ROWS,
    Fill,
    GridColumn,
    GridQuery,
    GridQuestion,
    Source,
)
from experiment_domain.telemetry.store import Layer
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ask, keep
from rig import T0, Rig, column_of
from strategies import finite_floats

NAN = math.nan


@pytest.fixture
def rig(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Rig:
    return runner.run(Rig.build(units_of_work))


async def further_session(rig: Rig, ordinal: int = 2, **values: Any) -> CaptureSession:
    """Another session of the run. The one before is over, or it could not be running."""
    session = a_session(rig.run, ordinal=ordinal, status=CaptureStatus.SUCCEEDED, pins=rig.session.pins, **values)
    await keep(rig.units, session)
    return session


async def columns(rig: Rig, **question: Any) -> Sequence[GridColumn]:
    sources = await ask(rig.units, lambda uow: uow.grids.sources(rig.run.id))
    return GridQuestion(**{"step": 1, "layer": Layer.RAW, **question}).columns(sources, raw_allowed=True)


async def values(rig: Rig, start: int, step: int, rows: int, *, layer: Layer = Layer.RAW, **more: Any) -> list[float]:
    """The values of the only column."""
    (column,) = await columns(rig, layer=layer)
    query = GridQuery(start=start, step=step, rows=rows, **more)
    found = await ask(rig.units, lambda uow: uow.grids.column(column, query))
    assert isinstance(found, array)
    assert found.typecode == "d"
    return found.tolist()


def same(found: Sequence[float], expected: Sequence[float]) -> bool:
    """NaN is like NaN here."""
    return list(map(repr, found)) == list(map(repr, expected))


async def test_the_previous_value(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10, T0 + 20], [1.0, 2.0, 3.0]))
    assert same(await values(rig, T0 - 5, 5, 8), [NAN, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    assert same(await values(rig, T0 - 5, 5, 8, tolerance=4), [NAN, 1.0, NAN, 2.0, NAN, 3.0, NAN, NAN])
    assert same(await values(rig, T0 - 5, 5, 8, tolerance=5), [NAN, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, NAN])
    assert same(await values(rig, T0, 10, 3, tolerance=0), [1.0, 2.0, 3.0])
    assert same(await values(rig, T0 + 1, 10, 3, tolerance=0), [NAN] * 3)


async def test_on_the_line_between_two(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10, T0 + 30], [1.0, 2.0, 4.0]))
    line: dict[str, Any] = {"fill": Fill.LINEAR}
    assert same(await values(rig, T0 - 5, 5, 9, **line), [NAN, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, NAN])
    # Both ends have to be near.
    found = await values(rig, T0 - 5, 5, 9, tolerance=9, **line)
    assert same(found, [NAN, 1.0, 1.5, 2.0, NAN, NAN, NAN, 4.0, NAN])
    found = await values(rig, T0 - 5, 5, 9, tolerance=10, **line)
    assert same(found, [NAN, 1.0, 1.5, 2.0, NAN, 3.0, NAN, 4.0, NAN])


async def test_a_line_between_the_ends_of_the_scale(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 2], [-1.7e308, 1.7e308]))
    assert await values(rig, T0, 1, 3, fill=Fill.LINEAR) == [-1.7e308, 0.0, 1.7e308]


async def test_readings_without_a_value_are_passed_over(rig: Rig):
    await rig.deliver(a_column([T0, T0 + 10, T0 + 20], [1.0, -5.0, 3.0]))
    physical = {"layer": Layer.PHYSICAL}
    assert await values(rig, T0, 10, 3, **physical) == [3.0, 3.0, 7.0]
    assert await values(rig, T0, 10, 3, fill=Fill.LINEAR, **physical) == [3.0, 5.0, 7.0]
    assert same(await values(rig, T0, 10, 3, tolerance=9, **physical), [3.0, NAN, 7.0])


async def test_sessions_of_a_run_are_one_column(rig: Rig):
    second = await further_session(rig)
    deleted = await further_session(rig, 3, deleted_at=later(1))
    await rig.deliver(a_column([T0, T0 + 10], [1.0, 2.0]))
    await rig.deliver(a_column([T0 + 10, T0 + 20], [20.0, 30.0]), session=second)
    await rig.deliver(a_column([T0 + 5], [-1.0]), session=deleted)
    for fill in Fill:
        assert await values(rig, T0, 10, 3, fill=fill) == [1.0, 20.0, 30.0]
    (column,) = await columns(rig)
    assert [(source.ordinal, source.first, source.last) for source in column.sources] == [
        (1, T0, T0 + 10),
        (2, T0 + 10, T0 + 20),
    ]
    (column,) = await columns(rig, capture_session_ids=[second.id])
    assert [source.capture_session_id for source in column.sources] == [second.id]


async def test_sources_come_by_sensor_and_signal(rig: Rig):
    assert await ask(rig.units, lambda uow: uow.grids.sources(rig.run.id)) == []
    await rig.deliver(a_column([T0, T0 + 3], [1.0, 1.0], "b"), a_column([T0 + 1], [2.0], "a"))
    found = await ask(rig.units, lambda uow: uow.grids.sources(rig.run.id))
    expected = [("a", T0 + 1, T0 + 1), ("b", T0, T0 + 3)]
    assert [(source.signal, source.first, source.last) for source in found] == expected
    assert {source.profile_id for source in found} == {rig.profile.id}
    assert await ask(rig.units, lambda uow: uow.grids.sources(fresh())) == []


async def test_the_ends_of_time(rig: Rig):
    await rig.deliver(a_column([EARLIEST, T0, LATEST], [1.0, 2.0, 3.0]))
    step = (LATEST - EARLIEST) // 4
    for tolerance in (None, 0, LATEST - EARLIEST):
        found = await values(rig, EARLIEST, step, 5, tolerance=tolerance)
        assert found[0] == 1.0
        assert len(found) == 5
    assert (await values(rig, LATEST, 1, 1, fill=Fill.LINEAR, tolerance=5)) == [3.0]


def model(readings: Mapping[int, float], query: GridQuery) -> list[float]:
    """What is at each moment, told one by one."""
    known = {stamp: value for stamp, value in readings.items() if not math.isnan(value)}
    reach = math.inf if query.tolerance is None else query.tolerance
    found: list[float] = []
    for row in range(query.rows):
        moment = query.start + row * query.step
        before = max((stamp for stamp in known if stamp <= moment), default=None)
        after = min((stamp for stamp in known if stamp >= moment), default=None)
        value = NAN
        if before is not None and moment - before <= reach:
            if before == moment or query.fill is Fill.PREVIOUS:
                value = known[before]
            elif after is not None and after - moment <= reach:
                share = (moment - before) / (after - before)
                value = known[before] * (1.0 - share) + known[after] * share
        found.append(value)
    return found


STAMPS = st.integers(0, 60).map(lambda offset: T0 + offset)
VALUES = st.integers(-20, 120).map(float) | finite_floats()
BATCHES = st.lists(
    st.tuples(
        st.lists(st.tuples(STAMPS, VALUES), min_size=1, max_size=10).map(column_of),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=6,
)
QUERIES = st.builds(
    GridQuery,
    start=st.integers(-20, 70).map(lambda offset: T0 + offset),
    step=st.integers(1, 30),
    rows=st.integers(1, 12),
    fill=st.sampled_from(Fill),
    tolerance=st.none() | st.integers(0, 40),
)


@pytest.mark.timeout(3_600)  # for the nights, when far more is tried
def test_any_series_are_read_as_the_model_says(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    @given(BATCHES, st.lists(QUERIES, min_size=1, max_size=4))
    def agrees(batches: list[tuple[Column, int]], queries: list[GridQuery]) -> None:
        runner.run(_agrees(units_of_work, batches, queries))

    agrees()


async def _agrees(units: UnitsOfWork, batches: Sequence[tuple[Column, int]], queries: Sequence[GridQuery]) -> None:
    rig = await Rig.build(units)
    sessions = [rig.session, await further_session(rig), await further_session(rig, 3)]
    received: list[dict[int, float]] = [{}, {}, {}]
    for column, place in batches:
        await rig.deliver(column, session=sessions[place])
        received[place].update(zip(column.timestamps, column.values, strict=True))
    for layer in Layer:
        readings: dict[int, float] = {}
        for of_session in received:
            for stamp, value in of_session.items():
                shown = value if layer is Layer.RAW else 2 * value + 1 if 0 <= value <= 100 else NAN
                if not math.isnan(shown):
                    readings[stamp] = shown
        for query in queries:
            found = await values(
                rig, query.start, query.step, query.rows, layer=layer, fill=query.fill, tolerance=query.tolerance
            )
            assert found == pytest.approx(model(readings, query), rel=1e-12, abs=0.0, nan_ok=True)


def a_source(**values: Any) -> Source:
    plain = {"capture_session_id": fresh(), "ordinal": 1, "sensor_id": fresh(), "signal": "value", "profile_id": None}
    return Source(**{**plain, "first": T0, "last": T0 + 99, **values})


def test_which_layer_a_column_has():
    sensor, profile = fresh(), fresh()
    raw, physical = a_source(sensor_id=sensor), a_source(sensor_id=sensor, ordinal=2, profile_id=profile)

    def layers(sources: Sequence[Source], layer: Layer | None, *, raw_allowed: bool) -> list[tuple[Layer, int]]:
        found = GridQuestion(step=1, layer=layer).columns(sources, raw_allowed=raw_allowed)
        return [(column.layer, len(column.sources)) for column in found]

    assert layers([raw, physical], None, raw_allowed=True) == [(Layer.PHYSICAL, 1)]
    assert layers([raw, physical], Layer.RAW, raw_allowed=True) == [(Layer.RAW, 2)]
    assert layers([raw], None, raw_allowed=True) == [(Layer.RAW, 1)]
    assert layers([raw], None, raw_allowed=False) == []
    assert layers([raw], Layer.PHYSICAL, raw_allowed=True) == []


def test_signals_are_named():
    sources = [a_source(sensor_id=fresh(), signal=signal) for signal in ("a", "b", "c,d", "c")]

    def named(*signals: str) -> list[str]:
        found = GridQuestion(step=1, signals=signals).columns(sources, raw_allowed=True)
        return [column.signal for column in found]

    assert named() == ["a", "b", "c,d", "c"]
    assert named("a,b") == named("a", "b") == ["a", "b"]
    assert named("c,d") == ["c,d"]
    assert named("b,c") == ["b", "c"]
    with pytest.raises(Invalid):
        named("a", "z")
    assert GridQuestion(step=1, signals=["z"]).columns([], raw_allowed=True) == []


def test_not_too_much_at_once():
    source = a_source(first=T0, last=T0 + 10 * ROWS)
    question = GridQuestion(step=1)
    column = question.columns([source], raw_allowed=True)[0]
    query, following = question.page([column])
    assert (query.start, query.rows, following) == (T0, ROWS, T0 + ROWS)
    query, following = evolve(question, after=following).page([column])
    assert (query.start, query.rows, following) == (T0 + ROWS, ROWS, T0 + 2 * ROWS)
    query, following = evolve(question, after=T0 + 10 * ROWS).page([column])
    assert (query.rows, following) == (1, None)
    query, _ = question.page([column] * COLUMNS)
    assert query.rows == CELLS // COLUMNS
    many = [a_source(signal=f"s{number}") for number in range(COLUMNS + 1)]
    with pytest.raises(Invalid):
        question.columns(many, raw_allowed=True)
    with pytest.raises(Invalid):
        GridQuestion(step=1, start=T0, end=T0 + LONGEST + 1).page([column])
    query, following = GridQuestion(step=1, start=T0 + LATEST, limit=5).page([column])
    assert (query.rows, following) == (0, None)
    assert GridQuestion(step=1).page([])[0].rows == 0


@pytest.mark.parametrize(
    "bad", [{"step": 0}, {"tolerance": -1}, {"limit": 0}, {"limit": ROWS + 1}, {"start": T0, "end": T0}]
)
def test_questions_that_nothing_can_answer(bad: dict[str, Any]):
    with pytest.raises(Invalid):
        GridQuestion(**{"step": 1, **bad}).check()
