"""Conversion rules: what they answer, what they refuse, and how they travel as JSON."""

import json
import math
from array import array
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_domain.conversions.parameters import MAX_ERRORS, bounds_of, parameters_of, rule_from, valid_range_from
from experiment_domain.conversions.rules import (
    Identity,
    Linear,
    Outside,
    PiecewisePolynomial,
    Polynomial,
    PolynomialRange,
    ProfileKind,
    Rule,
    Table,
    ValidRange,
    convert,
    convert_all,
)
from experiment_domain.kernel.errors import Invalid
from strategies import finite_floats, rules, valid_ranges

STEPS = PiecewisePolynomial(
    (
        PolynomialRange(-1.0, 0.0, (10.0,)),
        PolynomialRange(0.0, 1.0, (20.0,)),
        PolynomialRange(2.0, 3.0, (30.0, 1.0)),
    )
)
POINTS = ((0.0, 10.0), (1.0, 20.0), (3.0, 0.0))


@pytest.mark.parametrize(
    ("rule", "raw", "physical"),
    [
        (Identity(), -2.5, -2.5),
        (Linear(2.0, 0.5), 3.0, 6.5),
        (Polynomial((7.0,)), 123.0, 7.0),
        (Polynomial((1.0, 2.0, 3.0)), 2.0, 17.0),
        (STEPS, -1.0, 10.0),
        (STEPS, 0.0, 10.0),  # a shared end belongs to the lower range
        (STEPS, -0.0, 10.0),
        (STEPS, math.nextafter(0.0, 1.0), 20.0),
        (STEPS, 1.0, 20.0),
        (STEPS, 1.5, None),  # a gap
        (STEPS, 2.0, 32.0),
        (STEPS, 3.0, 33.0),
        (STEPS, math.nextafter(-1.0, -2.0), None),
        (STEPS, math.nextafter(3.0, 4.0), None),
        (Table(POINTS, Outside.REJECT), 0.25, 12.5),
        (Table(POINTS, Outside.REJECT), 2.0, 10.0),
        (Table(POINTS, Outside.REJECT), math.nextafter(0.0, -1.0), None),
        (Table(POINTS, Outside.REJECT), math.nextafter(3.0, 4.0), None),
        (Table(POINTS, Outside.CLAMP), -5.0, 10.0),
        (Table(POINTS, Outside.CLAMP), 1e300, 0.0),
        (Table(POINTS, Outside.EXTRAPOLATE), -1.0, 0.0),
        (Table(POINTS, Outside.EXTRAPOLATE), 5.0, -20.0),
    ],
)
def test_a_raw_value_becomes_a_physical_one(rule: Rule, raw: float, physical: float | None):
    assert convert(rule, raw) == physical


@pytest.mark.parametrize(
    ("rule", "raw"),
    [
        (Linear(1e308, 0.0), 10.0),
        (Polynomial((0.0, 1e308, -1e308)), 10.0),  # infinite minus infinite
        (Table(((0.0, 0.0), (5e-324, 1.0)), Outside.EXTRAPOLATE), 1.0),
    ],
)
def test_what_overflows_has_no_physical_value(rule: Rule, raw: float):
    assert convert(rule, raw) is None


@given(rules(), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_no_reading_has_no_physical_value(rule: Rule, raw: float):
    assert convert(rule, raw) is None


@given(finite_floats(), finite_floats(), finite_floats())
def test_a_line_is_a_polynomial(a: float, b: float, raw: float):
    assert convert(Linear(a, b), raw) == convert(Polynomial((b, a)), raw)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=6), st.integers(-20, 20))
def test_a_polynomial_of_small_integers_is_exact(coefficients: list[int], raw: int):
    exact = sum(coefficient * raw**degree for degree, coefficient in enumerate(coefficients))
    assert convert(Polynomial(tuple(map(float, coefficients))), float(raw)) == exact


@given(rules(ProfileKind.TABLE))
def test_a_table_hits_its_points(rule: Table):
    assert [convert(rule, x) for x, _ in rule.points] == [y for _, y in rule.points]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8, unique=True),
    st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8),
    st.floats(0.0, 1.0),
)
def test_between_two_points_lies_the_line(xs: list[float], ys: list[float], share: float):
    points = tuple(zip(sorted(xs), ys, strict=False))
    rule = Table(points, Outside.REJECT)
    for (x0, y0), (x1, y1) in pairwise(points):
        raw = min(max(x0 + share * (x1 - x0), x0), x1)
        slope = (Fraction(y1) - Fraction(y0)) / (Fraction(x1) - Fraction(x0))
        exact = Fraction(y0) + (Fraction(raw) - Fraction(x0)) * slope
        physical = convert(rule, raw)
        assert physical is not None
        assert abs(Fraction(physical) - exact) <= max(abs(y0), abs(y1)) * 1e-15 * 4 + 1e-300


