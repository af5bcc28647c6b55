"""Readings in PostgreSQL: one row per series and batch, raw values and one physical layer per profile version."""

import uuid
from array import array
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import compress, groupby
from typing import Any
from uuid import UUID

import numpy as np

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.sensors import HAS_TOKEN
from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.telemetry.admission import admit
from experiment_adapters.postgres.telemetry.appending import append, append_presumed
from experiment_adapters.postgres.telemetry.arrays import restored
from experiment_adapters.postgres.telemetry.buckets import when
from experiment_adapters.postgres.telemetry.merging import Merged, Sweep
from experiment_adapters.postgres.telemetry.summaries import Summary, joined, opened, summaries
from experiment_domain.telemetry.batches import EARLIEST, Batch, micros, moment
from experiment_domain.telemetry.compaction import mark
from experiment_domain.telemetry.store import (
    Admission,
    Intake,
    Layer,
    Metrics,
    Presumed,
    Ran,
    ReadingQuery,
    Readings,
    Receipt,
    Series,
    TelemetryStore,
)

_MARKED = """
SELECT capture_session_id, late, received_to FROM telemetry_marks
WHERE sensor_id = %s AND ends_at >= %s AND starts_at <= %s AND (%s::uuid IS NULL OR capture_session_id = %s)
    AND %s = ANY(marks)
ORDER BY received_to DESC
"""
_RECEIVED = """
SELECT timestamps, "values" FROM telemetry_series AS series JOIN telemetry_chunks AS chunk
    ON chunk.capture_session_id = series.capture_session_id AND chunk.series_id = series.id
WHERE series.capture_session_id = %s AND sensor_id = %s AND signal = %s AND ends_at >= %s AND starts_at <= %s
UNION ALL
SELECT timestamps, "values" FROM telemetry_series AS series JOIN telemetry_overridden AS aside
    ON aside.capture_session_id = series.capture_session_id AND aside.series_id = series.id
WHERE series.capture_session_id = %s AND sensor_id = %s AND signal = %s
    AND timestamps[cardinality(timestamps)] >= %s AND timestamps[1] <= %s
"""
_RAN_BETWEEN = f"""
SELECT session.id, session.started_at, session.stopped_at FROM sensors
JOIN capture_session_pins AS pin ON pin.sensor_id = sensors.id
JOIN capture_sessions AS session ON session.id = pin.capture_session_id AND session.deleted_at IS NULL
    AND session.started_at <= %s AND (session.stopped_at IS NULL OR session.stopped_at > %s)
WHERE {HAS_TOKEN}
"""

FEW, HEADERS = 64, 20_000
"""How many chunks a page of readings looks at before it opens some of them: at first, and at most.

A stream of pages would otherwise look at all that is left of a series for each of them.
"""


