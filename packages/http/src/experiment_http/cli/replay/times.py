"""Times as recordings write them: ISO 8601 and its relatives, and counts since the Unix epoch."""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Protocol

from attrs import frozen

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = 253_402_300_799_999_999
_UNITS = ((10**11, 1_000_000, 1), (10**14, 1_000, 1), (10**17, 1, 1), (10**20, 1, 1_000))
"""Below which count it is one of seconds, milli-, micro- and nanoseconds; and what makes microseconds of it."""
_SINCE, _UNTIL = 10**9, 42 * 10**8
"""Seconds of 2001 to 2103: what a column counts that nobody has called the time column."""


class TimeFormat(Protocol):
    """Reads the times of one column."""

    @abstractmethod
    def micros(self, cell: str) -> int | None:
        """A cell as microseconds since the Unix epoch; None where it is no time."""


class IsoTimes(TimeFormat):
    """`2020-03-09T10:14:33.5Z`, `2020-03-09 10:14:33`: UTC where no zone is named."""

    def micros(self, cell: str) -> int | None:  # noqa: D102 - as promised by `TimeFormat`
        # Python takes bare digits for a date as well.
        if "-" not in cell[1:]:
            return None
        try:
            moment = datetime.fromisoformat(cell)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
            return (moment - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError):
            return None


@frozen
class EpochTimes(TimeFormat):
    """Counts since 1970-01-01 UTC; one unit in the whole column."""

    factor: int
    divisor: int

    def micros(self, cell: str) -> int | None:  # noqa: D102 - as promised by `TimeFormat`
        count = _count(cell)
        if count is None:
            return None
        micros = int((count * self.factor / self.divisor).to_integral_value())
        return micros if abs(micros) <= _LATEST else None


def _count(cell: str) -> Decimal | None:
    try:
        count = Decimal(cell)
    except InvalidOperation:
        return None
    return count if count.is_finite() and abs(count) < _UNITS[-1][0] else None


def time_format_of(cells: Sequence[str], *, detect: bool) -> TimeFormat | None:
    """How a column writes times, judged by most of its cells; None where it holds none.

    While it is being detected which column that is, counts must lie in our days.
    """
    given = [cell for cell in cells if cell]
    for candidate in (IsoTimes(), *_epoch_times(given, detect=detect)):
        fitting = sum(candidate.micros(cell) is not None for cell in given)
        if fitting * 2 > len(given):
            return candidate
    return None


def _epoch_times(cells: Sequence[str], *, detect: bool) -> list[EpochTimes]:
    counts = sorted(count for cell in cells if (count := _count(cell)) is not None)
    if len(counts) * 2 <= len(cells) or not counts:
        return []
    middle = counts[len(counts) // 2]
    factor, divisor = next((factor, divisor) for limit, factor, divisor in _UNITS if abs(middle) < limit)
    seconds = middle * factor / divisor / 1_000_000
    return [EpochTimes(factor, divisor)] if not detect or _SINCE <= seconds < _UNTIL else []
