"""The headers of a series' chunks as arrays: what is known of each chunk without opening it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from attrs import evolve, fields, frozen
from numpy.typing import NDArray

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.telemetry.arrays import (
    Floats,
    Integers,
    TimestampArray,
    arrays_of,
    floats_of,
    fours,
    moments,
    moments_of,
    twos,
)
from experiment_adapters.postgres.telemetry.merging import Merged, Opened, Sweep
from experiment_domain.telemetry.batches import micros, moment
from experiment_domain.telemetry.store import Layer

# One row of packed columns: as rows of their own, 10,000 headers would take PostgreSQL and the driver twice as long.
# The numbers are sent as floats, which hold them exactly, for there to be few columns.
RECEIVED = (
    f"{twos('chunk.position', 'CASE WHEN chunk.late THEN -chunk.count ELSE chunk.count END')},"
    f" {moments('chunk.starts_at')}, {moments('chunk.ends_at')}"
)
"""Of the chunks of a series: their positions and readings (negative where late), and when they begin and end."""


def summed(layer: str) -> str:
    """Of a layer of these chunks: their positions, how many values they have, and the statistics of these."""
    minimum, maximum, mean, squares, first, last = (
        f"coalesce({layer}.{name}, 'NaN')" for name in ("minimum", "maximum", "mean", "squares", "first", "last")
    )
    counted = fours(f"{layer}.position", f"{layer}.count", mean, squares)
    return f"{counted}, {fours(minimum, maximum, first, last)}"


_RECEIVED = f"min(chunk.series_id), {RECEIVED}"
_RAW = f"SELECT {_RECEIVED}, {summed('chunk')} FROM telemetry_chunks AS chunk WHERE {{where}}"
_JOINED = f"SELECT {_RECEIVED}, {summed('physical')} FROM telemetry_chunks AS chunk {{join}} WHERE {{where}}"
# Of a whole series each of the two tables is read by itself: joining them takes longer.
_BESIDE = f"""
SELECT chunks.*, layer.*
FROM (SELECT {_RECEIVED} FROM telemetry_chunks AS chunk WHERE {{where}}) AS chunks,
    (SELECT {summed("chunk")} FROM telemetry_physical_chunks AS chunk WHERE {{where}} AND profile_id = %s) AS layer
