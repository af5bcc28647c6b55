"""Grids in memory: reading by reading, as plain as can be."""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from uuid import UUID

from experiment_adapters.memory.captures import MemoryCaptures
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.telemetry.grids import Fill, GridColumn, GridQuery, Grids, Source


class MemoryGrids(Grids):
    """Reads all readings of the series of a column."""

    def __init__(self, store: Store, transaction: Transaction, captures: MemoryCaptures) -> None:
        self._store = store
        self._transaction = transaction
        self._captures = captures

    async def sources(self, run_id: UUID) -> Sequence[Source]:
        self._transaction.settle()
        ordinals = {session.id: session.ordinal for session in await self._captures.of_runs([run_id])}
        found = [
            Source(
                capture_session_id=session_id,
                ordinal=ordinals[session_id],
                sensor_id=sensor_id,
                signal=signal,
                profile_id=series.profile_id,
                first=min(series.readings),
                last=max(series.readings),
            )
            for (session_id, sensor_id, signal), series in self._store.series.items()
            if session_id in ordinals and series.readings
        ]
        return sorted(found, key=lambda source: (source.sensor_id, source.signal, source.ordinal))

    async def column(self, column: GridColumn, query: GridQuery) -> "array[float]":
        self._transaction.settle()
        readings: dict[int, float] = {}
        for source in column.sources:
            series = self._store.series[source.capture_session_id, source.sensor_id, source.signal]
            found = series.values(column.layer, source.profile_id)
            readings |= {stamp: value for stamp, value in found if not math.isnan(value)}
        stamps = sorted(readings)
        moments = range(query.start, query.start + query.rows * query.step, query.step)
        return array("d", [_value(moment, stamps, readings, query) for moment in moments])


def _value(moment: int, stamps: Sequence[int], readings: dict[int, float], query: GridQuery) -> float:
    before, after = bisect_right(stamps, moment) - 1, bisect_left(stamps, moment)
    if before < 0 or (query.fill is Fill.LINEAR and after == len(stamps)):
        return math.nan
    reached = math.inf if query.tolerance is None else query.tolerance
    if moment - stamps[before] > reached:
        return math.nan
    value = readings[stamps[before]]
    if query.fill is Fill.PREVIOUS or before == after:
        return value
    if stamps[after] - moment > reached:
        return math.nan
    share = (moment - stamps[before]) / (stamps[after] - stamps[before])
    return value * (1.0 - share) + readings[stamps[after]] * share
