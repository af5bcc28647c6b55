"""Statistics: what they are of a list, and that merging parts gives what the whole would."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_domain.telemetry.statistics import Statistics

ORDINARY = st.floats(-1e9, 1e9).map(lambda value: round(value, 6))
ANY = st.floats(allow_nan=False, allow_infinity=False)


def _of(values: list[float]) -> Statistics:
    found = Statistics.of(values)
    assert found is not None
    return found


@given(st.lists(ORDINARY, min_size=1))
def test_equal_those_of_the_standard_library(values: list[float]):
    found = _of(values)
    assert (found.count, found.minimum, found.maximum) == (len(values), min(values), max(values))
    assert (found.first, found.last) == (values[0], values[-1])
    assert found.mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-12)
    assert found.deviation == pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-6)


def test_the_spread_of_large_values_is_not_lost_to_rounding():
    assert _of([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16]).deviation == pytest.approx(math.sqrt(22.5), rel=1e-12)


def test_nan_stands_for_no_value():
    assert Statistics.of([]) is None
    assert Statistics.of([math.nan, math.nan]) is None
    assert Statistics.of([math.nan, 3.0, math.nan, 5.0, math.nan]) == Statistics.of([3.0, 5.0])


@given(st.lists(st.lists(ORDINARY, min_size=1, max_size=20), min_size=1, max_size=8))
def test_parts_merge_into_the_whole(parts: list[list[float]]):
    merged = _of(parts[0])
    for part in parts[1:]:
        merged = merged.then(_of(part))
    whole = _of([value for part in parts for value in part])
    assert (merged.count, merged.minimum, merged.maximum, merged.first, merged.last) == (
        whole.count,
        whole.minimum,
        whole.maximum,
        whole.first,
        whole.last,
    )
    scale = max(abs(whole.minimum), abs(whole.maximum))
    assert merged.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-12 * scale)
    # What rounding may do to the spread grows with the values, not with the spread itself.
    assert merged.deviation == pytest.approx(whole.deviation, rel=1e-9, abs=1e-7 * scale)


@given(st.lists(ANY, min_size=1, max_size=10), st.lists(ANY, min_size=1, max_size=10))
def test_no_finite_value_is_too_large_for_a_mean(one: list[float], other: list[float]):
    merged = _of(one).then(_of(other))
    low, high = min(one + other), max(one + other)
    slack = 1e-12 * max(abs(low), abs(high))
    assert math.isfinite(merged.mean)
    assert low - slack <= merged.mean <= high + slack or math.isinf(high + slack) or math.isinf(low - slack)
    assert not math.isnan(merged.squares)
    assert merged.squares >= 0
