"""Compaction in PostgreSQL: chunks merged with all their layers, and receipts put away as marks."""

from array import array
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from experiment_adapters.postgres.captures import lock_key
from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.telemetry.appending import NAMES, columns_of_statistics
from experiment_adapters.postgres.telemetry.arrays import (
    FloatArray,
    Floats,
    Integers,
    TimestampArray,
    restored,
    shortened,
)
from experiment_adapters.postgres.telemetry.merging import statistics_of
from experiment_domain.telemetry.batches import moment
from experiment_domain.telemetry.compaction import FULL, ChunkHeader, Compaction, Pile, choose, mark

_PILES = """
SELECT capture_session_id, sensor_id, coalesce(max(position) FILTER (WHERE received_at < %s), 0),
    max(received_at) < %s AS is_settled
FROM telemetry_batches
GROUP BY capture_session_id, sensor_id
HAVING count(*) FILTER (WHERE received_at < %s) >= %s OR max(received_at) < %s
ORDER BY count(*) DESC LIMIT %s
"""
_LAST_POSITION = """
SELECT coalesce(max(position), 0) FROM telemetry_series AS series CROSS JOIN LATERAL (
    SELECT position FROM telemetry_chunks AS chunk
    WHERE chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id
    ORDER BY position DESC LIMIT 1
) AS chunk
WHERE series.capture_session_id = %s AND sensor_id = %s
"""
# While a transaction lasts, places of live readings reach back to its beginning: were anything merged that came since
# then, none of them would be known until it ends.
_FIRST_UNSETTLED = """
SELECT min(position) FROM telemetry_series AS series JOIN telemetry_chunks AS chunk
    ON chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id
WHERE series.capture_session_id = %s AND sensor_id = %s
    AND transaction_id >= pg_snapshot_xmin(pg_current_snapshot())
"""
# Whoever works on the chunks of a series holds it so; batches do not mind, as they only refer to it.
_SERIES = """
SELECT id, compacted_to FROM telemetry_series WHERE capture_session_id = %s AND sensor_id = %s
ORDER BY id FOR NO KEY UPDATE
"""
_HEADERS = """
SELECT position, count, ARRAY(
    SELECT profile_id FROM telemetry_physical_chunks AS physical
    WHERE physical.capture_session_id = chunk.capture_session_id AND physical.series_id = chunk.series_id
        AND physical.position = chunk.position AND physical.profile_id = ANY(%s)
)
FROM telemetry_chunks AS chunk
WHERE capture_session_id = %s AND series_id = %s AND position > %s AND position <= %s
ORDER BY position LIMIT %s
"""
_PROFILES = """
SELECT DISTINCT profile_id FROM (
    SELECT profile_id FROM telemetry_series
    WHERE capture_session_id = %s AND sensor_id = %s AND profile_id IS NOT NULL
    UNION ALL SELECT profile_id FROM telemetry_layers WHERE capture_session_id = %s AND sensor_id = %s
    UNION ALL SELECT profile_id FROM capture_session_pins
    WHERE capture_session_id = %s AND sensor_id = %s AND profile_id IS NOT NULL
    UNION ALL SELECT profile_id FROM backfills WHERE capture_session_id = %s AND sensor_id = %s
) AS known
"""
_THESE = "WHERE capture_session_id = %s AND series_id = %s AND position = ANY(%s)"
_RAW = f'SELECT position, late, timestamps, "values" FROM telemetry_chunks {_THESE} ORDER BY position'
_PHYSICAL = f"""
SELECT profile_id, array_replace("values", NULL, 'NaN') FROM telemetry_physical_chunks {_THESE} AND profile_id = ANY(%s)
ORDER BY profile_id, position
"""
_ADD_RAW = f"""
INSERT INTO telemetry_chunks
    (capture_session_id, series_id, position, late, starts_at, ends_at, {", ".join(NAMES)}, timestamps, "values")
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_ADD_PHYSICAL = f"""
INSERT INTO telemetry_physical_chunks
    (capture_session_id, series_id, position, profile_id, {", ".join(NAMES)}, "values")
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, array_replace(%s::float8[], 'NaN', NULL))
"""
_ADD_OVERRIDDEN = """
INSERT INTO telemetry_overridden (capture_session_id, series_id, late, positions, timestamps, "values")
VALUES (%s, %s, %s, %s, %s, %s)
"""
_RECEIPTS = """
DELETE FROM telemetry_batches WHERE (sensor_id, key, capture_session_id) IN (
    SELECT sensor_id, key, capture_session_id FROM telemetry_batches
    WHERE sensor_id = %s AND capture_session_id = %s AND received_at < %s AND (%s OR received_at < (
        SELECT max(received_at) FROM telemetry_batches WHERE sensor_id = %s AND capture_session_id = %s
    ))
    ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING key, digest, accepted, late > 0, received_at, starts_at
"""
_LAST_MARKS = """
SELECT id, cardinality(marks) FROM telemetry_marks
WHERE capture_session_id = %s AND sensor_id = %s AND late = %s AND (ends_at = 'infinity') = %s
ORDER BY id DESC LIMIT 1 FOR UPDATE
"""
_ADD_MARKS = """
INSERT INTO telemetry_marks
    (capture_session_id, sensor_id, late, starts_at, ends_at, received_from, received_to, readings, marks)
VALUES (%s, %s, %s, %s::timestamptz, %s::timestamptz, %s, %s, %s, %s::integer[])
"""
_MORE_MARKS = """
UPDATE telemetry_marks SET starts_at = least(starts_at, %s::timestamptz), ends_at = greatest(ends_at, %s::timestamptz),
    received_from = least(received_from, %s), received_to = greatest(received_to, %s), readings = readings + %s,
    marks = marks || %s::integer[]
WHERE capture_session_id = %s AND sensor_id = %s AND late = %s AND id = %s
"""

HEADERS = 5_000
"""How many chunks are looked at to choose some of them: the smallest ones do not fill a chunk with fewer."""
MARKS = 4_096
"""How many marks are kept together, and looked through at once."""


@frozen(kw_only=True, eq=False)
class Reception:
    """Chunks of one series, reading by reading in the order of their reception."""

    positions: Integers
    late: "NDArray[np.bool_]"
    timestamps: Integers
    values: Floats
    layers: dict[UUID, Floats]

    @classmethod
    def of(cls, raw: Sequence[Row], physical: Sequence[Row]) -> "Reception":
        """Rows of chunks and of their layers, by position."""
        counts = [len(values) for _, _, _, values in raw]
        layers: dict[UUID, list[Floats]] = {}
        for profile_id, values in physical:
            layers.setdefault(profile_id, []).append(values)
        return cls(
            positions=np.repeat(np.array([position for position, _, _, _ in raw], np.int64), counts),
            late=np.repeat(np.array([late for _, late, _, _ in raw], np.bool_), counts),
            timestamps=np.concatenate([restored(kept, len(values)) for _, _, kept, values in raw]),
            values=np.concatenate([values for _, _, _, values in raw]),
            layers={profile_id: np.concatenate(parts) for profile_id, parts in layers.items()},
        )

    def sorted(self) -> tuple[Sequence[Integers], Integers]:
        """The places of the readings that are read, chunk by chunk, and of those that were overridden."""
        order = np.argsort(self.timestamps, kind="stable")
        timestamps = self.timestamps[order]
        is_last = np.append(timestamps[1:] != timestamps[:-1], True)
        read = order[is_last]
        chunks: list[Integers] = []
        # What came late is told apart by chunks.
        for places in (read[~self.late[read]], read[self.late[read]]):
            if len(places):
                chunks += np.array_split(places, max(1, round(len(places) / FULL)))
        return chunks, order[~is_last]


class PostgresCompaction(Compaction):
    """Merges what is in `telemetry_chunks`, and puts `telemetry_batches` away in `telemetry_marks`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def piles(self, *, before: datetime, settled: datetime, least: int, limit: int) -> Sequence[Pile]:
        rows = await self._statements.ask(_PILES, [before, settled, before, least, settled, limit]).rows()
        return [
            Pile(capture_session_id=session_id, sensor_id=sensor_id, position=position, is_settled=is_settled)
            for session_id, sensor_id, position, is_settled in rows
        ]

    async def hold(self, pile: Pile) -> Pile:
        session_id = pile.capture_session_id
        self._statements.write("SELECT pg_advisory_xact_lock(%s)", [lock_key(session_id)])
        # Statements of their own: they see what was committed while the lock was waited for.
        lasting = self._statements.ask(_FIRST_UNSETTLED, [session_id, pile.sensor_id])
        last = await self._statements.ask(_LAST_POSITION, [session_id, pile.sensor_id]).value()
        unsettled = await lasting.value()
        if unsettled is not None:
            return evolve(pile, position=min(last, pile.position, unsettled - 1), is_settled=False)
        return evolve(pile, position=last if pile.is_settled else min(last, pile.position))

    async def merge(self, pile: Pile) -> int:
        of_sensor: list[Any] = [pile.capture_session_id, pile.sensor_id]
        self._statements.check_writes()
        series = self._statements.ask(_SERIES, of_sensor)
        profiles = self._statements.ask(_PROFILES, of_sensor * 4)
        known = [profile_id for (profile_id,) in await profiles.rows()]
        gone = 0
        for series_id, compacted_to in await series.rows():
            rows = await self._statements.ask(
                _HEADERS, [known, pile.capture_session_id, series_id, compacted_to, pile.position, HEADERS]
            ).rows()
            headers = [ChunkHeader(position, count, frozenset(layers)) for position, count, layers in rows]
            choice = choose(headers, compacted_to, is_settled=pile.is_settled and len(headers) < HEADERS)
            if choice.chunks:
                gone += await self._merge(pile.capture_session_id, series_id, choice.chunks)
            if choice.done > compacted_to:
                self._statements.write(
                    "UPDATE telemetry_series SET compacted_to = %s WHERE capture_session_id = %s AND id = %s",
                    [choice.done, pile.capture_session_id, series_id],
                )
        return gone

    async def put_away(self, pile: Pile, *, before: datetime, most: int) -> int:
        self._statements.check_writes()
        of_sensor: list[Any] = [pile.sensor_id, pile.capture_session_id]
        rows = await self._statements.ask(
            # Of a pile that is to grow, the newest stays: it will tell when no more has come for long.
            _RECEIPTS,
            [*of_sensor, before, pile.is_settled, *of_sensor, most],
        ).rows()
        for late in (False, True):
            for is_dated in (False, True):
                receipts = [row for row in rows if row[3] is late and (row[5] is not None) is is_dated]
                for place in range(0, len(receipts), MARKS):
                    await self._keep_marks(pile, receipts[place : place + MARKS], late=late, is_dated=is_dated)
        return len(rows)

    async def _merge(self, session_id: UUID, series_id: int, chunks: Sequence[ChunkHeader]) -> int:
        positions = [chunk.position for chunk in chunks]
        these: list[Any] = [session_id, series_id, positions]
        raw = self._statements.ask(_RAW, these)
        # Named by their profiles, their rows are found by the key, which has the profile before the position.
        layers = [*these, sorted(chunks[0].layers)]
        physical = self._statements.ask(_PHYSICAL, layers)
        received = Reception.of(await raw.rows(), await physical.rows())
        merged, overridden = received.sorted()
        if len(merged) >= len(chunks):
            return 0
        self._statements.write(f"DELETE FROM telemetry_physical_chunks {_THESE} AND profile_id = ANY(%s)", layers)
        self._statements.write(f"DELETE FROM telemetry_chunks {_THESE}", these)
        # They do not have a timestamp in common, so that any order among them is right; towards others, all of theirs
        # lie between those of the chunks before and behind.
        for position, places in zip(positions[-len(merged) :], merged, strict=True):
            self._add(session_id, series_id, position, received, places)
        if len(overridden):
            self._statements.write(
                _ADD_OVERRIDDEN,
                [
                    session_id,
                    series_id,
                    received.late[overridden].tolist(),
                    received.positions[overridden].tolist(),
                    TimestampArray.of(received.timestamps[overridden]),
                    FloatArray.of(received.values[overridden]),
                ],
            )
        return len(chunks) - len(merged)

    def _add(self, session_id: UUID, series_id: int, position: int, received: Reception, places: Integers) -> None:
        timestamps, values = received.timestamps[places], received.values[places]
        self._statements.write(
            _ADD_RAW,
            [
                *(session_id, series_id, position, bool(received.late[places[0]])),
                *(moment(int(timestamps[0])), moment(int(timestamps[-1]))),
                *columns_of_statistics(statistics_of(values)),
                TimestampArray.of(shortened(timestamps)),
                FloatArray.of(values),
            ],
        )
        for profile_id, layer in received.layers.items():
            self._statements.write(
                _ADD_PHYSICAL,
                [
                    *(session_id, series_id, position, profile_id),
                    *columns_of_statistics(statistics_of(layer[places])),
                    FloatArray.of(layer[places]),
                ],
            )

    async def _keep_marks(self, pile: Pile, receipts: Sequence[Row], *, late: bool, is_dated: bool) -> None:
        """Keep marks with others like them; those whose beginning is not known are looked through for any batch."""
        marks = array("i", [mark(key, digest) for key, digest, *_ in receipts])
        times: list[Any] = [
            min(row[5] for row in receipts) if is_dated else "-infinity",
            max(row[5] for row in receipts) if is_dated else "infinity",
            min(row[4] for row in receipts),
            max(row[4] for row in receipts),
            sum(row[2] for row in receipts),
        ]
        of_sensor: list[Any] = [pile.capture_session_id, pile.sensor_id, late]
        last = await self._statements.ask(_LAST_MARKS, [*of_sensor, not is_dated]).row()
        if last is not None and last[1] + len(marks) <= MARKS:
            self._statements.write(_MORE_MARKS, [*times, marks.tolist(), *of_sensor, last[0]])
        else:
            self._statements.write(_ADD_MARKS, [*of_sensor, *times, marks.tolist()])
