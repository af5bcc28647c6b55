"""Batches: their checks, their layers, and an identity that does not depend on how they were written down."""

import math
import random
from array import array
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities import NOW, a_batch, a_column, fresh, later
from experiment_domain.kernel.errors import Invalid
from experiment_domain.telemetry.batches import (
    EARLIEST,
    LATEST,
    READINGS,
    REPEATS,
    REPORTED,
    SIGNALS,
    BadReadings,
    Batch,
    Column,
    micros,
    moment,
)

STAMPS = st.lists(st.integers(-5, 5) | st.integers(EARLIEST, LATEST), min_size=1, max_size=40)


def _check(batch: Batch, *, allowed: tuple[str, ...] = (), latest: datetime = NOW) -> None:
    batch.check(allowed_signals=allowed, latest=latest)


def _errors(batch: Batch, **values: Any) -> list[tuple[int, str, str]]:
    with pytest.raises(BadReadings) as refusal:
        _check(batch, **values)
    assert refusal.value.code == "bad_readings"
    return [(error["index"], error["signal"], error["message"]) for error in refusal.value.errors]


@given(st.datetimes(timezones=st.just(UTC)))
def test_moments_are_microseconds_exactly(at: datetime):
    assert moment(micros(at)) == at


def test_the_ends_of_time():
    assert moment(EARLIEST) == datetime.min.replace(tzinfo=UTC)
    assert moment(LATEST) == datetime.max.replace(tzinfo=UTC)


@given(STAMPS)
def test_layers_rise_strictly_and_keep_every_reading(stamps: list[int]):
    column = a_column(stamps, [float(place) for place in range(len(stamps))])

    layers = list(column.layers())

    assert all(list(layer.timestamps) == sorted(set(layer.timestamps)) for layer in layers)
    kept = [reading for layer in layers for reading in zip(layer.timestamps, layer.values, strict=True)]
    assert sorted(kept) == sorted(zip(column.timestamps, column.values, strict=True))


@given(STAMPS)
def test_later_layers_override_earlier_ones_as_the_batch_itself_does(stamps: list[int]):
    column = a_column(stamps, [float(place) for place in range(len(stamps))])
    read: dict[int, float] = {}
    for layer in column.layers():
        read.update(zip(layer.timestamps, layer.values, strict=True))
    assert read == dict(zip(stamps, column.values, strict=True))


def test_a_column_in_order_is_its_own_only_layer():
    column = a_column([1, 2, 5], [1.0, 2.0, 3.0])
    (layer,) = column.layers()
    assert layer is column


