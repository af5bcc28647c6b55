"""Grids: several series of a run at the same moments, for tables and for comparing them."""

from abc import abstractmethod
from array import array
from collections.abc import Collection, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.errors import Invalid
from experiment_domain.telemetry.store import Layer

ROWS = 10_000
"""The most rows of one page."""
COLUMNS = 100
"""The most series of one grid."""
CELLS = 100_000
"""The most values of one page: with many series a page has fewer rows."""
LONGEST = 10_000_000
"""The most rows of all pages together."""


class Fill(StrEnum):
    """What a series says between two of its values."""

    PREVIOUS = "previous"
    LINEAR = "linear"


@frozen(kw_only=True)
class Source:
    """A series of a run's sessions; `first` and `last` are its earliest and latest timestamp in microseconds.

    `profile_id` is that of its current physical layer, None where it has only the raw one.
    """

    capture_session_id: UUID
    ordinal: int
    sensor_id: UUID
    signal: str
    profile_id: UUID | None
    first: int
    last: int


@frozen(kw_only=True)
class GridColumn:
    """One sensor's signal over the sessions of a run, in one layer; `sources` are in the order of their sessions."""

    sensor_id: UUID
    signal: str
    layer: Layer
    sources: Sequence[Source]

    @property
    def name(self) -> str:
        """What the column is called."""
        return f"{self.sensor_id}/{self.signal}"


@frozen(kw_only=True)
class GridQuery:
    """Which moments: `rows` of them from `start` on, `step` apart, in microseconds.

    A value counts up to `tolerance` microseconds away from its reading, however far where that is None. `LINEAR`
    lies on the line between the values before and after, both within the tolerance.
    """

    start: int
    step: int
    rows: int
    fill: Fill = Fill.PREVIOUS
    tolerance: int | None = None


@frozen(kw_only=True)
class GridQuestion:
    """What somebody wants to see of a run; times and `step` are in microseconds, `end` is exclusive.

    `after` is where a page begins that follows another one, `limit` the most rows of it.
    """

    step: int
    start: int | None = None
    end: int | None = None
    signals: Sequence[str] = ()
    sensor_ids: Collection[UUID] = ()
    capture_session_ids: Collection[UUID] = ()
    layer: Layer | None = None
    fill: Fill = Fill.PREVIOUS
    tolerance: int | None = None
    limit: int = ROWS
    after: int | None = None

    def check(self) -> None:
        """Raise `Invalid` for what no run could answer."""
        if self.step < 1:
            raise Invalid.at("grid", "must be at least a microsecond")
        if self.tolerance is not None and self.tolerance < 0:
            raise Invalid.at("tolerance", "must not be negative")
        if not 1 <= self.limit <= ROWS:
            raise Invalid.at("limit", f"must be 1 to {ROWS:,}")
        check_range(self.start, self.end)

    def columns(self, sources: Sequence[Source], *, raw_allowed: bool) -> Sequence[GridColumn]:
        """The columns that are meant, by sensor and signal.

        Without a `layer`: physical values where a sensor's signal has any, else raw ones, if they are allowed.
        Raises `Invalid` for signals that no series has, unless there are no series yet.
        """
        found = [
            source
            for source in sources
            if (not self.sensor_ids or source.sensor_id in self.sensor_ids)
            and (not self.capture_session_ids or source.capture_session_id in self.capture_session_ids)
        ]
        known = {source.signal for source in found}
        # Several signals may stand in one text, unless it is the name of one.
        wanted = {part for text in self.signals for part in ([text] if text in known else text.split(","))}
        if found and (unknown := sorted(wanted - known)):
            raise Invalid.at("signals", f"no series that fits has the signal {unknown[0]}")
        columns = [
            column
            for (_, signal), group in groupby(found, key=lambda source: (source.sensor_id, source.signal))
            if not wanted or signal in wanted
            for column in self._column(list(group), raw_allowed=raw_allowed)
        ]
        if len(columns) > COLUMNS:
            raise Invalid.at("signals", f"{len(columns):,} series fit, at most {COLUMNS} can be read together")
        return columns

    def page(self, columns: Sequence[GridColumn]) -> "tuple[GridQuery, int | None]":
        """The moments of this page, and where the next one begins, None where this is the last.

        Raises `Invalid` where there are more than `LONGEST` from the first to the last.
        """
        sources = [source for column in columns for source in column.sources]
        start = self.start if self.start is not None else min((source.first for source in sources), default=0)
        end = self.end if self.end is not None else max((source.last for source in sources), default=start) + 1
        if -(-(end - start) // self.step) > LONGEST:
            raise Invalid.at("grid", f"makes more than {LONGEST:,} rows: take a longer one, or a part of the time")
        first = start if self.after is None else self.after
        left = max(0, -(-(end - first) // self.step)) if columns else 0
        rows = min(left, self.limit, CELLS // max(1, len(columns)))
        query = GridQuery(start=first, step=self.step, rows=rows, fill=self.fill, tolerance=self.tolerance)
        return query, first + rows * self.step if rows < left else None

    def _column(self, sources: Sequence[Source], *, raw_allowed: bool) -> "list[GridColumn]":
        physical = [source for source in sources if source.profile_id is not None]
        layer = self.layer or (Layer.PHYSICAL if physical or not raw_allowed else Layer.RAW)
        chosen = sources if layer is Layer.RAW else physical
        if not chosen:
            return []
        first = chosen[0]
        return [GridColumn(sensor_id=first.sensor_id, signal=first.signal, layer=layer, sources=chosen)]


@frozen(kw_only=True, eq=False)
class GridPage:
    """Series at the same moments: per column a value for each, NaN for none; `following` is where the next page is."""

    columns: Sequence[GridColumn]
    query: GridQuery
    values: "Sequence[array[float]]"
    following: int | None

    @property
    def moments(self) -> "array[int]":
        """The moments, in microseconds."""
        query = self.query
        return array("q", range(query.start, query.start + query.rows * query.step, query.step))


def check_range(start: int | None, end: int | None) -> None:
    """Refuse a range of time in which nothing can lie."""
    if start is not None and end is not None and start >= end:
        raise Invalid.at("end", "must be after start")


class Grids(Protocol):
    """Reads stored series at given moments."""

    @abstractmethod
    async def sources(self, run_id: UUID) -> Sequence[Source]:
        """The series of a run's sessions that are not deleted, by sensor, signal and the number of the session."""

    @abstractmethod
    async def column(self, column: GridColumn, query: GridQuery) -> "array[float]":
        """The column's value at each moment, NaN where there is none. Readings without a value are passed over.

        Where sessions overlap in time, the reading of the later session counts at a timestamp that both have.
        """
