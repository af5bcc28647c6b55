"""Statistics grouped by buckets of time: of chunks by what they say of themselves, of readings one by one."""

import math
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from experiment_adapters.postgres.telemetry.arrays import Floats, Integers
from experiment_adapters.postgres.telemetry.merging import Merged
from experiment_domain.telemetry.batches import moment
from experiment_domain.telemetry.statistics import LARGE, SMALL, Statistics
from experiment_domain.telemetry.store import check_buckets

Flags = NDArray[np.bool_]


@frozen(kw_only=True)
class Part:
    """What is known of some of a series' readings; its values lie from `first_at` to `last_at` (µs)."""

    readings: int = 0
    late: int = 0
    starts_at: int | None = None
    ends_at: int | None = None
    statistics: Statistics | None = None
    first_at: int = 0
    last_at: int = 0

    def joined(self, other: "Part") -> "Part":
        """Both together; `first` and `last` are those of the part that begins first and of the one that ends last."""
        if self.starts_at is None or self.ends_at is None or other.starts_at is None or other.ends_at is None:
            return self if other.starts_at is None else other
        statistics, first, last = self.statistics, self, self
        if self.statistics is None:
            statistics, first, last = other.statistics, other, other
        elif other.statistics is not None:
            before, after = self.first_at <= other.first_at, self.last_at > other.last_at
            first, last = self if before else other, self if after else other
            statistics = self.statistics.then(other.statistics)
            if not before or after:
                firsts = self.statistics if before else other.statistics
                lasts = self.statistics if after else other.statistics
                statistics = evolve(statistics, first=firsts.first, last=lasts.last)
        return Part(
            readings=self.readings + other.readings,
            late=self.late + other.late,
            starts_at=min(self.starts_at, other.starts_at),
            ends_at=max(self.ends_at, other.ends_at),
            statistics=statistics,
            first_at=first.first_at,
            last_at=last.last_at,
        )

    @property
    def duration(self) -> float:
        """From the first reading to the last, in seconds."""
        return 0.0 if self.starts_at is None or self.ends_at is None else (self.ends_at - self.starts_at) / 1_000_000


@frozen(kw_only=True, eq=False)
class Spans:
    """Stretches of series, and their statistics: of each chunk, or of each reading.

    `owners` are the numbers of the series, which rise; those of one series are in the order of time. `starts` and
    `ends` are in microseconds; where `count` is 0 there are no values, and NaN stands for them.
    """

    owners: Integers
    starts: Integers
    ends: Integers
    readings: Integers
    late: Integers
    count: Integers
    minimum: Floats
    maximum: Floats
    mean: Floats
    squares: Floats
    first: Floats
    last: Floats

    @classmethod
    def of_readings(cls, merged: Merged, owner: int) -> "Spans":
        """Each reading of a series as a stretch of its own."""
        values = merged.values
        return cls(
            owners=np.full(len(values), owner),
            starts=merged.timestamps,
            ends=merged.timestamps,
            readings=np.ones(len(values), np.int64),
            late=merged.late.astype(np.int64),
            count=(~np.isnan(values)).astype(np.int64),
            minimum=values,
            maximum=values,
            mean=values,
            squares=np.zeros(len(values)),
            first=values,
            last=values,
        )

    def at(self, places: "Integers | Flags") -> "Spans":
        """Some of them, in the order of the places."""
        return Spans(
            owners=self.owners[places],
            starts=self.starts[places],
            ends=self.ends[places],
            readings=self.readings[places],
            late=self.late[places],
            count=self.count[places],
            minimum=self.minimum[places],
            maximum=self.maximum[places],
            mean=self.mean[places],
            squares=self.squares[places],
            first=self.first[places],
            last=self.last[places],
        )

    def overlap(self) -> Flags:
        """Which of them have a moment in common with another one of their series."""
        found = np.zeros(len(self.starts), np.bool_)
        follows = self.owners[1:] == self.owners[:-1]
        met = follows & (self.starts[1:] <= self.ends[:-1])
        if met.any():
            # How far a series reaches up to a stretch, as a rank among all moments: that of the next begins beyond it.
            moments = np.unique(np.concatenate((self.starts, self.ends)))
            beyond = self.owners * len(moments)
            reached = np.maximum.accumulate(beyond + np.searchsorted(moments, self.ends))
            found[1:] |= follows & (reached[:-1] >= (beyond + np.searchsorted(moments, self.starts))[1:])
            found[:-1] |= met
        return found

    def outsized(self) -> Flags:
        """Which of them have values whose squares may overflow, or vanish."""
        peak = np.fmax(np.abs(self.minimum), np.abs(self.maximum))
        return (peak > LARGE) | ((peak > 0.0) & (peak < SMALL))

    def parts(self, width: int | None) -> dict[tuple[int, int | None], Part]:
        """By owner and start of each bucket of `width` microseconds what is in it, or under None all of a series.

        None of them may lie in two buckets or overlap another one. Raises `Invalid` where there are too many buckets.
        """
        if not len(self.starts):
            return {}
        keys = self.starts // width if width is not None else np.zeros(len(self.starts), np.int64)
        begins = np.concatenate(([True], (keys[1:] != keys[:-1]) | (self.owners[1:] != self.owners[:-1])))
        edges = np.flatnonzero(begins)
        if width is not None:
            check_buckets(len(edges))
        group = np.cumsum(begins) - 1
        valid = self.count > 0
        weight = self.count.astype(np.float64)
        count = np.add.reduceat(self.count, edges)
        means = np.where(valid, self.mean, 0.0)
        places = np.arange(len(keys))
        first = np.minimum.reduceat(np.where(valid, places, len(keys)), edges)
        last = np.maximum.reduceat(np.where(valid, places, -1), edges)
        with np.errstate(all="ignore"):  # sums of what is outsized are done again
            minimum = np.fmin.reduceat(self.minimum, edges)
            maximum = np.fmax.reduceat(self.maximum, edges)
            some = np.maximum(count, 1)
            mean = np.add.reduceat(means * weight, edges) / some
            # Twice: the mean of what is left corrects the first one's rounding, and with it the squares.
            rest = np.add.reduceat((means - mean[group]) * weight, edges) / some
            mean = mean + rest
            squares = np.add.reduceat(np.where(valid, self.squares, 0.0) + weight * (means - mean[group]) ** 2, edges)
        readings = np.add.reduceat(self.readings, edges)
        late = np.add.reduceat(self.late, edges)
        bounds = np.append(edges, len(keys))
        found: dict[tuple[int, int | None], Part] = {}
        for place, edge in enumerate(edges.tolist()):
            statistics: Statistics | None = None
            first_at = last_at = 0
            if count[place]:
                peak = max(abs(float(minimum[place])), abs(float(maximum[place])))
                statistics = Statistics(
                    count=int(count[place]),
                    minimum=float(minimum[place]),
                    maximum=float(maximum[place]),
                    mean=float(mean[place]),
                    squares=float(squares[place]),
                    first=float(self.first[first[place]]),
                    last=float(self.last[last[place]]),
                )
                if peak > LARGE or 0.0 < peak < SMALL:
                    # Only readings can be outsized here: such chunks are opened.
                    statistics = Statistics.of(self.mean[bounds[place] : bounds[place + 1]].tolist())
                first_at, last_at = int(self.starts[first[place]]), int(self.ends[last[place]])
            found[int(self.owners[edge]), None if width is None else int(keys[edge]) * width] = Part(
                readings=int(readings[place]),
                late=int(late[place]),
                starts_at=int(self.starts[edge]),
                ends_at=int(self.ends[bounds[place + 1] - 1]),
                statistics=statistics,
                first_at=first_at,
                last_at=last_at,
            )
        return found


