"""Rules as JSON: the parameters that people write, checked, and the canonical ones that are kept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

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
)
from experiment_domain.kernel.errors import Invalid

MAX_COEFFICIENTS = 64
MAX_RANGES = 256
MAX_POINTS = 10_000
MAX_ERRORS = 100  # of a table with ten thousand bad points, nobody reads them all


def rule_from(kind: ProfileKind, parameters: Mapping[str, Any]) -> Rule:
    """The rule of a kind with JSON `parameters`. Raises `Invalid`, naming each place that is wrong."""
    check = _Check()
    rule = _PARSERS[kind](check, parameters)
    check.refuse()
    return rule


def parameters_of(rule: Rule) -> dict[str, Any]:
    """The canonical JSON parameters of a rule: `rule_from(rule.kind, parameters_of(rule)) == rule`."""
    return rule.parameters


def valid_range_from(parameters: Mapping[str, Any] | None) -> ValidRange | None:
    """The valid range of JSON `{"min", "max"}`, either of which may be absent or null; None if both are.

    Raises `Invalid`, naming each place that is wrong.
    """
    if parameters is None:
        return None
    check = _Check()
    bounds = check.fields(parameters, "valid_range", ("min", "max"), required=False)
    low, high = (
        None if bound is None or bound is _ABSENT else check.number(bound, f"valid_range.{name}")
        for name, bound in zip(("min", "max"), bounds, strict=True)
    )
    if low is not None and high is not None:
        check.rises(low, high, "valid_range")
    check.refuse()
    return None if low is None and high is None else ValidRange(low, high)


def bounds_of(valid_range: ValidRange | None) -> dict[str, Any] | None:
    """The canonical JSON of a valid range: `valid_range_from(bounds_of(it)) == it`."""
    return None if valid_range is None else {"min": valid_range.min, "max": valid_range.max}


_ABSENT = object()


class _Check:
    """Reads JSON values and notes what is wrong with them, going on as far as it makes sense.

    A number that is wrong is read as NaN, with which every comparison is false: no complaint follows from
    another.
    """

    def __init__(self) -> None:
        self.errors: list[dict[str, str]] = []

    def wrong(self, path: str, message: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"path": path, "message": message})

    def refuse(self) -> None:
        if self.errors:
            first = self.errors[0]
            more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
            raise Invalid(f"{first['path']}: {first['message']}{more}", errors=self.errors)

    def fields(self, value: Any, path: str, names: Sequence[str], *, required: bool = True) -> list[Any]:
        if not isinstance(value, Mapping):
            self.wrong(path, "must be an object")
            return [_ABSENT] * len(names)
        fields = cast("Mapping[str, Any]", value)
        for name in names:
            if required and name not in fields:
                self.wrong(f"{path}.{name}", "is required")
        for name in fields:
            if name not in names:
                self.wrong(f"{path}.{name}", "is unknown")
        return [fields.get(name, _ABSENT) for name in names]

    def items(self, value: Any, path: str, what: str, least: int, most: int) -> Sequence[Any]:
        if value is _ABSENT:
            return ()
        if not isinstance(value, (list, tuple)):
            self.wrong(path, "must be an array")
            return ()
        items = cast("Sequence[Any]", value)
        if not least <= len(items) <= most:
            self.wrong(path, f"must hold {least} to {most} {what}, not {len(items)}")
            return ()
        return items

    def number(self, value: Any, path: str) -> float:
        if value is _ABSENT:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.wrong(path, "must be a number")
            return math.nan
        try:
            number = float(value)
        except OverflowError:
            self.wrong(path, "is too large for a float64")
            return math.nan
        if not math.isfinite(number):
            # JSON knows no infinity: 1e999 becomes one in most parsers.
            self.wrong(path, "must be finite and not too large for a float64")
            return math.nan
        return number

    def coefficients(self, value: Any, path: str) -> tuple[float, ...]:
        items = self.items(value, path, "coefficients", 1, MAX_COEFFICIENTS)
        return tuple(self.number(item, f"{path}[{index}]") for index, item in enumerate(items))

    def rises(self, low: float, high: float, path: str) -> None:
        if low >= high:
            self.wrong(path, f"min must be below max, but {low!r} is not below {high!r}")


def _identity(check: _Check, parameters: Any) -> Identity:
    check.fields(parameters, "parameters", ())
    return Identity()


def _linear(check: _Check, parameters: Any) -> Linear:
    a, b = check.fields(parameters, "parameters", ("a", "b"))
    return Linear(check.number(a, "parameters.a"), check.number(b, "parameters.b"))


def _polynomial(check: _Check, parameters: Any) -> Polynomial:
    (coefficients,) = check.fields(parameters, "parameters", ("coefficients",))
    return Polynomial(check.coefficients(coefficients, "parameters.coefficients"))


def _piecewise_polynomial(check: _Check, parameters: Any) -> PiecewisePolynomial:
    (items,) = check.fields(parameters, "parameters", ("ranges",))
    ranges: list[PolynomialRange] = []
    for index, item in enumerate(check.items(items, "parameters.ranges", "ranges", 1, MAX_RANGES)):
        path = f"parameters.ranges[{index}]"
        low, high, coefficients = check.fields(item, path, ("min", "max", "coefficients"))
        part = PolynomialRange(
            check.number(low, f"{path}.min"),
            check.number(high, f"{path}.max"),
            check.coefficients(coefficients, f"{path}.coefficients"),
        )
        check.rises(part.min, part.max, path)
        if ranges and part.min < (end := ranges[-1].max):
            check.wrong(f"{path}.min", f"must not be below {end!r}, where the range before it ends")
        ranges.append(part)
    return PiecewisePolynomial(tuple(ranges))


def _table(check: _Check, parameters: Any) -> Table:
    items, outside = check.fields(parameters, "parameters", ("points", "outside"))
    points: list[tuple[float, float]] = []
    for index, item in enumerate(check.items(items, "parameters.points", "points", 2, MAX_POINTS)):
        path = f"parameters.points[{index}]"
        if not isinstance(item, (list, tuple)) or len(cast("Sequence[Any]", item)) != 2:
            check.wrong(path, "must be an array of two numbers, x and y")
            points.append((math.nan, math.nan))
            continue
        x, y = (check.number(part, f"{path}[{at}]") for at, part in enumerate(cast("Sequence[Any]", item)))
        if points:
            last_x, last_y = points[-1]
            if x <= last_x:
                check.wrong(f"{path}[0]", f"must be above {last_x!r}, the x of the point before it")
            # A distance that overflows would make the line between the two silently flat or infinitely steep.
            elif math.isinf(x - last_x) or math.isinf(y - last_y):
                check.wrong(path, "is too far from the point before it for a float64")
        points.append((x, y))
    if outside is not _ABSENT and outside not in tuple(Outside):
        check.wrong("parameters.outside", f"must be one of {', '.join(Outside)}")
        outside = _ABSENT
    return Table(tuple(points), Outside.REJECT if outside is _ABSENT else Outside(outside))


_PARSERS = {
    ProfileKind.IDENTITY: _identity,
    ProfileKind.LINEAR: _linear,
    ProfileKind.POLYNOMIAL: _polynomial,
    ProfileKind.PIECEWISE_POLYNOMIAL: _piecewise_polynomial,
    ProfileKind.TABLE: _table,
}
