"""Accepted batches on their way into the tables, in as many statements for many of them as for one."""

from array import array
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any
from uuid import UUID

import numpy as np
from attrs import frozen

from experiment_adapters.postgres.captures import lock_key
from experiment_adapters.postgres.statements import Answer, Statements
from experiment_adapters.postgres.telemetry.arrays import (
    FloatArray,
    Floats,
    PackedArray,
    TimestampArray,
    shortened,
)
from experiment_adapters.postgres.telemetry.merging import statistics_of
from experiment_domain.sensors import SIGN_OF_LIFE_EVERY
from experiment_domain.telemetry.statistics import LARGE, SMALL, Statistics
from experiment_domain.telemetry.store import Chunk, Intake, Presumed
from experiment_domain.vigils import READINGS_COUNT_EVERY

NAMES = ("count", "minimum", "maximum", "mean", "squares", "first", "last")
"""The columns of the statistics of a chunk."""

_STATISTICS = ", ".join(NAMES)
_VALUES = NAMES[1:]
_ALL_BATCHES = """
SELECT batch.* FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::bytea[], %s::bigint[], %s::bigint[],
    %s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY
    AS batch (sensor_id, capture_session_id, key, digest, accepted, late, received_at, starts_at, place)
"""
# What `Presumed.holds_by` says. The function takes locks, and then asks of what was committed by then: so the statement
# that keeps what holds can be a transaction of its own.
_BATCHES_THAT_HOLD = f"""
{_ALL_BATCHES}
JOIN batches_that_hold(%s::uuid[], %s::uuid[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[],
    %s::bigint[], %s::timestamptz[], %s::float8[], %s::uuid[], %s, %s) AS holding (place)
    ON holding.place = batch.place
"""
_NEW_SERIES = """
INSERT INTO telemetry_series (capture_session_id, sensor_id, signal, profile_id) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""

# The readings of all chunks come as one array, of which each chunk takes its part, from where it `begins`; what is kept
# of their timestamps as another one. Numbers are sent as floats, which hold them exactly, for there to be one kind of
# array. Positions follow the order of reception; receipts, which are counted for them to be there first, have lower
# ones than chunks. A chunk without a series is no row that can be inserted: nothing is, then. Series are found one
# by one: joined to both sides that name them, all those of a session may be read for each chunk.
_SENT = f"""
SELECT nextval('telemetry_positions') AS position, placed.* FROM (
    SELECT capture_session_id, (
        SELECT id FROM telemetry_series AS series WHERE series.capture_session_id = batches.capture_session_id
            AND series.sensor_id = batches.sensor_id AND series.signal = chunk.signal
    ) AS series_id, chunk.*
    FROM unnest(%s::float8[], %s::text[], %s::boolean[], %s::timestamptz[], %s::timestamptz[],
        %s::float8[], %s::float8[], %s::float8[]{", %s" * len(NAMES)}) WITH ORDINALITY
        AS chunk (batch, signal, late, starts_at, ends_at, kept_from, kept_to, begins, {_STATISTICS}, place)
    JOIN batches ON batches.place = chunk.batch
    CROSS JOIN (SELECT count(*) FROM receipts) AS counted
    ORDER BY place
) AS placed
"""
_RAW = f"""
INSERT INTO telemetry_chunks
    (transaction_id, capture_session_id, series_id, position, late, starts_at, ends_at, {_STATISTICS},
    timestamps, "values")
SELECT pg_current_xact_id(), capture_session_id, series_id, position, late, starts_at, ends_at, {_STATISTICS},
    (%s::timestamptz[])[kept_from::integer + 1:kept_to::integer],
    (%s::float8[])[begins::integer + 1:(begins + count)::integer]
FROM sent
"""
_PHYSICAL = f"""
INSERT INTO telemetry_physical_chunks
    (capture_session_id, series_id, position, profile_id, {_STATISTICS}, "values")
