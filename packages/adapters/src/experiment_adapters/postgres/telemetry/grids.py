"""Series at given moments: chunks are opened where a moment lies within them, of others the ends are enough."""

from array import array
from collections.abc import Sequence
from uuid import UUID

import numpy as np

from experiment_adapters.postgres.statements import Statements
from experiment_adapters.postgres.telemetry.arrays import Floats, Integers
from experiment_adapters.postgres.telemetry.headers import Stored, headers, merged
from experiment_adapters.postgres.telemetry.merging import Merged
from experiment_domain.telemetry.batches import EARLIEST, LATEST, micros
from experiment_domain.telemetry.grids import Fill, GridColumn, GridQuery, Grids, Source

_SOURCES = """
SELECT session.id, session.ordinal, series.sensor_id, series.signal, series.profile_id,
    min(chunk.starts_at), max(chunk.ends_at)
FROM capture_sessions AS session
JOIN telemetry_series AS series ON series.capture_session_id = session.id
JOIN telemetry_chunks AS chunk ON chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id
WHERE session.run_id = %s AND session.deleted_at IS NULL
GROUP BY session.id, session.ordinal, series.sensor_id, series.signal, series.profile_id
ORDER BY series.sensor_id, series.signal, session.ordinal
"""

Readings = tuple[Integers, Floats]
"""Timestamps that do not fall, and values."""


class PostgresGrids(Grids):
    """Looks values up in `telemetry_chunks` and `telemetry_physical_chunks`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def sources(self, run_id: UUID) -> Sequence[Source]:
        rows = await self._statements.ask(_SOURCES, [run_id]).rows()
        return [
            Source(
                capture_session_id=session_id,
                ordinal=ordinal,
                sensor_id=sensor_id,
                signal=signal,
                profile_id=profile_id,
                first=micros(first),
                last=micros(last),
            )
            for session_id, ordinal, sensor_id, signal, profile_id, first, last in rows
        ]

    async def column(self, column: GridColumn, query: GridQuery) -> "array[float]":
        self._statements.hold_still()
        moments = query.start + np.arange(query.rows, dtype=np.int64) * query.step
        parts: list[Readings] = []
        for source in column.sources:
            stored = Stored(
                capture_session_id=source.capture_session_id,
                sensor_id=source.sensor_id,
                signal=source.signal,
                layer=column.layer,
                profile_id=source.profile_id,
            )
            parts.append(await self._around(stored, moments, query))
        timestamps = np.concatenate([stamps for stamps, _ in parts])
        values = np.concatenate([values for _, values in parts])
        # A stable sort keeps the order of the sessions within a timestamp: the last one counts.
        order = np.argsort(timestamps, kind="stable")
        return array("d", _values(moments, timestamps[order], values[order], query).tolist())

    async def _around(self, stored: Stored, moments: Integers, query: GridQuery) -> Readings:
        """The readings of a series right before and behind the moments, and perhaps more."""
        start, end = None, None
        if query.tolerance is not None:
            start = max(EARLIEST, int(moments[0]) - query.tolerance)
            end = int(moments[-1]) + (query.tolerance if query.fill is Fill.LINEAR else 0) + 1
        elif query.fill is Fill.PREVIOUS:
            end = int(moments[-1]) + 1
        end = None if end is None or end > LATEST else end
        found = await headers(self._statements, stored, start=start, end=end)
        if found is None:
            return np.empty(0, np.int64), np.empty(0)
        islands = found.islands()
        lone = np.bincount(islands)[islands] == 1
        # How many moments lie behind the first reading of each chunk, and before its last.
        crossed = np.searchsorted(moments, found.ends, "left") > np.searchsorted(moments, found.starts, "right")
        ends_only = lone & ~crossed & (found.counts == found.readings)
        parts: list[Readings] = [
            (found.starts[ends_only], found.firsts[ends_only]),
            (found.ends[ends_only], found.lasts[ends_only]),
        ]
        for places in (np.flatnonzero(lone & ~ends_only & (found.counts > 0)), np.flatnonzero(~lone)):
            parts.extend([_near(moments, part) async for part in merged(self._statements, found, places)])
        timestamps = np.concatenate([stamps for stamps, _ in parts])
        return timestamps, np.concatenate([values for _, values in parts])


def _near(moments: Integers, merged: Merged) -> Readings:
    """Of these readings those that have a value and are the next ones to a moment, on either side."""
    present = ~np.isnan(merged.values)
    timestamps, values = merged.timestamps[present], merged.values[present]
    if not len(timestamps):
        return timestamps, values
    before = np.searchsorted(timestamps, moments, "right") - 1
    near = np.unique(np.clip(np.concatenate((before, before + 1, [0, len(timestamps) - 1])), 0, len(timestamps) - 1))
    return timestamps[near], values[near]


def _values(moments: Integers, timestamps: Integers, values: Floats, query: GridQuery) -> Floats:
    found = np.full(len(moments), np.nan)
    before = np.searchsorted(timestamps, moments, "right") - 1
    known = before >= 0
    if query.tolerance is not None and len(timestamps):
        known &= moments - timestamps[before] <= query.tolerance
    if query.fill is Fill.PREVIOUS:
        found[known] = values[before[known]]
        return found
    exact = known.copy()
    exact[known] = timestamps[before[known]] == moments[known]
    found[exact] = values[before[exact]]
    # The first of equal timestamps behind a moment is not the one that counts: the last of them is.
    behind = np.searchsorted(timestamps, moments, "right")
    between = known & ~exact & (behind < len(timestamps))
    after = np.searchsorted(timestamps, timestamps[behind[between]], "right") - 1
    places = np.flatnonzero(between)
    if query.tolerance is not None:
        near = timestamps[after] - moments[places] <= query.tolerance
        places, after = places[near], after[near]
    first, last = timestamps[before[places]], timestamps[after]
    share = (moments[places] - first) / (last - first)
    found[places] = values[before[places]] * (1.0 - share) + values[after] * share
    return found
