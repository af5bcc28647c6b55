"""Statistics of readings that can be merged: of chunks into series, of series into runs."""

import math
from collections.abc import Iterable

from attrs import frozen


@frozen(kw_only=True)
class Statistics:
    """Count, extremes, mean and spread of values in the order of their timestamps.

    `squares` is the sum of squared deviations from the mean, not of squared values, which would lose the
    spread of large values to rounding. Merging follows Chan, Golub and LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances" (1979).
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
        mean = _mean(found)
        return cls(
            count=len(found),
            minimum=min(found),
            maximum=max(found),
            mean=mean,
            squares=_sum((value - mean) ** 2 for value in found),
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
        return Statistics(
            count=count,
            minimum=min(self.minimum, later.minimum),
            maximum=max(self.maximum, later.maximum),
            mean=mean,
            squares=self.squares + later.squares + apart * apart * (self.count * later.count / count),
            first=self.first,
            last=later.last,
        )

    @property
    def deviation(self) -> float:
        """The standard deviation of the population, in the unit of the values."""
        return math.sqrt(self.squares / self.count)


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