@pytest.mark.parametrize(
    ("valid_range", "inside", "outside"),
    [
        (ValidRange(-1.0, 1.0), [-1.0, 0.0, 1.0], [math.nextafter(-1.0, -2.0), math.nextafter(1.0, 2.0)]),
        (ValidRange(min=0.0), [0.0, -0.0, 1e308], [-5e-324]),
        (ValidRange(max=0.0), [0.0, -0.0, -1e308], [5e-324]),
    ],
)
def test_a_valid_range_holds_its_ends(valid_range: ValidRange, inside: list[float], outside: list[float]):
    assert [convert(Identity(), raw, valid_range) for raw in inside] == inside
    assert [convert(Identity(), raw, valid_range) for raw in outside] == [None] * len(outside)


def test_a_valid_range_is_one_of_raw_values():
    assert convert(Linear(100.0, 0.0), 2.0, ValidRange(0.0, 5.0)) == 200.0
    assert convert(Table(POINTS, Outside.CLAMP), 4.0, ValidRange(0.0, 3.5)) is None


def test_many_values_say_nan_where_there_is_none():
    physical = convert_all(STEPS, array("d", [0.5, 1.5, 2.5]), ValidRange(max=2.6))
    assert [None if math.isnan(value) else value for value in physical] == [20.0, None, 32.5]


@given(rules(), valid_ranges())
def test_json_there_and_back_is_the_same(rule: Rule, valid_range: ValidRange | None):
    parameters = json.loads(json.dumps(parameters_of(rule), allow_nan=False))
    again = rule_from(rule.kind, parameters)
    assert again == rule
    assert repr(again) == repr(rule)  # tells -0.0 from 0.0
    assert valid_range_from(json.loads(json.dumps(bounds_of(valid_range)))) == valid_range


def test_integers_are_numbers():
    rule = rule_from(ProfileKind.TABLE, {"points": [[0, 1], [2, 3]], "outside": "clamp"})
    assert json.dumps(parameters_of(rule)) == '{"points": [[0.0, 1.0], [2.0, 3.0]], "outside": "clamp"}'


def test_limits_are_still_inside():
    rule_from(ProfileKind.POLYNOMIAL, {"coefficients": [1.0] * 64})
    spans = [{"min": at, "max": at + 1, "coefficients": [at]} for at in range(256)]
    rule_from(ProfileKind.PIECEWISE_POLYNOMIAL, {"ranges": spans})
    rule_from(ProfileKind.TABLE, {"points": [[at, at] for at in range(10_000)], "outside": "reject"})


def span(low: Any, high: Any, *coefficients: Any) -> dict[str, Any]:
    return {"min": low, "max": high, "coefficients": list(coefficients)}


def table(*points: Any, outside: Any = "reject") -> dict[str, Any]:
    return {"points": list(points), "outside": outside}


