"""Summaries of series: from the statistics of chunks, opening only those that these do not say enough about."""

from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
from attrs import frozen

from experiment_adapters.postgres.statements import Statements
from experiment_adapters.postgres.telemetry.buckets import Flags, Part, Spans, Summed, SummedChunks
from experiment_adapters.postgres.telemetry.headers import READINGS_AT_ONCE, RECEIVED, in_common, summed
from experiment_adapters.postgres.telemetry.merging import Merged, Opened, Sweep
from experiment_domain.telemetry.store import Layer, check_buckets

# A row per series, its chunks' headers as packed columns: thousands of them are read at once, and added up by NumPy.
_CHUNKS = "WHERE chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id"
_SERIES = "session.run_id, session.ordinal, series.capture_session_id, series.id, series.sensor_id, series.signal"
_FROM = "FROM telemetry_series AS series JOIN capture_sessions AS session ON session.id = series.capture_session_id"

_RAW = f"""
SELECT {_SERIES}, NULL::uuid, chunks.*
{_FROM}
CROSS JOIN LATERAL (
    SELECT {RECEIVED}, {summed("chunk")} FROM telemetry_chunks AS chunk {_CHUNKS}
) AS chunks (received, starts, ends, counted, extremes)
WHERE received IS NOT NULL AND {{where}}
"""
# The two tables have a row each for a chunk: they are put together here, as a join would take longer.
_PHYSICAL = f"""
SELECT {_SERIES}, series.profile_id, chunks.*, physical.*
{_FROM}
CROSS JOIN LATERAL (
    SELECT {RECEIVED} FROM telemetry_chunks AS chunk {_CHUNKS}
) AS chunks (received, starts, ends)
CROSS JOIN LATERAL (
    SELECT {summed("chunk")} FROM telemetry_physical_chunks AS chunk {_CHUNKS}
        AND chunk.profile_id = series.profile_id
) AS physical (counted, extremes)
WHERE received IS NOT NULL AND counted IS NOT NULL AND {{where}}
"""
_WITHOUT_PHYSICAL = _RAW + " AND series.profile_id IS NULL"

_OPEN = """
SELECT series_id, position, chunk.late, chunk.timestamps,
    CASE WHEN wanted.profile_id IS NULL THEN chunk.values ELSE array_replace(physical.values, NULL, 'NaN') END
FROM unnest(%s::uuid[], %s::bigint[], %s::uuid[], %s::bigint[]) WITH ORDINALITY
    AS wanted (capture_session_id, series_id, profile_id, position, place)
JOIN telemetry_chunks AS chunk USING (capture_session_id, series_id, position)
LEFT JOIN telemetry_physical_chunks AS physical USING (capture_session_id, series_id, profile_id, position)
ORDER BY place
"""

OPENED_AT_ONCE = 500
"""How many chunks are opened in one query at most: fewer where they are large."""


@frozen(kw_only=True)
class Summary:
    """A series and what is known of its readings in one layer: of all of them, or of a bucket that begins `at` (µs)."""

    run_id: UUID
    sensor_id: UUID
    signal: str
    profile_id: UUID | None
    at: int | None
    part: Part


async def summaries(
    statements: Statements,
    where: str,
    parameters: Sequence[Any],
    layer: Layer | None,
    *,
    width: int | None = None,
) -> list[Summary]:
    """The series that a condition names, by sensor, signal and session; in the physical layer those that have one.

    Without a `layer`, those that have no physical one are summed up by their raw values. With a `width` in
    microseconds, each bucket by itself, in the order of time. Raises `Invalid` where there are too many.
    """
    found = await _headers(statements, where, parameters, layer)
    if found is None:
        return []
    if width is not None:
        _check_least(found, width)
    aside = found.to_open(width)
    parts = (found.spans.at(~aside) if aside.any() else found.spans).parts(width)
    buckets = {(found.series[owner].key, at) for owner, at in parts}
    async for owner, merged in _merged(statements, found, aside):
        for place, part in Spans.of_readings(merged, owner).parts(width).items():
            parts[place] = parts[place].joined(part) if place in parts else part
            buckets.add((found.series[owner].key, place[1]))
        if width is not None:
            check_buckets(len(buckets))
    return [
        Summary(
            run_id=found.series[owner].run_id,
            sensor_id=found.series[owner].sensor_id,
            signal=found.series[owner].signal,
            profile_id=found.series[owner].profile_id,
            at=at,
            part=parts[owner, at],
        )
        for owner, at in sorted(parts, key=lambda place: (place[0], place[1] or 0))
    ]