"""
_SERIES = (
    "chunk.capture_session_id = %s AND chunk.series_id = (SELECT id FROM telemetry_series"
    " WHERE capture_session_id = %s AND sensor_id = %s AND signal = %s)"
)
_PHYSICAL = (
    "JOIN telemetry_physical_chunks AS physical ON physical.capture_session_id = chunk.capture_session_id"
    " AND physical.series_id = chunk.series_id AND physical.position = chunk.position"
)

READINGS_AT_ONCE = 1_000_000
"""How many readings are opened in one query, unless one chunk alone has more."""
_TOGETHER = 16
"""How many chunks come in one row where they are divided: by a row each, the driver would be woken up for each."""


TransactionId = str
"""As PostgreSQL writes an `xid8`."""


@frozen(kw_only=True)
class Stored:
    """One layer of one series, as it is found in the tables."""

    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None

    def conditions(self) -> Conditions:
        """What chunks of this series fulfil."""
        conditions = Conditions()
        session_id = self.capture_session_id
        conditions.add(_SERIES, session_id, session_id, self.sensor_id, self.signal)
        return conditions

    @property
    def is_physical(self) -> bool:
        """Whether values are those of a profile."""
        return self.layer is Layer.PHYSICAL


@frozen(kw_only=True, eq=False)
class Headers:
    """Chunks in the order of time. `readings` counts timestamps, `counts` values; NaN stands for no statistics."""

    stored: Stored
    series_id: int
    positions: Integers
    starts: Integers
    ends: Integers
    readings: Integers
    counts: Integers
    minimums: Floats
    maximums: Floats
    means: Floats
    firsts: Floats
    lasts: Floats

    @classmethod
    def of(cls, stored: Stored, row: Row) -> "Headers | None":
        """The headers that a row of packed columns holds; None where there are none."""
        series_id, *packed = row
        if series_id is None or packed[-1] is None:
            return None
        _, (positions, readings, starts, ends, counts, *statistics) = in_common([packed])
        is_in_order = not np.count_nonzero(starts[1:] <= starts[:-1])
        order = slice(None) if is_in_order else np.lexsort((positions, starts))
        means, _, minimums, maximums, firsts, lasts = (found[order] for found in statistics)
        return cls(
            stored=stored,
            series_id=series_id,
            positions=positions[order].astype(np.int64),
            starts=starts[order],
            ends=ends[order],
            readings=np.abs(readings[order]).astype(np.int64),
            counts=counts[order].astype(np.int64),
            minimums=minimums,
            maximums=maximums,
            means=means,
            firsts=firsts,
            lasts=lasts,
        )

    @property
    def extent(self) -> tuple[int, int]:
        """The first and the last moment of readings in these chunks."""
        return int(self.starts[0]), int(self.ends.max())

    def between(self, start: int | None, end: int | None) -> "Headers | None":
        """Those of the chunks that may hold readings from `start` to before `end`; None where there are none."""
        chosen = np.ones(len(self.starts), bool)
        if start is not None:
            chosen &= self.ends >= start
        if end is not None:
            chosen &= self.starts < end
        if chosen.all():
            return self
        return self.taken(chosen) if chosen.any() else None

    def taken(self, chosen: "NDArray[np.bool_] | Integers") -> "Headers":
        """Some of the chunks."""
        return evolve(self, **{name: column[chosen] for name, column in self._columns()})

    def and_those(self, other: "Headers") -> "Headers":
        """Together with others of the same series."""
        columns = {name: np.concatenate((column, getattr(other, name))) for name, column in self._columns()}
        together = evolve(self, **columns)
        return together.taken(np.lexsort((together.positions, together.starts)))

    def _columns(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for attribute in fields(Headers):
            column = getattr(self, attribute.name)
            if isinstance(column, np.ndarray):
                yield attribute.name, column

    def islands(self) -> Integers:
        """The number of the island that each chunk belongs to: chunks of different ones do not overlap in time."""
        reached = np.maximum.accumulate(self.ends)
        return np.concatenate(([0], np.cumsum(self.starts[1:] > reached[:-1])))

    def keys(self, places: Integers, moments: Integers) -> list[bytes]:
        """Of each of these chunks and a moment, what tells them from all others and what they held at other times."""
        stored = self.stored
        prefix = stored.profile_id.bytes if stored.is_physical and stored.profile_id is not None else b""
        columns = [column[places] for _, column in self._columns()]
        table = np.column_stack([*(column.view(np.int64) for column in columns), moments])
        return [prefix + row.tobytes() for row in table]

    def groups(self, places: Integers) -> Sequence[Integers]:
        """These chunks in groups that are opened at once."""
        if not len(places):
            return []
        held = np.cumsum(self.readings[places]) // READINGS_AT_ONCE
        return np.split(places, np.flatnonzero(np.diff(held)) + 1)


async def headers(
    statements: Statements,
    stored: Stored,
    *,
    start: int | None = None,
    end: int | None = None,
    received_since: TransactionId | None = None,
) -> Headers | None:
    """The headers of a series; None where there are none.

    With `start` or `end`: of the chunks that may hold readings from `start` to before `end`. With `received_since`: of
    those that this transaction or a later one received. For most of a series, reading all takes less time than looking.
    """
    conditions = within(stored.conditions(), start, end)
    if received_since is not None:
        conditions.add("chunk.transaction_id >= %s::xid8", received_since)
    is_whole = start is None and end is None and received_since is None
    where, parameters = " AND ".join(conditions.texts), conditions.parameters
    if not stored.is_physical:
        answer = statements.ask(_RAW.format(where=where), parameters)
    elif is_whole:
        answer = statements.ask(_BESIDE.format(where=where), [*parameters, *parameters, stored.profile_id])
    else:
        join = f"{_PHYSICAL} AND physical.profile_id = %s"
        answer = statements.ask(_JOINED.format(join=join, where=where), [stored.profile_id, *parameters])
    row = await answer.row()
    assert row is not None  # noqa: S101 - aggregates without groups always give one
    return Headers.of(stored, row)


async def extent(statements: Statements, stored: Stored) -> tuple[int, int] | None:
    """The first and the last moment of a series.

    None where it has no readings, or where some of its chunks lack the layer: its headers alone tell where it lies.
    """
    conditions = stored.conditions()
    where, parameters = " AND ".join(conditions.texts), conditions.parameters
    having = ""
    if stored.is_physical:
        layer = f"SELECT count(*) FROM telemetry_physical_chunks AS chunk WHERE {where} AND profile_id = %s"
        having, parameters = f"HAVING count(*) = ({layer})", [*parameters, *parameters, stored.profile_id]
    row = await statements.ask(
        f"SELECT min(starts_at), max(ends_at) FROM telemetry_chunks AS chunk WHERE {where} {having}", parameters
    ).row()
    return None if row is None or row[0] is None else (micros(row[0]), micros(row[1]))


def in_common(series: Sequence[Sequence[bytes]]) -> tuple[Sequence[int], Sequence[NDArray[Any]]]:
    """Of the chunks of series that were received and are summed up in a layer, what is known by either.

    How many of each series; and their positions, readings (negative where late), starts, ends, values, means, squares,
    minimums, maximums, firsts and lasts.
    """
    columns = [_in_common(*packed) for packed in series]
    return [len(column[0]) for column in columns], list(map(np.concatenate, zip(*columns, strict=True)))


def _in_common(received: bytes, starts: bytes, ends: bytes, counted: bytes, extremes: bytes) -> Sequence[NDArray[Any]]:
    """The columns of one series."""
    one = [*floats_of(received, 2), moments_of(starts), moments_of(ends)]
    positions, *other = [*floats_of(counted, 4), *floats_of(extremes, 4)]
    if np.array_equal(one[0], positions):
        return [*one, *other]
    _, ours, theirs = np.intersect1d(one[0], positions, assume_unique=True, return_indices=True)
    return [*(column[ours] for column in one), *(column[theirs] for column in other)]


async def opened(statements: Statements, found: Headers, places: Integers) -> list[Opened]:
    """Chunks with their arrays, in the order of their headers."""
    values, join, profile = source_of(found.stored)
    positions: list[int] = found.positions[places].tolist()
    parameters: list[Any] = [found.stored.capture_session_id, found.series_id, positions, *profile]
    rows = await statements.ask(
        f"SELECT chunk.position, chunk.late, chunk.timestamps, {values} FROM telemetry_chunks AS chunk {join}"
        " WHERE chunk.capture_session_id = %s AND chunk.series_id = %s AND chunk.position = ANY(%s)"
        f"{' AND physical.profile_id = %s' if profile else ''}",
        parameters,
    ).rows()
    # Sorting would make the server keep them all before it sends the first.
    chunks = {row[0]: Opened.of(*row) for row in rows}
    return [chunks[position] for position in positions]


async def merged(statements: Statements, found: Headers, places: Integers) -> AsyncIterator[Merged]:
    """What chunks hold that may overlap, in parts that follow each other in time."""
    sweep, opened_to = Sweep(), 0
    for group in found.groups(places):
        sweep.add(*await opened(statements, found, group))
        opened_to += len(group)
        bound = None if opened_to == len(places) else int(found.starts[places[opened_to]])
        for part in sweep.before(bound):
            yield part


async def divided(
    statements: Statements, found: Headers, places: Integers, edges: Integers, sides: "NDArray[np.int8]"
) -> list[tuple[int, Floats]]:
    """Parts of chunks without gaps, each of which lies across one edge: how many readings come before it, and values.

    Of the `sides`, -1 gives the values before the edge and the one behind it, 1 those behind it and the one before
    it, 0 all. Whole timestamps stay where they are: sending an array takes far longer than looking into it.
    """
    values, join, profile = source_of(found.stored, without_gaps=True)
    positions: list[int] = found.positions[places].tolist()
    rows = await statements.ask(
        f"""
        SELECT together.* FROM (SELECT %s::bigint[], %s, %s::smallint[]) AS wanted (positions, edges, sides)
        CROSS JOIN generate_series(1, cardinality(positions), {_TOGETHER}) AS low
        CROSS JOIN LATERAL (SELECT low + {_TOGETHER - 1} AS high) AS range
        CROSS JOIN LATERAL (
            SELECT array_agg(chunk.position), array_agg(before), string_agg(array_send(CASE side
                WHEN -1 THEN ({values})[:before + 1] WHEN 1 THEN ({values})[before:] ELSE {values}
            END), NULL)
            FROM unnest(positions[low:high], edges[low:high], sides[low:high]) AS one (position, edge, side)
            JOIN telemetry_chunks AS chunk ON chunk.capture_session_id = %s AND chunk.series_id = %s
                AND chunk.position = one.position
            {join}
            {"AND physical.profile_id = %s" if profile else ""}
            CROSS JOIN LATERAL (SELECT width_bucket(edge, timestamps) AS found OFFSET 0) AS kept
            CROSS JOIN LATERAL (SELECT CASE
                -- To ask how many are kept takes as long as to look for the edge: only where both of two lie before it.
                WHEN found = 2 AND cardinality(timestamps) < chunk.count
                THEN 1 + div(
                    extract(epoch FROM edge - timestamps[1]), extract(epoch FROM timestamps[2] - timestamps[1])
                )
                ELSE found
            END::integer AS before OFFSET 0) AS divided
        ) AS together
        """,
        [
            positions,
            # Up to and including the last moment before the edge.
            TimestampArray.of(edges - 1),
            sides.tolist(),
            found.stored.capture_session_id,
            found.series_id,
            *profile,
        ],
    ).rows()
    found_at: dict[int, tuple[int, Floats]] = {}
    for told, befores, packed in rows:
        found_at |= zip(told, zip(befores, arrays_of(packed), strict=True), strict=True)
    return [found_at[position] for position in positions]


def source_of(stored: Stored, *, without_gaps: bool = False) -> tuple[str, str, list[Any]]:
    """The expression for a chunk's values, the join that it needs, and the parameter for its profile."""
    if not stored.is_physical:
        return 'chunk."values"', "", []
    values = 'physical."values"' if without_gaps else "array_replace(physical.\"values\", NULL, 'NaN')"
    return values, _PHYSICAL, [stored.profile_id]


def within(conditions: Conditions, start: int | None, end: int | None) -> Conditions:
    """Of these chunks those that may hold readings from `start` to before `end`."""
    if start is not None:
        conditions.add("chunk.ends_at >= %s", moment(start))
    if end is not None:
        conditions.add("chunk.starts_at < %s", moment(end))
    return conditions