@pytest.mark.parametrize(
    ("kind", "parameters", "paths"),
    [
        ("identity", {"a": 1}, ["a"]),
        ("identity", [], [""]),
        ("linear", {}, ["a", "b"]),
        ("linear", {"a": 1, "b": 2, "c": 3, "d": 4}, ["c", "d"]),
        ("linear", {"a": True, "b": "2"}, ["a", "b"]),
        ("linear", {"a": None, "b": [1]}, ["a", "b"]),
        ("linear", {"a": math.nan, "b": -math.inf}, ["a", "b"]),
        ("linear", {"a": 10**400, "b": 1}, ["a"]),
        ("polynomial", {}, ["coefficients"]),
        ("polynomial", {"coefficients": []}, ["coefficients"]),
        ("polynomial", {"coefficients": [0.0] * 65}, ["coefficients"]),
        ("polynomial", {"coefficients": "12"}, ["coefficients"]),
        ("polynomial", {"coefficients": {"0": 1}}, ["coefficients"]),
        ("polynomial", {"coefficients": [1, False, 3, math.inf]}, ["coefficients[1]", "coefficients[3]"]),
        ("piecewise_polynomial", {"ranges": []}, ["ranges"]),
        ("piecewise_polynomial", {"ranges": [span(at, at + 1, 1) for at in range(257)]}, ["ranges"]),
        ("piecewise_polynomial", {"ranges": [1]}, ["ranges[0]"]),
        (
            "piecewise_polynomial",
            {"ranges": [span(0, 1, 1), {"min": 1, "max": 2, "coefficients": [True], "unit": "V"}, {}]},
            [
                "ranges[1].unit",
                "ranges[1].coefficients[0]",
                "ranges[2].min",
                "ranges[2].max",
                "ranges[2].coefficients",
            ],
        ),
        ("piecewise_polynomial", {"ranges": [span(0, 0, 1)]}, ["ranges[0]"]),
        ("piecewise_polynomial", {"ranges": [span(1, 0, 1)]}, ["ranges[0]"]),
        ("piecewise_polynomial", {"ranges": [span(0, 2, 1), span(1, 3, 1)]}, ["ranges[1].min"]),
        ("piecewise_polynomial", {"ranges": [span(2, 3, 1), span(0, 1, 1)]}, ["ranges[1].min"]),
        ("piecewise_polynomial", {"ranges": [span(0, "2", 1), span(1, 3, 1)]}, ["ranges[0].max"]),
        ("table", {}, ["points", "outside"]),
        ("table", table(), ["points"]),
        ("table", table([0, 1]), ["points"]),
        ("table", table(*([at, at] for at in range(10_001))), ["points"]),
        ("table", table([0, 1], [1], [2, 3, 4], 5, "67", [8, 9]), [f"points[{at}]" for at in (1, 2, 3, 4)]),
        ("table", table([0, 1], [0, 2]), ["points[1][0]"]),
        ("table", table([-0.0, 1], [0.0, 2]), ["points[1][0]"]),
        ("table", table([0, 1], [2, 2], [1, 3], [4, 4]), ["points[2][0]"]),
        ("table", table([0, True], [math.nan, 2], [3, 10**400]), ["points[0][1]", "points[1][0]", "points[2][1]"]),
        ("table", table([-1e308, 0], [1e308, 1]), ["points[1]"]),
        ("table", table([0, -1e308], [1, 1e308]), ["points[1]"]),
        ("table", table([0, 1], [1, 2], outside="ignore"), ["outside"]),
        ("table", table([0, 1], [1, 2], outside=["reject"]), ["outside"]),
        ("table", table([0, 1], [1, 2], outside=None), ["outside"]),
    ],
)
def test_bad_parameters_are_refused_by_name(kind: str, parameters: Any, paths: list[str]):
    with pytest.raises(Invalid) as refusal:
        rule_from(ProfileKind(kind), parameters)
    assert [error["path"] for error in refusal.value.errors] == [
        f"parameters.{path}" if path else "parameters" for path in paths
    ]
    assert refusal.value.detail.startswith(refusal.value.errors[0]["path"])


def test_a_refusal_is_no_longer_than_anybody_reads():
    with pytest.raises(Invalid) as refusal:
        rule_from(ProfileKind.TABLE, table(*([None, None] for _ in range(10_000))))
    assert len(refusal.value.errors) == MAX_ERRORS


@pytest.mark.parametrize("parameters", [None, {}, {"min": None}, {"min": None, "max": None}])
def test_a_valid_range_without_ends_is_none(parameters: dict[str, Any] | None):
    assert valid_range_from(parameters) is None


@pytest.mark.parametrize(
    ("parameters", "paths"),
    [
        ([], ["valid_range"]),
        ({"low": 1, "high": 2}, ["valid_range.low", "valid_range.high"]),
        ({"min": True, "max": "5"}, ["valid_range.min", "valid_range.max"]),
        ({"min": -math.inf, "max": 10**400}, ["valid_range.min", "valid_range.max"]),
        ({"min": 1, "max": 1}, ["valid_range"]),
        ({"min": 2, "max": 1}, ["valid_range"]),
    ],
)
def test_a_bad_valid_range_is_refused_by_name(parameters: Any, paths: list[str]):
    with pytest.raises(Invalid) as refusal:
        valid_range_from(parameters)
    assert [error["path"] for error in refusal.value.errors] == paths