SELECT sent.capture_session_id, sent.series_id, sent.position, layer.profile_id, layer.count,
    {", ".join(f"nullif(layer.{name}, 'NaN')" for name in _VALUES)},
    CASE WHEN layer.count < sent.count THEN array_replace(part, 'NaN', NULL) ELSE part END
FROM unnest(%s::uuid[], %s::float8[], %s::float8[]{", %s" * len(NAMES)})
    AS layer (profile_id, place, begins, {_STATISTICS})
JOIN sent USING (place)
CROSS JOIN LATERAL (
    SELECT (%s::float8[])[layer.begins::integer + 1:(layer.begins + sent.count)::integer] AS part OFFSET 0
) AS parts
"""


def _keeping(selection: str, *, with_layers: bool) -> str:
    """The statement that keeps those batches that a selection yields, and tells which they are."""
    physical = f", physical AS ({_PHYSICAL})" if with_layers else ""
    statement = f"""
    WITH batches AS MATERIALIZED ({selection}), receipts AS (
        INSERT INTO telemetry_batches
            (sensor_id, capture_session_id, key, digest, accepted, late, received_at, starts_at)
        SELECT sensor_id, capture_session_id, key, digest, accepted, late, received_at, starts_at FROM batches
        ORDER BY place RETURNING key
    ), sent AS MATERIALIZED ({_SENT}), raw AS ({_RAW}){physical}
    SELECT place FROM batches
    """
    # In one of more than 4,096 characters, or 50 parameters, psycopg looks for these each time that it is sent.
    return " ".join(statement.split())


_KEEPING = {with_layers: _keeping(_ALL_BATCHES, with_layers=with_layers) for with_layers in (False, True)}
_KEEPING_PRESUMED = {
    with_layers: _keeping(_BATCHES_THAT_HOLD, with_layers=with_layers) for with_layers in (False, True)
}


@frozen
class Part:
    """Values of one layer of a chunk: `of` is its number, from 1; those without a profile are the raw ones."""

    of: int
    profile_id: UUID | None
    values: "array[float]"


def append(statements: Statements, intakes: Sequence[Intake], known: Collection[tuple[UUID, UUID, str]]) -> None:
    """Keep batches in the order of their reception. `known` are series that exist, by session, sensor, signal."""
    _append_series(statements, intakes, known)
    chunks, layers = _columns_of_chunks(intakes)
    statements.write(_KEEPING[bool(layers)], [*_columns_of_receipts(intakes), *chunks, *layers])


def append_presumed(statements: Statements, presumed: Sequence[Presumed]) -> Answer:
    """Keep those batches of which what was presumed holds; asked, in the end, for their numbers, from 1."""
    intakes = [one.intake for one in presumed]
    receipts = _columns_of_receipts(intakes)
    sensor_ids, session_ids, keys, _, _, _, received_at, starts_at = receipts
    # Columns of the receipts are sent twice: a function cannot be given those of another table.
    asked = [
        sensor_ids,
        session_ids,
        keys,
        received_at,
        starts_at,
        PackedArray.of_integers([lock_key(intake.receipt.capture_session_id) for intake in intakes]),
        PackedArray.of_integers([one.sensor.version for one in presumed]),
        PackedArray.of_moments([one.sensor.updated_at for one in presumed]),
        FloatArray.of(array("d", [one.future_tolerance for one in presumed])),
        PackedArray.of_uuids([intake.profile_id for intake in intakes]),
        SIGN_OF_LIFE_EVERY,
        READINGS_COUNT_EVERY,
    ]
    chunks, layers = _columns_of_chunks(intakes)
    parameters = [*receipts, *asked, *chunks, *layers]
    return statements.ask(_KEEPING_PRESUMED[bool(layers)], parameters)


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


def _columns_of_receipts(intakes: Sequence[Intake]) -> list[PackedArray]:
    receipts = [intake.receipt for intake in intakes]
    return [
        PackedArray.of_uuids([receipt.sensor_id for receipt in receipts]),
        PackedArray.of_uuids([receipt.capture_session_id for receipt in receipts]),
        PackedArray.of_texts([receipt.key for receipt in receipts]),
        PackedArray.of_bytes([receipt.digest for receipt in receipts]),
        PackedArray.of_integers([receipt.accepted for receipt in receipts]),
        PackedArray.of_integers([receipt.late for receipt in receipts]),
        PackedArray.of_moments([receipt.received_at for receipt in receipts]),
        PackedArray.of_moments([receipt.starts_at for receipt in receipts]),
    ]


def _columns_of_chunks(intakes: Sequence[Intake]) -> tuple[list[Any], list[Any]]:
    """The parameters that tell of the raw values of all chunks, and of their physical ones, if there are any."""
    chunks = [(batch, intake, chunk) for batch, intake in enumerate(intakes, start=1) for chunk in intake.chunks]
    raw = [Part(place, None, chunk.column.values) for place, (_, _, chunk) in enumerate(chunks, start=1)]
    spans = [np.frombuffer(chunk.column.timestamps, np.int64) for _, _, chunk in chunks]
    kept = list(map(shortened, spans))
    kept_to = list(accumulate(map(len, kept)))
    kept_from = [0, *kept_to[:-1]]
    values, rows = _values_of(raw)
    numbers = [(batch, start, end) for (batch, _, _), start, end in zip(chunks, kept_from, kept_to, strict=True)]
    batches, *others = FloatArray.of_columns(np.column_stack([numbers, rows]))
    columns = [
        batches,
        PackedArray.of_texts([chunk.column.signal for _, _, chunk in chunks]),
        PackedArray.of_booleans([intake.is_late for _, intake, _ in chunks]),
        TimestampArray.of(np.array([timestamps[0] for timestamps in spans])),
        TimestampArray.of(np.array([timestamps[-1] for timestamps in spans])),
        *others,
        TimestampArray.of(np.concatenate(kept)),
        FloatArray.of(values),
    ]
    layers = [
        part for place, (_, intake, chunk) in enumerate(chunks, start=1) for part in _layers(place, intake, chunk)
    ]
    if not layers:
        return columns, []
    values, rows = _values_of(layers)
    return columns, [
        PackedArray.of_uuids([part.profile_id for part in layers]),
        *FloatArray.of_columns(np.column_stack([[part.of for part in layers], rows])),
        FloatArray.of(values),
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


def _values_of(parts: Sequence[Part]) -> tuple[Floats, Floats]:
    """All values, and a row for each of these parts of them: where it begins, and the columns of its statistics."""
    values = np.concatenate([np.frombuffer(part.values) for part in parts])
    lengths = [len(part.values) for part in parts]
    begins = np.cumsum([0, *lengths[:-1]])
    statistics = _statistics_of_rows(values.reshape(len(parts), -1)) if len(set(lengths)) == 1 else None
    if statistics is None:
        each = map(statistics_of, np.split(values, begins[1:]))
        # None becomes NaN, which the statement makes null again.
        statistics = np.array([columns_of_statistics(one) for one in each], np.float64)
    return values, np.column_stack([begins, statistics])


def _statistics_of_rows(table: Floats) -> Floats | None:
    """The columns `NAMES` of all rows at once, as `statistics_of` has them of each.

    None where a row has no value somewhere, or values whose squares overflow or vanish.
    """
    minima, maxima = np.minimum.reduce(table, axis=1), np.maximum.reduce(table, axis=1)
    peaks = np.maximum(-minima, maxima)
    if not ((peaks >= SMALL) & (peaks <= LARGE) | (peaks == 0.0)).all():  # none of it holds of NaN
        return None
    count = table.shape[1]
    means = np.add.reduce(table, axis=1) / count
    apart = table - means[:, None]
    squares = [row @ row for row in apart]
    return np.column_stack([np.full(len(table), count), minima, maxima, means, squares, table[:, 0], table[:, -1]])
