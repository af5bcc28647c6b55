"""Readings as they come in, in PostgreSQL: the chunks whose transactions have not been seen yet."""

from array import array
from typing import Any
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.snapshots import Window, newest, snapshot
from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.telemetry.arrays import Floats, Integers, restored
from experiment_domain.kernel.errors import Conflict
from experiment_domain.telemetry.live import LiveChunk, LivePart, LiveReadings
from experiment_domain.telemetry.store import Layer

_RAW = 'chunk."values"'
_PHYSICAL = "array_replace(physical.\"values\", NULL, 'NaN')"
_VALUES = {
    Layer.RAW: _RAW,
    Layer.PHYSICAL: _PHYSICAL,
    None: f"CASE WHEN series.profile_id IS NULL THEN {_RAW} ELSE {_PHYSICAL} END",
}

# Arrays are opened only of those chunks that are handed out: the others tell that there is more.
_CHUNKS = """
SELECT position, sensor_id, signal, profile_id, late, count,
    CASE WHEN before < %s AND number <= %s THEN timestamps END, CASE WHEN before < %s AND number <= %s THEN "values" END
FROM (
    SELECT chunk.position, sensor_id, signal, series.profile_id, late, chunk.count, timestamps, {values} AS "values",
        sum(chunk.count) OVER (ORDER BY chunk.position) - chunk.count AS before,
        row_number() OVER (ORDER BY chunk.position) AS number
    FROM (
        SELECT * FROM telemetry_chunks WHERE capture_session_id = %s AND {conditions} ORDER BY position LIMIT %s
    ) AS chunk
    JOIN telemetry_series AS series ON series.capture_session_id = chunk.capture_session_id AND series.id = series_id
    LEFT JOIN telemetry_physical_chunks AS physical ON physical.capture_session_id = chunk.capture_session_id
        AND physical.series_id = chunk.series_id AND physical.profile_id = series.profile_id
        AND physical.position = chunk.position
) AS headed ORDER BY position
"""

_AT_TIMESTAMPS = 6
"""Where the timestamps are in a row of `_CHUNKS`."""

_IS_KNOWN = """
SELECT NOT EXISTS (
    SELECT FROM telemetry_series WHERE capture_session_id = %s AND merged_through >= pg_snapshot_xmin(%s::pg_snapshot)
)
"""


class PostgresLive(LiveReadings):
    """Finds chunks by the transactions that have received them."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def latest(self, capture_session_id: UUID) -> str:  # noqa: ARG002 - a snapshot is of all sessions
        return await snapshot(self._statements)

    async def since(
        self,
        capture_session_id: UUID,
        place: str,
        *,
        layer: Layer | None,
        chunks: int,
        readings: int,
        until: str | None = None,
    ) -> LivePart:
        window = Window.parsed(place).up_to(until)
        conditions = Conditions()
        window.narrow(conditions)
        now, rows = await newest(
            self._statements,
            window,
            _CHUNKS.format(values=_VALUES[layer], conditions=" AND ".join(conditions.texts)),
            [readings, chunks, readings, chunks, capture_session_id, *conditions.parameters, chunks + 1],
        )
        # Asked afterwards: what has been merged meanwhile may be missing from what was found.
        known = await self._statements.ask(_IS_KNOWN, [capture_session_id, window.seen]).value()
        if now is None or not known:
            raise Conflict("place_lost", "What was received since then is not known batch by batch any more.")
        found = [row for row in rows if row[_AT_TIMESTAMPS] is not None]
        more = len(found) < len(rows)
        places = window.behind([row[0] for row in found], now, more=more)
        live = [_live(row, layer, place) for row, place in zip(found, places, strict=True)]
        end = places[-1] if more else window.end(now)
        return LivePart(chunks=_wanted(live, layer), place=end, more=more or window.ends_before(until, now))


def _wanted(chunks: list[LiveChunk], layer: Layer | None) -> list[LiveChunk]:
    """Those that are of the layer: a series without a physical one has no physical values."""
    return [chunk for chunk in chunks if layer in (None, chunk.layer)]


def _live(row: Row, layer: Layer | None, place: str) -> LiveChunk:
    position, sensor_id, signal, profile_id, late, count, kept, values = row
    if layer is Layer.RAW:
        profile_id = None
    return LiveChunk(
        position=position,
        place=place,
        sensor_id=sensor_id,
        signal=signal,
        layer=Layer.RAW if profile_id is None else Layer.PHYSICAL,
        profile_id=profile_id,
        is_late=late,
        timestamps=_array("q", restored(kept, count)),
        values=_array("d", values),
    )


def _array(kind: str, values: "Floats | Integers | None") -> "array[Any]":
    """A series without the layer that is asked for has no values at all."""
    return array(kind, b"" if values is None else values.tobytes())
