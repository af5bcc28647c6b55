"""Identifiers: the layout of RFC 9562, and an order that no clock can disturb."""

import time
from itertools import pairwise
from uuid import UUID

import pytest

from experiment_domain.kernel.ids import TimeOrderedIds, first_id


def _milliseconds(made: UUID) -> int:
    return made.int >> 80


def _fraction(made: UUID) -> int:
    return made.int >> 64 & 0xFFF


def test_the_layout_is_that_of_a_uuidv7():
    before = time.time_ns() // 1_000_000
    made = TimeOrderedIds().new()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= _milliseconds(made) <= time.time_ns() // 1_000_000


@pytest.mark.parametrize(("nanoseconds", "fraction"), [(0, 0), (250_000, 1024), (500_000, 2048), (999_999, 4095)])
def test_twelve_bits_tell_the_fraction_of_a_millisecond(
    monkeypatch: pytest.MonkeyPatch, nanoseconds: int, fraction: int
):
    monkeypatch.setattr(time, "time_ns", lambda: 1_773_051_273_123 * 1_000_000 + nanoseconds)
    made = TimeOrderedIds().new()
    assert (_milliseconds(made), _fraction(made)) == (1_773_051_273_123, fraction)


def test_the_first_id_of_a_moment_is_below_all_that_are_made_in_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_773_051_273_123_000_000)
    made = TimeOrderedIds().new()
    assert first_id(1_773_051_273.123) <= made < first_id(1_773_051_273.124)
    assert (first_id(0.0).version, first_id(0.0).variant) == (made.version, made.variant)


def test_ids_ascend():
    ids = TimeOrderedIds()
    assert all(first < second for first, second in pairwise(ids.new() for _ in range(20_000)))


def test_ids_ascend_where_the_clock_stands_still_or_is_set_back(monkeypatch: pytest.MonkeyPatch):
    # The last fraction of a millisecond, so that counting on carries over.
    readings = [1_773_051_273_123_999_999] * 3 + [1_773_051_273_000_000_000, 1_773_051_274_000_000_000]
    monkeypatch.setattr(time, "time_ns", iter(readings).__next__)
    ids = TimeOrderedIds()
    made = [ids.new() for _ in readings]
    assert made == sorted(made)
    assert [_milliseconds(one) for one in made] == [
        1_773_051_273_123,
        1_773_051_273_124,
        1_773_051_273_124,
        1_773_051_273_124,
        1_773_051_274_000,
    ]
    assert [_fraction(one) for one in made] == [4095, 0, 1, 2, 0]
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
