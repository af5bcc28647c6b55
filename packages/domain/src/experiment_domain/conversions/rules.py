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
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from attrs import Factory, field, frozen


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


def _horner(coefficients: Sequence[float], value: float) -> float:
    result = 0.0
    for coefficient in reversed(coefficients):
        result = result * value + coefficient
    return result
