"""Statistics of readings that can be merged: of chunks into series, of series into runs."""

import math
from collections.abc import Iterable

from attrs import frozen

LARGE, SMALL = 1e140, 1e-120
"""Between these sizes, no square and no sum of squares overflows or vanishes."""


@frozen(kw_only=True)
class Statistics:
    """Count, extremes, mean and spread of values in the order of their timestamps.

    `squares` is the sum of squared deviations from the mean, not of squared values, which would lose the
    spread of large values to rounding. Of values whose squares could overflow or vanish, it is that of the values
    divided by a power of two, which follows from the extremes: see `exponent`. Merging follows Chan, Golub and
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    count: int
    minimum: float
    maximum: float
    mean: float
    squares: float
    first: float
    last: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Statistics | None":
        """The statistics of values in the order of their timestamps; NaN stands for no value. None of none."""
        found = [value for value in values if not math.isnan(value)]
        if not found:
            return None
        mean, minimum, maximum = _mean(found), min(found), max(found)
        down = -_exponent(minimum, maximum)
        centre = math.ldexp(mean, down)
        return cls(
            count=len(found),
            minimum=minimum,
            maximum=maximum,
            mean=mean,
            squares=math.fsum((math.ldexp(value, down) - centre) ** 2 for value in found),
            first=found[0],
            last=found[-1],
        )

    def then(self, later: "Statistics") -> "Statistics":
        """The statistics of these values followed by `later` ones."""
        count = self.count + later.count
        apart = later.mean - self.mean
        mean = self.mean + apart * (later.count / count)
        if not math.isfinite(apart):
            # Means at both ends of the scale: their distance overflows while their mean does not.
            mean = self.mean * (self.count / count) + later.mean * (later.count / count)
        minimum, maximum = min(self.minimum, later.minimum), max(self.maximum, later.maximum)
        exponent = _exponent(minimum, maximum)
        if exponent or self.exponent or later.exponent:
            apart = math.ldexp(later.mean, -exponent) - math.ldexp(self.mean, -exponent)
        return Statistics(
            count=count,
            minimum=minimum,
            maximum=maximum,
            mean=mean,
            squares=self.squares_by(exponent)
            + later.squares_by(exponent)
            + apart * apart * (self.count * later.count / count),
            first=self.first,
            last=later.last,
        )

    @property
    def exponent(self) -> int:
        """The power of two that values were divided by before they were squared; 0 but for very large or small ones."""
        return _exponent(self.minimum, self.maximum)

    @property
    def deviation(self) -> float:
        """The standard deviation of the population, in the unit of the values."""
        deviation = math.sqrt(self.squares / self.count)
        if not self.exponent:
            return deviation
        # No deviation is larger than the largest value; rounding up could lead beyond what a float can be.
        peak = math.ldexp(max(abs(self.minimum), abs(self.maximum)), -self.exponent)
        return math.ldexp(min(deviation, peak), self.exponent)

    def squares_by(self, exponent: int) -> float:
        """The squares, of values that were divided by another power of two."""
        return self.squares if exponent == self.exponent else math.ldexp(self.squares, 2 * (self.exponent - exponent))


def _exponent(minimum: float, maximum: float) -> int:
    peak = max(abs(minimum), abs(maximum))
    return 0 if SMALL <= peak <= LARGE or peak == 0.0 else math.frexp(peak)[1]


def _mean(values: list[float]) -> float:
    total = _sum(values)
    if math.isfinite(total):
        return total / len(values)
    # Huge values overflow their sum while their mean is an ordinary number.
    return _sum(value / len(values) for value in values)


def _sum(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
