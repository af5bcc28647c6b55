"""Physical layers in PostgreSQL: which are whole, and the chunks of those that backfills make."""

from array import array
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np

from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.telemetry.appending import NAMES, columns_of_statistics
from experiment_adapters.postgres.telemetry.arrays import FloatArray, Floats
from experiment_adapters.postgres.telemetry.merging import statistics_of
from experiment_domain.backfills import Place
from experiment_domain.telemetry.layers import LayerName, PhysicalChunk, PhysicalLayers, Portion, RawChunk, Sweep

_LACKS = """NOT EXISTS (
    SELECT FROM telemetry_physical_chunks AS physical
    WHERE physical.capture_session_id = chunk.capture_session_id AND physical.series_id = chunk.series_id
        AND physical.profile_id = %s AND physical.position = chunk.position
)"""
_SERIES = "SELECT id FROM telemetry_series WHERE capture_session_id = %s AND sensor_id = %s"
_HOLD = f"{_SERIES} ORDER BY id FOR NO KEY UPDATE"
"""Keeps the chunks of a sensor from being merged while they are converted; batches only add to them."""
_COUNT = f"""
SELECT count(*) FROM telemetry_chunks WHERE capture_session_id = %s AND series_id IN ({_SERIES})
"""
# The series are told one by one, each with a part of the index: a condition on the pair alone would read all chunks of
# the session, those of other sensors too, to sort them.
_SWEEP = f"""
SELECT chunk.series_id, chunk.position, chunk.count, {_LACKS}
FROM ({_SERIES} AND id >= %s ORDER BY id) AS series CROSS JOIN LATERAL (
    SELECT * FROM telemetry_chunks
    WHERE capture_session_id = %s AND series_id = series.id AND position > CASE WHEN series.id = %s THEN %s ELSE 0 END
    ORDER BY position LIMIT %s
) AS chunk
ORDER BY series.id, chunk.position LIMIT %s
"""
_MISSING = f"""
SELECT chunk.series_id, chunk.position, chunk.count, true
FROM telemetry_chunks AS chunk
WHERE chunk.capture_session_id = %s AND chunk.series_id IN ({_SERIES}) AND {_LACKS}
ORDER BY chunk.series_id, chunk.position LIMIT %s
"""
_VALUES = """
SELECT series_id, position, chunk.values FROM telemetry_chunks AS chunk
JOIN unnest(%s::bigint[], %s::bigint[]) AS wanted (series_id, position) USING (series_id, position)
WHERE capture_session_id = %s
"""
_ADD = f"""
INSERT INTO telemetry_physical_chunks
    (capture_session_id, series_id, profile_id, position, {", ".join(NAMES)}, "values")
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {{values}})
"""
_WHOLE = _ADD.format(values="%s")
_WITH_GAPS = _ADD.format(values="array_replace(%s::float8[], 'NaN', NULL)")


class PostgresLayers(PhysicalLayers):
    """Keeps which layers are whole in `telemetry_layers`, their values in `telemetry_physical_chunks`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def chunks(self, capture_session_id: UUID, sensor_id: UUID) -> int:
        return await self._statements.ask(_COUNT, [capture_session_id, capture_session_id, sensor_id]).value()

    async def current(self, capture_session_id: UUID, sensor_id: UUID) -> UUID | None:
        row = await self._statements.ask(
            "SELECT coalesce(layer.profile_id, pin.profile_id) FROM capture_session_pins AS pin"
            " LEFT JOIN telemetry_layers AS layer ON layer.capture_session_id = pin.capture_session_id"
            " AND layer.sensor_id = pin.sensor_id AND layer.is_current"
            " WHERE pin.capture_session_id = %s AND pin.sensor_id = %s",
            [capture_session_id, sensor_id],
        ).row()
        return None if row is None else row[0]

    async def sweep(self, layer: LayerName, portion: Portion, after: Place | None) -> Sweep:
        self._statements.write(_HOLD, [layer.capture_session_id, layer.sensor_id])
        series, position = after or (0, 0)
        session = layer.capture_session_id
        most = portion.chunks + 1
        headers = await self._statements.ask(
            _SWEEP,
            [layer.profile_id, session, layer.sensor_id, series, session, series, position, most, most],
        ).rows()
        return await self._part(layer, portion, headers)

    async def missing(self, layer: LayerName, portion: Portion) -> Sweep:
        session = layer.capture_session_id
        self._statements.write(_HOLD, [session, layer.sensor_id])
        headers = await self._statements.ask(
            _MISSING, [session, session, layer.sensor_id, layer.profile_id, portion.chunks + 1]
        ).rows()
        return await self._part(layer, portion, headers)

    def add(self, layer: LayerName, chunks: Sequence[PhysicalChunk]) -> None:
        for chunk in chunks:
            series, position = chunk.place
            physical = np.frombuffer(chunk.values)
            statistics = statistics_of(physical)
            self._statements.write(
                _WHOLE if statistics is not None and statistics.count == len(physical) else _WITH_GAPS,
                [
                    *(layer.capture_session_id, series, layer.profile_id, position),
                    *columns_of_statistics(statistics),
                    FloatArray.of(physical),
                ],
            )

    def make_current(self, layer: LayerName) -> None:
        sensor: list[Any] = [layer.capture_session_id, layer.sensor_id]
        # The layer of the pin has a row from now on: it is no longer the only one.
        self._statements.write(
            "INSERT INTO telemetry_layers (capture_session_id, sensor_id, profile_id, is_current)"
            " SELECT capture_session_id, sensor_id, profile_id, false FROM capture_session_pins"
            " WHERE capture_session_id = %s AND sensor_id = %s AND profile_id IS NOT NULL ON CONFLICT DO NOTHING",
            sensor,
        )
        self._statements.write(
            "UPDATE telemetry_layers SET is_current = false"
            " WHERE capture_session_id = %s AND sensor_id = %s AND is_current",
            sensor,
        )
        self._statements.write(
            "INSERT INTO telemetry_layers (capture_session_id, sensor_id, profile_id, is_current)"
            " VALUES (%s, %s, %s, true)"
            " ON CONFLICT (capture_session_id, sensor_id, profile_id) DO UPDATE SET is_current = true",
            [*sensor, layer.profile_id],
        )
        self._statements.write(
            "UPDATE telemetry_series SET profile_id = %s WHERE capture_session_id = %s AND sensor_id = %s",
            [layer.profile_id, *sensor],
        )

    async def _part(self, layer: LayerName, portion: Portion, headers: Sequence[Row]) -> Sweep:
        """As many of the chunks as fit into a portion; there is one header more than that, if there are more."""
        seen = portion.fitting(count for _, _, count, _ in headers)
        lacking = [(series, position) for series, position, _, is_lacking in headers[:seen] if is_lacking]
        return Sweep(
            seen=seen,
            missing=await self._opened(layer, lacking),
            next=None if seen == len(headers) else headers[seen - 1][:2],
        )

    async def _opened(self, layer: LayerName, places: Sequence[Place]) -> list[RawChunk]:
        if not places:
            return []
        answer = self._statements.ask(
            _VALUES,
            [[series for series, _ in places], [position for _, position in places], layer.capture_session_id],
        )
        return [
            RawChunk(place=(series, position), values=_array(values))
            for series, position, values in await answer.rows()
        ]


def _array(values: Floats) -> "array[float]":
    return array("d", values.tobytes())