async def _headers(
    statements: Statements, where: str, parameters: Sequence[Any], layer: Layer | None
) -> SummedChunks | None:
    """The series that a condition names, by sensor, signal and session, and their chunks; None where there are none."""
    sql = {
        Layer.RAW: _RAW,
        Layer.PHYSICAL: _PHYSICAL,
        None: f"{_PHYSICAL} UNION ALL {_WITHOUT_PHYSICAL}",
    }[layer].format(where=where)
    rows = await statements.ask(sql, parameters if layer else [*parameters, *parameters]).rows()
    if not rows:
        return None
    rows.sort(key=lambda row: (row[4], row[5], row[1]))
    lengths, (positions, received, starts, ends, count, *statistics) = in_common([row[7:] for row in rows])
    owners = np.repeat(np.arange(len(rows)), lengths)
    mean, squares, minimum, maximum, first, last = statistics
    readings = np.abs(received).astype(np.int64)
    spans = Spans(
        owners=owners,
        starts=starts,
        ends=ends,
        readings=readings,
        late=np.where(received < 0, readings, 0),
        count=count.astype(np.int64),
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        squares=squares,
        first=first,
        last=last,
    )
    series = [
        Summed(
            run_id=run_id,
            capture_session_id=session_id,
            series_id=series_id,
            sensor_id=sensor_id,
            signal=signal,
            profile_id=profile_id,
        )
        for run_id, _, session_id, series_id, sensor_id, signal, profile_id, *_ in rows
    ]
    positions = positions.astype(np.int64)
    if not ((owners[1:] > owners[:-1]) | (starts[1:] > starts[:-1])).all():
        # Seldom: most are received in the order of time. Of equal starts the position decides.
        order = np.lexsort((positions, starts, owners))
        positions, spans = positions[order], spans.at(order)
    return SummedChunks(series=series, positions=positions, spans=spans)


def _check_least(found: SummedChunks, width: int) -> None:
    """Refuse what has too many buckets by the first and last readings of its chunks alone, before any is opened."""
    numbers: dict[Any, int] = {}
    keys = np.array([numbers.setdefault(series.key, len(numbers)) for series in found.series])[found.spans.owners]
    ends = np.concatenate((found.spans.starts, found.spans.ends)) // width
    check_buckets(len(np.unique(np.stack((np.tile(keys, 2), ends)), axis=1).T))


async def _merged(statements: Statements, found: SummedChunks, aside: Flags) -> AsyncIterator[tuple[int, Merged]]:
    """What chunks hold that are opened a few at a time, in the order of time, and the number of their series."""
    owners, starts = found.spans.owners[aside].tolist(), found.spans.starts[aside].tolist()
    places = zip(owners, found.positions[aside].tolist(), strict=True)
    wanted = [
        (series.capture_session_id, series.series_id, series.profile_id, position)
        for series, position in ((found.series[owner], position) for owner, position in places)
    ]
    numbers, held = np.arange(len(wanted)), np.cumsum(found.spans.readings[aside])
    edges = np.flatnonzero(np.diff(numbers // OPENED_AT_ONCE) | np.diff(held // READINGS_AT_ONCE)) + 1
    sweep = Sweep()
    for start, end in pairwise([0, *edges.tolist(), len(wanted)] if wanted else ()):
        columns = map(list, zip(*wanted[start:end], strict=True))
        rows = await statements.ask(_OPEN, [*columns]).rows()
        for place, (_, *chunk) in enumerate(rows, start=start):
            sweep.add(Opened.of(*chunk))
            owner = owners[place]
            if place + 1 == len(wanted) or owners[place + 1] != owner:
                bound = None
            elif place + 1 == end:
                bound = starts[end]
            else:
                continue
            for merged in sweep.before(bound):
                yield owner, merged


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
    return [Opened.of(*row) for row in await answer.rows()]


def joined(parts: Iterable[Part]) -> Part:
    """All parts together."""
    whole = Part()
    for part in parts:
        whole = whole.joined(part)
    return whole
