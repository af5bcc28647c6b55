"""Conversion of whole arrays at once with NumPy, equal to the domain's rules bit for bit."""

import math
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from experiment_domain.conversions.rules import (
    Converter,
    Identity,
    Linear,
    Outside,
    PiecewisePolynomial,
    Polynomial,
    Rule,
    Table,
    ValidRange,
)

Floats = NDArray[np.float64]


class NumpyConverter(Converter):
    """Does each operation of a rule's formula to all values before the next one, in the rule's own order.

    Only elementary ufuncs, each rounding its result: `np.interp` multiplies and adds in one compiled
    expression, which a compiler may fuse where the processor can.
    """

    def convert(self, rule: Rule, values: "array[float]", valid_range: ValidRange | None) -> "array[float]":
        """All values at once."""
        raw = np.frombuffer(values, dtype=np.float64)
        with np.errstate(all="ignore"):  # what overflows has no physical value: an answer, not a fault
            physical = _physical(rule, raw)
        known = np.isfinite(raw)
        known &= np.isfinite(physical)
        if valid_range is not None:
            if valid_range.min is not None:
                known &= raw >= valid_range.min
            if valid_range.max is not None:
                known &= raw <= valid_range.max
        if np.count_nonzero(known) < known.size:
            # Also makes the NaNs alike: those of the processor have a sign of its choice.
            np.copyto(physical, math.nan, where=~known)
        return array("d", physical.tobytes())


def _physical(rule: Rule, raw: Floats) -> Floats:
    """A new array, not finite where there is no physical value."""
    match rule:
        case Identity():
            return raw.copy()
        case Linear():
            physical = raw * rule.a
            physical += rule.b
            return physical
        case Polynomial():
            return _horner(reversed(rule.coefficients), raw)
        case PiecewisePolynomial():
            return _piecewise(rule, raw)
        case Table():
            return _table(rule, raw)


def _horner(highest_first: Iterable[float | Floats], raw: Floats) -> Floats:
    result = np.zeros_like(raw)
    for coefficient in highest_first:
        result *= raw
        result += coefficient
    return result


def _piecewise(rule: PiecewisePolynomial, raw: Floats) -> Floats:
    minima = np.array([part.min for part in rule.ranges])
    maxima = np.asarray(rule.maxima)
    last = len(rule.ranges) - 1
    index = np.minimum(maxima.searchsorted(raw, side="left"), last)
    # A row per degree, a column per range; the zeros above a range's own degree change nothing in Horner's
    # rule, which starts from zero.
    coefficients = np.zeros((max(len(part.coefficients) for part in rule.ranges), last + 1))
    for column, part in enumerate(rule.ranges):
        coefficients[: len(part.coefficients), column] = part.coefficients
    physical = _horner((row.take(index) for row in coefficients[::-1]), raw)
    outside = raw < minima.take(index)
    outside |= raw > maxima[last]
    np.copyto(physical, math.nan, where=outside)
    return physical


def _table(rule: Table, raw: Floats) -> Floats:
    xs = np.asarray(rule.xs)
    ys = np.asarray(rule.ys)
    left = xs[1:-1].searchsorted(raw, side="right")  # only points in the middle separate lines
    right = left + 1
    x = xs.take(left)
    y = ys.take(left)
    physical = raw - x
    physical /= xs.take(right) - x
    physical *= ys.take(right) - y
    # Addition is commutative to the bit, but for which NaN comes out of two.
    physical += y
    np.copyto(physical, ys[-1], where=raw == xs[-1])
    if rule.outside is not Outside.EXTRAPOLATE:
        clamp = rule.outside is Outside.CLAMP
        np.copyto(physical, ys[0] if clamp else math.nan, where=raw < xs[0])
        np.copyto(physical, ys[-1] if clamp else math.nan, where=raw > xs[-1])
    return physical
