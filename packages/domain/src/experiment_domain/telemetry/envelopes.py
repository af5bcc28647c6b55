"""Envelopes: a series in a few items, each of which keeps the extremes of the time that it stands for."""

from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.telemetry.batches import LATEST
from experiment_domain.telemetry.store import Layer

POINTS = 10_000
"""The most items of one envelope."""

# Steps of at most a third, so that seldom fewer than three quarters of the items asked for are given.
_STEPS = (100, 125, 150, 200, 250, 300, 400, 500, 600, 800)
_WIDTHS = sorted({step * 10**power // 100 for step in _STEPS for power in range(18) if step * 10**power % 100 == 0})


@frozen(kw_only=True)
class EnvelopeQuery:
    """Which series, and in at most how many items: `start` inclusive, `end` exclusive, in microseconds."""

    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None = None
    start: int | None = None
    end: int | None = None
    points: int


@frozen(kw_only=True)
class Pixels:
    """Equal parts of time, in microseconds: they begin at `anchor` and whole multiples of `width` after it.

    The anchor is the first reading of the series, whatever part of it is asked for, and the width a round number:
    a window that is moved sees the same parts, and batches sent at regular intervals rarely lie across two of them.
    `low` (inclusive) and `high` (exclusive) are what of the series is asked for.
    """

    anchor: int
    width: int
    low: int
    high: int

    @classmethod
    def of(cls, query: EnvelopeQuery, first: int, last: int) -> "Pixels | None":
        """The parts of a series with readings from `first` to `last`; None where nothing of it is asked for."""
        low = first if query.start is None else max(first, query.start)
        high = last + 1 if query.end is None else min(last + 1, query.end)
        if low >= high:
            return None
        place = bisect_left(_WIDTHS, -(-(high - low) // query.points))
        if low > first and query.points > 1:
            # Wide enough wherever a window of this length begins, so that moving it does not change the width.
            place = max(place, bisect_left(_WIDTHS, (high - low - 2) // (query.points - 1) + 1))
        while (high - 1 - first) // _WIDTHS[place] - (low - first) // _WIDTHS[place] >= query.points:
            place += 1
        return cls(anchor=first, width=_WIDTHS[place], low=low, high=high)

    def number(self, timestamp: int) -> int:
        """Which part a timestamp lies in."""
        return (timestamp - self.anchor) // self.width

    def span(self, number: int, query: EnvelopeQuery) -> tuple[int, int]:
        """Where a part begins (inclusive) and ends (exclusive), as far as it was asked for."""
        start = self.anchor + number * self.width
        end = start + self.width
        # The last part may end beyond the years there are.
        return (
            start if query.start is None else max(start, query.start),
            min(end, LATEST if query.end is None else query.end),
        )


@frozen(kw_only=True, eq=False)
class Envelope:
    """The parts that hold readings, in the order of time; `starts` inclusive and `ends` exclusive, in microseconds.

    `counts` counts values: where a part has readings but no physical value it is 0, and the statistics are NaN.
    """

    starts: "array[int]"
    ends: "array[int]"
    counts: "array[int]"
    minimums: "array[float]"
    maximums: "array[float]"
    firsts: "array[float]"
    lasts: "array[float]"
    means: "array[float]"

    @classmethod
    def empty(cls) -> "Envelope":
        """That of no readings."""
        return cls(
            starts=array("q"),
            ends=array("q"),
            counts=array("q"),
            minimums=array("d"),
            maximums=array("d"),
            firsts=array("d"),
            lasts=array("d"),
            means=array("d"),
        )

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def columns(self) -> "Sequence[array[Any]]":
        """Starts, ends, counts, minimums, maximums, firsts, lasts and means: as they are shown as a table."""
        return (
            self.starts,
            self.ends,
            self.counts,
            self.minimums,
            self.maximums,
            self.firsts,
            self.lasts,
            self.means,
        )


class Envelopes(Protocol):
    """Reads envelopes of stored series."""

    @abstractmethod
    async def read(self, query: EnvelopeQuery) -> Envelope:
        """The envelope of what is read of a series: of one timestamp, of the reading received last.

        Counts, extremes, first and last are exact however the readings arrived; means are, up to rounding.
        """