class PostgresTelemetry(TelemetryStore):
    """Keeps readings in `telemetry_chunks` and `telemetry_physical_chunks`, receipts in `telemetry_batches`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._known: set[tuple[UUID, UUID, str]] = set()

    async def admit(
        self, token_hash: bytes, capture_session_id: UUID | None, keys: Sequence[str], at: datetime
    ) -> Admission | None:
        admitted, self._known = await admit(self._statements, token_hash, capture_session_id, keys, at)
        return admitted

    async def ran_between(self, token_hash: bytes, since: datetime, until: datetime, at: datetime) -> Sequence[Ran]:
        rows = await self._statements.ask(_RAN_BETWEEN, [until, since, token_hash, token_hash, at]).rows()
        return [
            Ran(capture_session_id=session_id, started_at=started_at, stopped_at=stopped_at)
            for session_id, started_at, stopped_at in rows
        ]

    async def marked(self, sensor_id: UUID, batch: Batch) -> Receipt | None:
        begins, session_id = batch.begins, batch.capture_session_id
        if begins is None:
            return None
        at, wanted = moment(begins), mark(batch.key, batch.digest)
        rows = await self._statements.ask(_MARKED, [sensor_id, at, at, session_id, session_id, wanted]).rows()
        for capture_session_id, late, received_at in rows:
            if await self._holds(capture_session_id, sensor_id, batch):
                return Receipt(
                    capture_session_id=capture_session_id,
                    sensor_id=sensor_id,
                    key=batch.key,
                    digest=batch.digest,
                    accepted=len(batch),
                    late=len(batch) if late else 0,
                    received_at=received_at,
                )
        return None

    async def _holds(self, session_id: UUID, sensor_id: UUID, batch: Batch) -> bool:
        """Whether all readings of a batch are stored, be it as overridden ones."""
        for column in filter(len, batch.columns):
            first, last = map(moment, column.span)
            where = [session_id, sensor_id, column.signal, first, last]
            missing = set(zip(column.timestamps, column.values, strict=True))
            for kept, values in await self._statements.ask(_RECEIVED, [*where, *where]).rows():
                timestamps = restored(kept, len(values))
                low, high = (
                    np.searchsorted(timestamps, column.span[0]),
                    np.searchsorted(timestamps, column.span[1], "right"),
                )
                missing.difference_update(zip(timestamps[low:high].tolist(), values[low:high].tolist(), strict=True))
                if not missing:
                    break
            if missing:
                return False
        return True

    def append(self, *intakes: Intake) -> None:
        self._statements.tell(*{f"capture_session/{intake.receipt.capture_session_id}" for intake in intakes})
        append(self._statements, intakes, self._known)

    async def append_presumed(self, presumed: Sequence[Presumed]) -> Sequence[bool]:
        answer = append_presumed(self._statements, presumed)
        await self._statements.commit()
        kept = {place for (place,) in await answer.rows()}
        is_kept = [place in kept for place in range(1, len(presumed) + 1)]
        for one in compress(presumed, is_kept):
            self._statements.tell(f"capture_session/{one.intake.receipt.capture_session_id}")
        return is_kept

    async def series(self, capture_session_id: UUID) -> Sequence[Series]:
        self._statements.hold_still()
        where = "series.capture_session_id = %s"
        raw = await summaries(self._statements, where, [capture_session_id], Layer.RAW)
        physical = await summaries(self._statements, where, [capture_session_id], Layer.PHYSICAL)
        layers = {(summary.sensor_id, summary.signal): summary for summary in physical}

        def without_value(summary: Summary | None) -> int:
            if summary is None:
                return 0
            return summary.part.readings - (summary.part.statistics.count if summary.part.statistics else 0)

        found: list[Series] = []
        for summary in raw:
            current = layers.get((summary.sensor_id, summary.signal))
            found.append(
                Series(
                    capture_session_id=capture_session_id,
                    sensor_id=summary.sensor_id,
                    signal=summary.signal,
                    count=summary.part.readings,
                    late=summary.part.late,
                    out_of_range=without_value(current),
                    first_timestamp=when(summary.part.starts_at),
                    last_timestamp=when(summary.part.ends_at),
                    profile_id=None if current is None else current.profile_id,
                )
            )
        return found

    async def names(self, capture_session_id: UUID) -> Sequence[tuple[UUID, str]]:
        rows = await self._statements.ask(
            "SELECT sensor_id, signal FROM telemetry_series WHERE capture_session_id = %s ORDER BY sensor_id, signal",
            [capture_session_id],
        ).rows()
        return [(sensor_id, signal) for sensor_id, signal in rows]

    async def layer_of(self, capture_session_id: UUID, sensor_id: UUID, signal: str) -> tuple[bool, UUID | None]:
        row = await self._statements.ask(
            "SELECT profile_id FROM telemetry_series WHERE capture_session_id = %s AND sensor_id = %s AND signal = %s",
            [capture_session_id, sensor_id, signal],
        ).row()
        return row is not None, row[0] if row else None

    async def has_layer(self, capture_session_id: UUID, sensor_id: UUID, signal: str, profile_id: UUID) -> bool:
        return await self._statements.ask(
            "SELECT EXISTS (SELECT FROM telemetry_series AS series"
            " WHERE capture_session_id = %s AND sensor_id = %s AND signal = %s AND (profile_id = %s OR EXISTS ("
            "SELECT FROM telemetry_layers AS layer WHERE layer.capture_session_id = series.capture_session_id"
            " AND layer.sensor_id = series.sensor_id AND layer.profile_id = %s)))",
            [capture_session_id, sensor_id, signal, profile_id, profile_id],
        ).value()

    async def read(self, query: ReadingQuery) -> Readings:
        physical = query.layer is Layer.PHYSICAL
        start = max(
            (bound for bound in (query.start, None if query.after is None else query.after + 1) if bound is not None),
            default=None,
        )
        if physical and query.profile_id is None:
            return _readings((), query.limit)
        self._statements.hold_still()
        sweep = Sweep()
        page: list[Merged] = []
        headers: list[Row] = []
        most = min(FEW, HEADERS)
        while headers := await self._headers(query, start, headers[-1] if headers else None, most):
            whole = len(headers) < most
            most = min(8 * most, HEADERS)
            place = 0
            while place < len(headers):
                group = headers[place : place + _enough(headers, place, query.limit + 1)]
                place += len(group)
                sweep.add(
                    *await opened(
                        self._statements,
                        query.capture_session_id,
                        group[0][0],
                        [position for _, position, _, _ in group],
                        query.profile_id if physical else None,
                    )
                )
                # What lies before the first chunk that is not open yet is complete.
                if place < len(headers) or not whole:
                    bound = micros(headers[min(place, len(headers) - 1)][2])
                    bound = bound if query.end is None else min(query.end, bound)
                else:
                    bound = query.end
                for merged in sweep.before(bound):
                    page.append(_between(merged, start, query.end))
                    if sum(len(part.timestamps) for part in page) > query.limit:
                        return _readings(page, query.limit)
            if whole:
                break
        # The chunks may have ended with the last headers: all that is open is complete.
        page += [_between(merged, start, query.end) for merged in sweep.before(query.end)]
        return _readings(page, query.limit)

    async def metrics(
        self, run_id: UUID, *, layer: Layer | None, signals: Collection[str] = (), bucket: int | None = None
    ) -> Sequence[Metrics]:
        self._statements.hold_still()
        where, parameters = _of_runs([run_id], signals)
        found = await summaries(self._statements, where, parameters, layer, width=bucket)
        return _metrics(found)

    async def metrics_of_runs(
        self, layers: Mapping[UUID, Layer | None], *, signals: Collection[str] = ()
    ) -> Mapping[UUID, Sequence[Metrics]]:
        self._statements.hold_still()
        found: dict[UUID, list[Summary]] = {}
        # One query for the runs of each layer, and there are no more than three.
        for layer in sorted(set(layers.values()), key=str):
            where, parameters = _of_runs([run_id for run_id, one in layers.items() if one is layer], signals)
            for summary in await summaries(self._statements, where, parameters, layer):
                found.setdefault(summary.run_id, []).append(summary)
        return {run_id: _metrics(of_run) for run_id, of_run in found.items()}

    async def _headers(self, query: ReadingQuery, start: int | None, after: Row | None, most: int) -> list[Row]:
        """The next chunks that a page may need, in the order of time."""
        conditions = Conditions()
        conditions.add("series.capture_session_id = %s", query.capture_session_id)
        conditions.add("sensor_id = %s AND signal = %s", query.sensor_id, query.signal)
        if start is not None:
            conditions.add("ends_at >= %s", moment(start))
        if query.end is not None:
            conditions.add("starts_at < %s", moment(query.end))
        if after is not None:
            conditions.add("(starts_at, position) > (%s, %s)", after[2], after[1])
        return await self._statements.ask(
            "SELECT series_id, position, starts_at, count FROM telemetry_chunks JOIN telemetry_series AS series"
            " ON series.id = series_id AND series.capture_session_id = telemetry_chunks.capture_session_id"
            f" WHERE {' AND '.join(conditions.texts)} ORDER BY starts_at, position LIMIT %s",
            [*conditions.parameters, most],
        ).rows()


_NONE = uuid.UUID(int=0)


def _of_runs(run_ids: Sequence[UUID], signals: Collection[str]) -> tuple[str, list[Any]]:
    """The condition on the series of runs, and its parameters."""
    where = "session.run_id = ANY(%s) AND session.deleted_at IS NULL"
    return (f"{where} AND series.signal = ANY(%s)", [run_ids, list(signals)]) if signals else (where, [run_ids])


def _metrics(found: Sequence[Summary]) -> list[Metrics]:
    """Summaries of the series of one run, those of its sessions together."""

    def key(summary: Summary) -> tuple[UUID, str, bool, UUID, int]:
        profile_id = summary.profile_id
        return summary.sensor_id, summary.signal, profile_id is None, profile_id or _NONE, summary.at or 0

    results: list[Metrics] = []
    for (sensor_id, signal, is_raw, profile_id, _), group in groupby(sorted(found, key=key), key):
        together = list(group)
        part = joined(summary.part for summary in together)
        count = part.statistics.count if part.statistics else 0
        at = together[0].at
        results.append(
            Metrics(
                sensor_id=sensor_id,
                signal=signal,
                layer=Layer.RAW if is_raw else Layer.PHYSICAL,
                profile_id=None if is_raw else profile_id,
                late=part.late,
                out_of_range=part.readings - count,
                duration=part.duration,
                statistics=part.statistics,
                # A bucket may begin before the first year there is.
                timestamp=None if at is None else moment(max(at, EARLIEST)),
            )
        )
    return results


def _enough(headers: Sequence[Row], place: int, wanted: int) -> int:
    """How many chunks from `place` on hold `wanted` readings, or all that are left."""
    held = 0
    for number, (_, _, _, count) in enumerate(headers[place:], start=1):
        held += count
        if held >= wanted:
            return number
    return len(headers) - place


def _between(merged: Merged, start: int | None, end: int | None) -> Merged:
    low = 0 if start is None else int(np.searchsorted(merged.timestamps, start))
    high = len(merged.timestamps) if end is None else int(np.searchsorted(merged.timestamps, end))
    return Merged(timestamps=merged.timestamps[low:high], values=merged.values[low:high], late=merged.late[low:high])


def _readings(page: Sequence[Merged], limit: int) -> Readings:
    timestamps, values = array("q"), array("d")
    for merged in page:
        timestamps.frombytes(merged.timestamps.tobytes())
        values.frombytes(merged.values.tobytes())
    return Readings(timestamps=timestamps[:limit], values=values[:limit], more=len(timestamps) > limit)
