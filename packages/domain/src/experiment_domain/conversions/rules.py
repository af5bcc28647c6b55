"""Conversion rules: how one raw number becomes a physical one, to the bit.

`convert` is the reference. Every formula below states its operations and their order, each rounded on its
own to float64 (no fused multiply-add), so that another implementation can be, and is tested to be, equal bit
for bit.

Units are not the rules' business: a rule maps numbers in a profile's input unit to numbers in its output
unit.
"""

import math
from abc import abstractmethod
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Protocol, cast

from attrs import Factory, field, frozen

from experiment_domain.kernel.errors import Invalid

MAX_COEFFICIENTS = 64
MAX_RANGES = 256
MAX_POINTS = 10_000
MAX_ERRORS = 100  # of a table with ten thousand bad points, nobody reads them all


class ProfileKind(StrEnum):
    """The kinds of rule, as they are named in JSON."""

    IDENTITY = "identity"
    LINEAR = "linear"
    POLYNOMIAL = "polynomial"
    PIECEWISE_POLYNOMIAL = "piecewise_polynomial"
    TABLE = "table"


class Outside(StrEnum):
    """What a table says of a raw value outside its points."""

    REJECT = "reject"
    CLAMP = "clamp"
    EXTRAPOLATE = "extrapolate"


# The rules' `at` answers with something that is not finite where there is no physical value; `convert` turns
# that into None. The classes themselves check nothing: what comes from outside comes through `rule_from`.


@frozen
class Identity:
    """The physical value is the raw value: y = x."""

    kind: ClassVar = ProfileKind.IDENTITY

    @property
    def parameters(self) -> dict[str, Any]:
        """The canonical JSON parameters."""
        return {}

    def at(self, value: float) -> float:
        """Y for x = `value`."""
        return value


@frozen
class Linear:
    """A straight line: y = (a·x) + b."""

    kind: ClassVar = ProfileKind.LINEAR
    a: float
    b: float

    @property
    def parameters(self) -> dict[str, Any]:
        """The canonical JSON parameters."""
        return {"a": self.a, "b": self.b}

    def at(self, value: float) -> float:
        """Y for x = `value`."""
        return self.a * value + self.b


