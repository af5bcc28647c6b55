"""Summaries of series: from the statistics of chunks, opening only those that overlap in time."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from attrs import evolve, frozen

from experiment_adapters.postgres.statements import Statements
from experiment_adapters.postgres.telemetry.merging import Merged, Opened, merge, statistics_of
from experiment_domain.telemetry.batches import micros, moment
from experiment_domain.telemetry.statistics import Statistics
from experiment_domain.telemetry.store import Layer

# Chunks of a series in the order of time fall into islands that do not overlap. Those of islands of one are summed
# up here; the positions of the others are handed out, to be opened, and so are those of values so large or small that
# PostgreSQL, which refuses to round to infinity or zero, could not sum them up.
_SUMMARIES = """
WITH chunks AS (
    SELECT series.capture_session_id, series.id AS series_id, series.sensor_id, series.signal, series.profile_id,
        chunk.position, chunk.late, chunk.starts_at, chunk.ends_at, chunk.count AS readings,
        {statistics},
        lead(chunk.starts_at) OVER by_time AS next_starts_at,
        max(chunk.ends_at) OVER (by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM telemetry_series AS series
    JOIN telemetry_chunks AS chunk
        ON chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id
    {join}
    WHERE {where}
    WINDOW by_time AS (
        PARTITION BY series.capture_session_id, series.id ORDER BY chunk.starts_at, chunk.position
    )
), sorted AS (
    SELECT *, coalesce(reached >= starts_at, false) OR coalesce(next_starts_at <= ends_at, false)
        OR greatest(abs(minimum), abs(maximum)) > 1e140
        OR greatest(abs(minimum), abs(maximum)) BETWEEN 5e-324 AND 1e-140 AS opened
    FROM chunks
), apart AS (
    SELECT capture_session_id, series_id,
        sum(readings) AS readings, sum(readings) FILTER (WHERE late) AS late,
        min(starts_at) AS starts_at, max(ends_at) AS ends_at,
        sum(count) AS count, min(minimum) AS minimum, max(maximum) AS maximum,
        CASE WHEN abs(sum(mean * count)) > 1e-290 THEN sum(mean * count) / sum(count) ELSE 0 END AS mean,
        (array_agg(first ORDER BY starts_at) FILTER (WHERE count > 0))[1] AS first,
        (array_agg(last ORDER BY starts_at DESC) FILTER (WHERE count > 0))[1] AS last,
        min(starts_at) FILTER (WHERE count > 0) AS first_at, max(ends_at) FILTER (WHERE count > 0) AS last_at
    FROM sorted WHERE NOT coalesce(opened, false) GROUP BY capture_session_id, series_id
), spread AS (
    SELECT capture_session_id, series_id,
        sum(sorted.squares + CASE
            WHEN abs(sorted.mean - apart.mean) > 1e-150 THEN sorted.count * (sorted.mean - apart.mean) ^ 2 ELSE 0
        END) AS squares
    FROM sorted JOIN apart USING (capture_session_id, series_id)
    WHERE NOT coalesce(opened, false) AND sorted.count > 0 GROUP BY capture_session_id, series_id
), overlapping AS (
    SELECT capture_session_id, series_id, array_agg(position ORDER BY starts_at, position) AS positions
    FROM sorted WHERE opened GROUP BY capture_session_id, series_id
), named AS (
    SELECT DISTINCT capture_session_id, series_id, sensor_id, signal, profile_id FROM chunks
)
SELECT named.*, apart.readings::bigint, coalesce(apart.late, 0)::bigint, apart.starts_at, apart.ends_at,
    apart.count::bigint, apart.minimum, apart.maximum, apart.mean, spread.squares, apart.first, apart.last,
    apart.first_at, apart.last_at, overlapping.positions
FROM named
LEFT JOIN apart USING (capture_session_id, series_id)
LEFT JOIN spread USING (capture_session_id, series_id)
LEFT JOIN overlapping USING (capture_session_id, series_id)
ORDER BY sensor_id, signal, capture_session_id
"""

_PHYSICAL = """
    {kind} JOIN telemetry_physical_chunks AS physical
        ON physical.capture_session_id = series.capture_session_id AND physical.series_id = series.id
        AND physical.profile_id = series.profile_id AND physical.position = chunk.position
"""

_JOINS = {Layer.RAW: "", Layer.PHYSICAL: _PHYSICAL.format(kind=""), None: _PHYSICAL.format(kind="LEFT")}
_NAMES = ("count", "minimum", "maximum", "mean", "squares", "first", "last")
_STATISTICS = {
    Layer.RAW: ", ".join(f"chunk.{name}" for name in _NAMES),
    Layer.PHYSICAL: ", ".join(f"physical.{name}" for name in _NAMES),
    None: ", ".join(
        f"CASE WHEN series.profile_id IS NULL THEN chunk.{name} ELSE physical.{name} END AS {name}" for name in _NAMES
    ),
}

OPENED_AT_ONCE = 500
"""How many chunks are opened in one query."""


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
        starts = [at for at in (self.starts_at, other.starts_at) if at is not None]
        ends = [at for at in (self.ends_at, other.ends_at) if at is not None]
        part = Part(
            readings=self.readings + other.readings,
            late=self.late + other.late,
            starts_at=min(starts, default=None),
            ends_at=max(ends, default=None),
        )
        if self.statistics is None or other.statistics is None:
            one = self if self.statistics is not None else other
            return evolve(part, statistics=one.statistics, first_at=one.first_at, last_at=one.last_at)
        first = self if self.first_at <= other.first_at else other
        last = self if self.last_at > other.last_at else other
        assert first.statistics is not None  # noqa: S101
        assert last.statistics is not None  # noqa: S101
        statistics = evolve(
            self.statistics.then(other.statistics), first=first.statistics.first, last=last.statistics.last
        )
        return evolve(part, statistics=statistics, first_at=first.first_at, last_at=last.last_at)


@frozen(kw_only=True)
class Summary:
    """A series and what is known of its readings in one layer."""

    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    profile_id: UUID | None
    part: Part


async def summaries(
    statements: Statements, where: str, parameters: Sequence[Any], layer: Layer | None
) -> list[Summary]:
    """The series that a condition names, by sensor and signal; in the physical layer those that have one.

    Without a `layer`, those that have no physical one are summed up by their raw values.
    """
    sql = _SUMMARIES.format(where=where, statistics=_STATISTICS[layer], join=_JOINS[layer])
    found: list[Summary] = []
    for row in await statements.ask(sql, parameters).rows():
        session_id, series_id, sensor_id, signal, profile_id, *apart, positions = row
        part = _part(*apart)
        if positions:
            part = part.joined(
                await _overlapping(
                    statements, session_id, series_id, positions, None if layer is Layer.RAW else profile_id
                )
            )
        found.append(
            Summary(
                capture_session_id=session_id,
                sensor_id=sensor_id,
                signal=signal,
                profile_id=profile_id,
                part=part,
            )
        )
    return found


def _part(
    readings: int | None,
    late: int,
    starts_at: datetime | None,
    ends_at: datetime | None,
    count: int | None,
    minimum: float,
    maximum: float,
    mean: float,
    squares: float,
    first: float,
    last: float,
    first_at: datetime,
    last_at: datetime,
) -> Part:
    if readings is None or starts_at is None or ends_at is None:
        return Part()
    part = Part(readings=readings, late=late, starts_at=micros(starts_at), ends_at=micros(ends_at))
    if not count:
        return part
    statistics = Statistics(
        count=count, minimum=minimum, maximum=maximum, mean=mean, squares=squares, first=first, last=last
    )
    return evolve(part, statistics=statistics, first_at=micros(first_at), last_at=micros(last_at))


async def _overlapping(
    statements: Statements, session_id: UUID, series_id: int, positions: Sequence[int], profile_id: UUID | None
) -> Part:
    """The summary of chunks that overlap, island by island so that few are open at once."""
    part = Part()
    island: list[Opened] = []
    reached: int | None = None
    for start in range(0, len(positions), OPENED_AT_ONCE):
        for chunk in await opened(
            statements, session_id, series_id, positions[start : start + OPENED_AT_ONCE], profile_id
        ):
            if reached is not None and chunk.timestamps[0] > reached:
                part = part.joined(_part_of(merge(island)))
                island = []
            island.append(chunk)
            reached = max(int(chunk.timestamps[-1]), reached if reached is not None else int(chunk.timestamps[-1]))
    return part.joined(_part_of(merge(island)))


async def opened(
    statements: Statements,
    session_id: UUID,
    series_id: int,
    positions: Sequence[int],
    profile_id: UUID | None,
) -> list[Opened]:
    """Chunks with their arrays, in the order of time; physical values where a profile is named, else raw ones."""
    values = "chunk.values"
    join = ""
    parameters: list[Any] = [session_id, series_id, list(positions)]
    if profile_id is not None:
        values = "array_replace(physical.values, NULL, 'NaN')"
        join = "JOIN telemetry_physical_chunks AS physical USING (capture_session_id, series_id, position)"
        parameters.append(profile_id)
    answer = statements.ask(
        f"SELECT position, chunk.late, chunk.timestamps, {values} FROM telemetry_chunks AS chunk {join}"
        " WHERE capture_session_id = %s AND series_id = %s AND position = ANY(%s)"
        f"{' AND profile_id = %s' if profile_id is not None else ''} ORDER BY chunk.starts_at, position",
        parameters,
    )
    return [
        Opened(position=position, late=late, timestamps=timestamps, values=found)
        for position, late, timestamps, found in await answer.rows()
    ]


def _part_of(merged: Merged) -> Part:
    present = ~np.isnan(merged.values)
    stamps = merged.timestamps[present]
    return Part(
        readings=len(merged.timestamps),
        late=int(merged.late.sum()),
        starts_at=int(merged.timestamps[0]),
        ends_at=int(merged.timestamps[-1]),
        statistics=statistics_of(merged.values),
        first_at=int(stamps[0]) if len(stamps) else 0,
        last_at=int(stamps[-1]) if len(stamps) else 0,
    )


def joined(parts: Iterable[Part]) -> Part:
    """All parts together."""
    whole = Part()
    for part in parts:
        whole = whole.joined(part)
    return whole


def when(microseconds: int | None) -> datetime | None:
    """A moment, if there is one."""
    return None if microseconds is None else moment(microseconds)
