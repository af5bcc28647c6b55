"""Accepted batches on their way into the tables, in as many statements for many of them as for one."""

from array import array
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from attrs import frozen

from experiment_adapters.postgres.statements import Statements
from experiment_adapters.postgres.telemetry.arrays import FloatArray, TimestampArray
from experiment_adapters.postgres.telemetry.merging import statistics_of
from experiment_domain.telemetry.statistics import Statistics
from experiment_domain.telemetry.store import Chunk, Intake, Receipt

NAMES = ("count", "minimum", "maximum", "mean", "squares", "first", "last")
"""The columns of the statistics of a chunk."""

_STATISTICS = ", ".join(NAMES)
_VALUES = NAMES[1:]
_RECEIPTS = """
INSERT INTO telemetry_batches (sensor_id, capture_session_id, received_at, key, digest, accepted, late, starts_at)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::text[], %s::bytea[], %s::integer[], %s::integer[],
    %s::timestamptz[])
RETURNING key
"""
_NEW_SERIES = """
INSERT INTO telemetry_series (capture_session_id, sensor_id, signal, profile_id) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""

# The readings of all chunks come as one array, of which each chunk takes its part, from where it `begins`. Numbers are
# sent as floats, which hold them exactly, for there to be one kind of array. Positions follow the order of reception;
# receipts, which are counted for them to be there first, have lower ones than chunks.
_SENT = f"""
SELECT nextval('telemetry_positions') AS position, placed.* FROM (
    SELECT series.id AS series_id, chunk.*
    FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::boolean[], %s::timestamptz[], %s::timestamptz[],
        %s::float8[]{", %s::float8[]" * len(NAMES)}) WITH ORDINALITY
        AS chunk (capture_session_id, sensor_id, signal, late, starts_at, ends_at, begins, {_STATISTICS}, place)
    JOIN telemetry_series AS series USING (capture_session_id, sensor_id, signal)
    CROSS JOIN (SELECT count(*) FROM receipts) AS kept
    ORDER BY place
) AS placed
"""
_RAW = f"""
INSERT INTO telemetry_chunks
    (transaction_id, capture_session_id, series_id, position, late, starts_at, ends_at, {_STATISTICS},
    timestamps, "values")
SELECT pg_current_xact_id(), capture_session_id, series_id, position, late, starts_at, ends_at, {_STATISTICS},
    (%s::timestamptz[])[begins::integer + 1:(begins + count)::integer],
    (%s::float8[])[begins::integer + 1:(begins + count)::integer]
FROM sent
"""
_WITHOUT_LAYERS = f"WITH receipts AS ({_RECEIPTS}), sent AS MATERIALIZED ({_SENT}) {_RAW}"
_WITH_LAYERS = f"""
WITH receipts AS ({_RECEIPTS}), sent AS MATERIALIZED ({_SENT}), raw AS ({_RAW})
INSERT INTO telemetry_physical_chunks
    (capture_session_id, series_id, position, profile_id, {_STATISTICS}, "values")
SELECT sent.capture_session_id, sent.series_id, sent.position, layer.profile_id, layer.count,
    {", ".join(f"nullif(layer.{name}, 'NaN')" for name in _VALUES)},
    CASE WHEN layer.count < sent.count THEN array_replace(part, 'NaN', NULL) ELSE part END
FROM unnest(%s::uuid[], %s::float8[], %s::float8[]{", %s::float8[]" * len(NAMES)})
    AS layer (profile_id, place, begins, {_STATISTICS})