@frozen
class Polynomial:
    """A polynomial: y = c₀ + c₁·x + c₂·x² + …, `coefficients` from the lowest degree.

    Evaluated by Horner's rule from zero: y ← 0, then for each coefficient from the highest degree to the
    lowest y ← (y·x) + c. Starting from zero instead of from the highest coefficient makes higher coefficients
    of zero change nothing, not even the sign of a zero, so polynomials of several degrees can be evaluated
    side by side.
    """

    kind: ClassVar = ProfileKind.POLYNOMIAL
    coefficients: tuple[float, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The canonical JSON parameters."""
        return {"coefficients": list(self.coefficients)}

    def at(self, value: float) -> float:
        """Y for x = `value`."""
        return _horner(self.coefficients, value)


@frozen
class PolynomialRange:
    """A polynomial for the raw values `min` ≤ x ≤ `max`."""

    min: float
    max: float
    coefficients: tuple[float, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The canonical JSON of this range."""
        return {"min": self.min, "max": self.max, "coefficients": list(self.coefficients)}


def _maxima(rule: "PiecewisePolynomial") -> Sequence[float]:
    return array("d", [part.max for part in rule.ranges])


@frozen
class PiecewisePolynomial:
    """A polynomial for each of several ranges, which rise and do not overlap.

    Both ends belong to a range. Where two ranges share an end, the lower one owns it, as in the tables of
    NIST ITS-90. In a gap between ranges and outside all of them there is no physical value.
    """

    kind: ClassVar = ProfileKind.PIECEWISE_POLYNOMIAL
    ranges: tuple[PolynomialRange, ...]
    # The upper ends, an array to be searched; `Sequence`, for it is not to be written.
    maxima: Sequence[float] = field(init=False, eq=False, repr=False, default=Factory(_maxima, takes_self=True))

    @property
    def parameters(self) -> dict[str, Any]:
        """The canonical JSON parameters."""
        return {"ranges": [part.parameters for part in self.ranges]}

    def at(self, value: float) -> float:
        """Y for x = `value`; NaN where no range holds it."""
        index = bisect_left(self.maxima, value)  # the first range that does not end before the value
        if index == len(self.ranges) or value < self.ranges[index].min:
            return math.nan
        return _horner(self.ranges[index].coefficients, value)


def _xs(rule: "Table") -> Sequence[float]:
    return array("d", [x for x, _ in rule.points])


def _ys(rule: "Table") -> Sequence[float]:
    return array("d", [y for _, y in rule.points])


@frozen
class Table:
    """Points (x, y), x strictly rising, with straight lines between them.

    Between two neighbours y = y₀ + (((x − x₀) / (x₁ − x₀)) · (y₁ − y₀)); a point in the middle is the left
    end of its line. At the last point y is that point's y, which the formula need not hit for its rounding.
    Outside, `clamp` takes the y of the nearest point and `extrapolate` goes on with the first or the last
    line.
    """

    kind: ClassVar = ProfileKind.TABLE
    points: tuple[tuple[float, float], ...]
    outside: Outside
    # The two columns, likewise.
    xs: Sequence[float] = field(init=False, eq=False, repr=False, default=Factory(_xs, takes_self=True))
    ys: Sequence[float] = field(init=False, eq=False, repr=False, default=Factory(_ys, takes_self=True))

    @property
    def parameters(self) -> dict[str, Any]:
        """The canonical JSON parameters."""
        return {"points": [[x, y] for x, y in self.points], "outside": self.outside.value}

    def at(self, value: float) -> float:
        """Y for x = `value`; NaN outside a table that rejects it."""
        xs, ys = self.xs, self.ys
        if self.outside is not Outside.EXTRAPOLATE and not xs[0] <= value <= xs[-1]:
            if self.outside is Outside.REJECT:
                return math.nan
            return ys[0] if value < xs[0] else ys[-1]
        if value == xs[-1]:
            return ys[-1]
        right = bisect_right(xs, value, 1, len(xs) - 1)
        x, y = xs[right - 1], ys[right - 1]
        return y + (value - x) / (xs[right] - x) * (ys[right] - y)


Rule = Identity | Linear | Polynomial | PiecewisePolynomial | Table


@frozen
class ValidRange:
    """The raw values `min` ≤ x ≤ `max` that a sensor can mean; None leaves a side open."""

    min: float | None = None
    max: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the raw `value` is inside."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


def convert(rule: Rule, value: float, valid_range: ValidRange | None = None) -> float | None:
    """The physical value of the raw `value`, None where it has none.

    That is: outside the valid range, in no range of a piecewise polynomial, outside a rejecting table, where
    the result is no finite float64, and for a raw value that is itself not finite.
    """
    if not math.isfinite(value) or (valid_range is not None and not valid_range.holds(value)):
        return None
    physical = rule.at(value)
    return physical if math.isfinite(physical) else None


def convert_all(rule: Rule, values: "array[float]", valid_range: ValidRange | None = None) -> "array[float]":
    """`convert` for each of an `array("d")`, into a new one, where NaN stands for "no physical value".

    NaN is free to say so, for a true reading, raw or physical, is always finite.
    """
    physical = (convert(rule, value, valid_range) for value in values)
    return array("d", [math.nan if value is None else value for value in physical])


class Converter(Protocol):
    """Applies a rule to many raw values at once."""

    @abstractmethod
    def convert(self, rule: Rule, values: "array[float]", valid_range: ValidRange | None) -> "array[float]":
        """What `convert_all` answers, to the bit. `values` is an `array("d")` and stays as it is."""


class ScalarConverter(Converter):
    """The reference itself, one value after the other."""

    def convert(self, rule: Rule, values: "array[float]", valid_range: ValidRange | None) -> "array[float]":
        """Every value through `convert`."""
        return convert_all(rule, values, valid_range)


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


def _horner(coefficients: Sequence[float], value: float) -> float:
    result = 0.0
    for coefficient in reversed(coefficients):
        result = result * value + coefficient
    return result


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