SHAPES = st.dictionaries(
    st.sampled_from(["temperature", "pressure", "value", "Δp"]),
    st.lists(st.tuples(st.integers(0, 9), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=6),
    min_size=1,
)


@given(SHAPES, st.randoms(use_true_random=False))
def test_both_shapes_of_a_message_are_the_same_batch(content: dict[str, list[Any]], chance: random.Random):
    in_columns = [
        a_column([stamp for stamp, _ in readings], [value for _, value in readings], signal)
        for signal, readings in content.items()
    ]
    # As readings: the signals mixed, each one's readings in their own order.
    places = [signal for signal, readings in content.items() for _ in readings]
    chance.shuffle(places)
    left = {signal: iter(readings) for signal, readings in content.items()}
    as_readings: dict[str, Column] = {}
    for index, signal in enumerate(places):
        stamp, value = next(left[signal])
        column = as_readings.setdefault(signal, Column(signal, array("q"), array("d"), []))
        column.timestamps.append(stamp)
        column.values.append(value)
        assert isinstance(column.indexes, list)
        column.indexes.append(index)

    one, other = a_batch(*in_columns), a_batch(*as_readings.values())

    assert one.digest == other.digest
    assert one.key == other.key


def test_a_column_without_readings_is_no_content():
    column = a_column([1], [2.0])
    batch = a_batch(column, a_column([], [], "silent"))
    _check(batch)
    assert batch.digest == a_batch(column).digest


@pytest.mark.parametrize(
    "other",
    [
        a_batch(a_column([1, 2], [1.0, 3.0], "a")),
        a_batch(a_column([1, 3], [1.0, 2.0], "a")),
        a_batch(a_column([2, 1], [2.0, 1.0], "a")),
        a_batch(a_column([1, 2], [1.0, 2.0], "b")),
        a_batch(a_column([1], [1.0], "a"), a_column([2], [2.0], "b")),
        a_batch(a_column([1, 2], [1.0, -2.0], "a")),
    ],
    ids=["value", "timestamp", "order", "signal", "spread", "sign"],
)
def test_other_content_is_another_batch(other: Batch):
    assert other.digest != a_batch(a_column([1, 2], [1.0, 2.0], "a")).digest


def test_the_clients_own_id_is_the_identity_where_it_gives_one():
    first = a_batch(a_column([1], [1.0]), batch_id="b-1")
    second = a_batch(a_column([2], [2.0]), batch_id="b-1")
    assert first.key == second.key
    assert first.digest != second.digest
    # An id that reads like a digest is still an id.
    forged = a_batch(a_column([2], [2.0]), batch_id=f"sha256:{first.digest.hex()}")
    assert forged.key != a_batch(a_column([1], [1.0])).key


def test_the_session_is_no_part_of_the_content():
    assert a_batch(a_column([1], [1.0]), session=fresh()).digest == a_batch(a_column([1], [1.0])).digest


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_must_be_finite(value: float):
    assert _errors(a_batch(a_column([1, 2, 3], [1.0, value, 2.0]))) == [
        (1, "value", "the value is not a finite number")
    ]


def test_the_latest_moment_is_allowed_and_the_next_one_is_not():
    newest = micros(NOW)
    _check(a_batch(a_column([newest], [1.0])))
    ((index, _, message),) = _errors(a_batch(a_column([newest, newest + 1], [1.0, 1.0])))
    assert index == 1
    assert (
        message
        == f"the timestamp is in the future, beyond `future_tolerance` of the project: {later(1e-6).isoformat()}"
    )


@pytest.mark.parametrize("stamp", [EARLIEST - 1, LATEST + 1, -(2**63), 2**63 - 1])
def test_timestamps_are_of_the_years_1_to_9999(stamp: int):
    errors = _errors(a_batch(a_column([0, stamp], [1.0, 1.0])), latest=moment(LATEST))
    assert errors == [(1, "value", "the timestamp is outside the years 1 to 9999")]


def test_the_ends_of_the_years_are_allowed():
    _check(a_batch(a_column([EARLIEST, LATEST], [1.0, 1.0])), latest=moment(LATEST))


def test_a_refusal_names_the_first_bad_readings_by_their_place_in_the_message():
    readings = 3 * REPORTED
    bad = Column("b", array("q", range(readings)), array("d", [math.nan] * readings), range(1, 2 * readings, 2))
    worse = Column("a", array("q", range(readings)), array("d", [math.inf] * readings), range(0, 2 * readings, 2))
    errors = _errors(a_batch(bad, worse))
    assert [index for index, _, _ in errors] == list(range(REPORTED))
    assert {signal for _, signal, _ in errors} == {"a", "b"}


def test_a_sensors_signals_are_the_only_ones_it_delivers():
    batch = a_batch(a_column([1], [1.0], "temperature"), a_column([1], [1.0], "presure"))
    ((_, signal, message),) = _errors(batch, allowed=("temperature", "pressure"))
    assert (signal, message) == ("presure", "is not a signal of this sensor, which delivers temperature, pressure")
    _check(batch)


@pytest.mark.parametrize("signal", ["", "x" * 101, "a\nb", "\ud800"])
def test_signals_are_short_lines(signal: str):
    assert len(_errors(a_batch(a_column([1], [1.0], signal)))) == 1


@pytest.mark.parametrize("batch_id", ["", "x" * 201, "a\x00b", "a\nb"])
def test_batch_ids_are_short_lines(batch_id: str):
    with pytest.raises(Invalid) as refusal:
        _check(a_batch(a_column([1], [1.0]), batch_id=batch_id))
    assert refusal.value.errors[0]["path"] == "batch_id"


def test_batches_are_neither_empty_nor_boundless():
    too_long = a_column(range(READINGS + 1), array("d", bytes(8 * (READINGS + 1))))
    too_wide = [a_column([1], [1.0], f"s{number}") for number in range(SIGNALS + 1)]
    for batch in (a_batch(), a_batch(a_column([], [])), a_batch(too_long), a_batch(*too_wide)):
        with pytest.raises(Invalid) as refusal:
            _check(batch)
        assert refusal.value.errors[0]["path"] == "readings"
    _check(a_batch(*too_wide[:SIGNALS]))


def test_the_largest_batch_is_allowed():
    stamps = array("q", range(READINGS))
    batch = a_batch(Column("value", stamps, array("d", stamps)))
    _check(batch)
    assert len(batch) == READINGS


def test_a_timestamp_has_a_bounded_number_of_readings():
    _check(a_batch(a_column([1] * REPEATS + [2], [0.0] * (REPEATS + 1))))
    with pytest.raises(BadReadings) as refusal:
        _check(a_batch(a_column([2, *[1] * (REPEATS + 1)], [0.0] * (REPEATS + 2), "a")))
    assert refusal.value.errors == [
        {"index": REPEATS + 1, "signal": "a", "message": f"the timestamp has more than {REPEATS} readings"}
    ]