JOIN sent USING (place)
CROSS JOIN LATERAL (
    SELECT (%s::float8[])[layer.begins::integer + 1:(layer.begins + sent.count)::integer] AS part OFFSET 0
) AS parts
"""


@frozen
class Part:
    """Values of one layer of a chunk: `of` is its number, from 1; those without a profile are the raw ones."""

    of: int
    profile_id: UUID | None
    values: "array[float]"


def append(statements: Statements, intakes: Sequence[Intake], known: Collection[tuple[UUID, UUID, str]]) -> None:
    """Keep batches in the order of their reception. `known` are series that exist, by session, sensor, signal."""
    _append_series(statements, intakes, known)
    chunks = [(intake, chunk) for intake in intakes for chunk in intake.chunks]
    raw = [Part(place, None, chunk.column.values) for place, (_, chunk) in enumerate(chunks, start=1)]
    spans = [chunk.column.timestamps for _, chunk in chunks]
    parameters: list[Any] = [
        *_columns_of_receipts([intake.receipt for intake in intakes]),
        [intake.receipt.capture_session_id for intake, _ in chunks],
        [intake.receipt.sensor_id for intake, _ in chunks],
        [chunk.column.signal for _, chunk in chunks],
        [intake.is_late for intake, _ in chunks],
        TimestampArray.of(array("q", [timestamps[0] for timestamps in spans])),
        TimestampArray.of(array("q", [timestamps[-1] for timestamps in spans])),
        *_of_parts(raw),
        TimestampArray.of(np.concatenate([np.frombuffer(timestamps, np.int64) for timestamps in spans])),
        _together(raw),
    ]
    layers = [part for place, one in enumerate(chunks, start=1) for part in _layers(place, *one)]
    if not layers:
        statements.write(_WITHOUT_LAYERS, parameters)
        return
    statements.write(
        _WITH_LAYERS,
        [
            *parameters,
            [part.profile_id for part in layers],
            FloatArray.of(array("d", [part.of for part in layers])),
            *_of_parts(layers),
            _together(layers),
        ],
    )


def columns_of_statistics(statistics: Statistics | None) -> tuple[Any, ...]:
    """The values of the columns `NAMES`."""
    if statistics is None:
        return 0, None, None, None, None, None, None
    return (
        statistics.count,
        statistics.minimum,
        statistics.maximum,
        statistics.mean,
        statistics.squares,
        statistics.first,
        statistics.last,
    )


def _columns_of_receipts(receipts: Sequence[Receipt]) -> list[Any]:
    return [
        [receipt.sensor_id for receipt in receipts],
        [receipt.capture_session_id for receipt in receipts],
        [receipt.received_at for receipt in receipts],
        [receipt.key for receipt in receipts],
        [receipt.digest for receipt in receipts],
        [receipt.accepted for receipt in receipts],
        [receipt.late for receipt in receipts],
        [receipt.starts_at for receipt in receipts],
    ]


def _append_series(
    statements: Statements, intakes: Sequence[Intake], known: Collection[tuple[UUID, UUID, str]]
) -> None:
    """Those that are new, in one order for all, so that two first batches never wait for each other in a circle."""
    new = {
        key: intake.profile_id
        for intake in intakes
        for chunk in intake.chunks
        if (key := (intake.receipt.capture_session_id, intake.receipt.sensor_id, chunk.column.signal)) not in known
    }
    for key, profile_id in sorted(new.items()):
        statements.write(_NEW_SERIES, [*key, profile_id])


def _layers(place: int, intake: Intake, chunk: Chunk) -> list[Part]:
    """The physical values of a chunk, by the profile of the current layer first."""
    if chunk.physical is None:
        return []
    others = [Part(place, profile_id, values) for profile_id, values in chunk.others.items()]
    return [Part(place, intake.profile_id, chunk.physical), *others]


def _of_parts(parts: Sequence[Part]) -> list[FloatArray]:
    """Where each of them begins in all of them together, and the columns of their statistics."""
    ends = np.cumsum([len(part.values) for part in parts])
    begins = np.concatenate(([0], ends[:-1]))
    rows = [columns_of_statistics(statistics_of(np.frombuffer(part.values))) for part in parts]
    return [FloatArray.of(begins), *map(FloatArray.of, np.array(rows, np.float64).T)]


def _together(parts: Sequence[Part]) -> FloatArray:
    return FloatArray.of(np.concatenate([np.frombuffer(part.values) for part in parts]))