@frozen(kw_only=True)
class Summed:
    """A series whose chunks are summed up in one layer; `profile_id` is None in the raw one."""

    run_id: UUID
    capture_session_id: UUID
    series_id: int
    sensor_id: UUID
    signal: str
    profile_id: UUID | None

    @property
    def key(self) -> tuple[UUID, UUID, str, UUID | None]:
        """What the series of several sessions are counted together by."""
        return self.run_id, self.sensor_id, self.signal, self.profile_id


@frozen(kw_only=True, eq=False)
class SummedChunks:
    """Series and the chunks of all of them, as far as their headers tell; each chunk's owner is a place in `series`."""

    series: Sequence[Summed]
    positions: Integers
    spans: Spans

    def to_open(self, width: int | None) -> Flags:
        """Which chunks cannot be summed up by their statistics alone."""
        spans = self.spans
        found = spans.overlap() | spans.outsized()
        if width is not None:
            found |= spans.starts // width != spans.ends // width
        gaps = (spans.count > 0) & (spans.count < spans.readings)
        if gaps.any():
            # Only by opening it can be told when its first and last values were, as against those of other sessions.
            found |= gaps & self._meet()[spans.owners]
        return found

    def _meet(self) -> Flags:
        """Which of the series have a time in common with others that they are counted together with."""
        spans, found = self.spans, np.zeros(len(self.series), np.bool_)
        edges = np.flatnonzero(np.diff(spans.owners, prepend=-1))
        ends = np.maximum.reduceat(spans.ends, edges)
        extents: dict[object, list[tuple[int, int, int]]] = {}
        for place, owner in enumerate(spans.owners[edges].tolist()):
            extent = int(spans.starts[edges[place]]), int(ends[place]), owner
            extents.setdefault(self.series[owner].key, []).append(extent)
        for together in extents.values():
            reached, before = -math.inf, -1
            for start, end, owner in sorted(together):
                if start <= reached:
                    found[[before, owner]] = True
                if end > reached:
                    reached, before = end, owner
        return found


def when(microseconds: int | None) -> datetime | None:
    """A moment, if there is one."""
    return None if microseconds is None else moment(microseconds)
