"""Scalar metrics in PostgreSQL: values of a name in chunks, the last few beside what is known of the name."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from attrs import field, frozen

from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.telemetry.arrays import FloatArray, TimestampArray
from experiment_domain.scalars import KnownScalars, Place, Scalar, ScalarMetrics, ScalarPage
from experiment_domain.telemetry.batches import micros, moment

CHUNK = 64
"""As many values of a name become a chunk: fewer would cost more room, more would be written anew more often."""
LARGEST = 1_024
"""The most values of a chunk: a page reads a few chunks, whole."""

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s::uuid::text || '/scalar_metrics', 0))"
_KNOWN = """
SELECT (SELECT count(*) FROM scalar_metrics WHERE run_id = %s),
    ARRAY(
        SELECT ROW(name, count, latest_step, latest_value, latest_timestamp, steps, "values", timestamps)
        FROM scalar_metrics WHERE run_id = %s AND name = ANY(%s)
    )
"""
_PARTS = """
FROM (SELECT %s::bigint[] AS steps, %s::float8[] AS "values", %s::timestamptz[] AS timestamps) AS every
"""
_KEEP_METRICS = f"""
INSERT INTO scalar_metrics AS metric
    (run_id, name, count, latest_step, latest_value, latest_timestamp, steps, "values", timestamps)
SELECT %s, part.name, part.count, part.latest_step, part.latest_value, part.latest_timestamp,
    every.steps[part.low:part.high], every.values[part.low:part.high], every.timestamps[part.low:part.high]
{_PARTS}
CROSS JOIN unnest(%s::text[], %s::bigint[], %s::bigint[], %s::float8[], %s::timestamptz[], %s::int[], %s::int[])
    AS part (name, count, latest_step, latest_value, latest_timestamp, low, high)
ON CONFLICT (run_id, name) DO UPDATE SET count = excluded.count, latest_step = excluded.latest_step,
    latest_value = excluded.latest_value, latest_timestamp = excluded.latest_timestamp,
    steps = excluded.steps, "values" = excluded."values", timestamps = excluded.timestamps
"""
_KEEP_CHUNKS = f"""
INSERT INTO scalar_metric_chunks (metric_id, first_step, last_step, position, steps, "values", timestamps)
SELECT metric.id, part.first_step, part.last_step, part.position,
    every.steps[part.low:part.high], every.values[part.low:part.high], every.timestamps[part.low:part.high]
{_PARTS}
CROSS JOIN unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::int[], %s::int[])
    AS part (name, first_step, last_step, position, low, high)
JOIN scalar_metrics AS metric ON metric.run_id = %s AND metric.name = part.name
"""
# Of each name the first chunks by their first steps; of all names together those that begin first. The values that are
# in no chunk yet come in the same statement: they may be put into one at any moment.
_VALUES = """
(
    SELECT metric.name, chunk.position, chunk.first_step, chunk.steps, chunk."values", chunk.timestamps
    FROM scalar_metrics AS metric
    CROSS JOIN LATERAL (
        SELECT * FROM scalar_metric_chunks WHERE metric_id = metric.id AND last_step >= %s
        ORDER BY first_step, last_step, position LIMIT %s
    ) AS chunk
    WHERE metric.run_id = %s AND metric.name = ANY(%s)
    ORDER BY chunk.first_step, metric.name, chunk.last_step, chunk.position LIMIT %s
)
UNION ALL
SELECT name, count - cardinality(steps), NULL, steps, "values", timestamps
FROM scalar_metrics WHERE run_id = %s AND name = ANY(%s) AND steps <> '{}'
"""
_LATEST = """
SELECT run_id, name, latest_value, latest_step, latest_timestamp FROM scalar_metrics
WHERE run_id = ANY(%s) ORDER BY run_id, name
"""


@frozen
class _Values:
    """Values of one name, side by side; timestamps in microseconds."""

    steps: list[int] = field(factory=list[int])
    values: list[float] = field(factory=list[float])
    timestamps: list[int] = field(factory=list[int])

    def add(self, other: "_Values") -> None:
        self.steps.extend(other.steps)
        self.values.extend(other.values)
        self.timestamps.extend(other.timestamps)

    def parameters(self) -> list[Any]:
        return [
            self.steps,
            FloatArray.of(np.array(self.values, np.float64)),
            TimestampArray.of(np.array(self.timestamps, np.int64)),
        ]


class PostgresScalars(ScalarMetrics):
    """Keeps what is known of names in `scalar_metrics`, values in `scalar_metric_chunks`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._held: dict[str, Row] = {}

    async def hold(self, run_id: UUID, names: Collection[str]) -> KnownScalars:
        # The lock is a statement of its own: the query then sees what was committed while it was waited for.
        self._statements.write(_LOCK, [run_id])
        row = await self._statements.ask(_KNOWN, [run_id, run_id, list(names)]).row()
        assert row is not None  # noqa: S101 - it always has one
        count, known = row
        self._held = {metric[0]: metric for metric in known}
        return KnownScalars(names=count, last_steps={name: metric[2] for name, metric in self._held.items()})

    def append(self, run_id: UUID, scalars: Sequence[Scalar]) -> None:
        by_name: dict[str, list[Scalar]] = {}
        for scalar in scalars:
            by_name.setdefault(scalar.name, []).append(scalar)
        tails, chunked = _Values(), _Values()
        metrics: list[tuple[Any, ...]] = []
        chunks: list[tuple[Any, ...]] = []
        for name, new in by_name.items():
            _, count, *latest, steps, values, timestamps = self._held.get(name, _NEW)
            tail = _Values(list(steps), list(values), list(timestamps))
            before = count - len(steps)
            for scalar in new:
                if latest[0] is None or scalar.step >= latest[0]:
                    latest = [scalar.step, scalar.value, scalar.timestamp]
                tail.steps.append(scalar.step)
                tail.values.append(scalar.value)
                tail.timestamps.append(micros(scalar.timestamp))
            if len(tail.steps) >= CHUNK:
                for start in range(0, len(tail.steps), LARGEST):
                    part = tail.steps[start : start + LARGEST]
                    low = len(chunked.steps) + start + 1
                    chunks.append((name, min(part), max(part), before + start, low, low + len(part) - 1))
                chunked.add(tail)
                tail = _Values()
            low = len(tails.steps) + 1
            metrics.append((name, count + len(new), *latest, low, low + len(tail.steps) - 1))
            tails.add(tail)
        self._statements.write(_KEEP_METRICS, [run_id, *tails.parameters(), *map(list, zip(*metrics, strict=True))])
        if chunks:
            self._statements.write(_KEEP_CHUNKS, [*chunked.parameters(), *map(list, zip(*chunks, strict=True)), run_id])

    async def history(
        self, run_id: UUID, names: Collection[str], *, limit: int, after: Place | None = None
    ) -> ScalarPage:
        from_step = -(2**63) if after is None else after[0]
        wanted = [run_id, list(names)]
        most = limit // CHUNK + 2
        while True:
            rows = await self._statements.ask(_VALUES, [from_step, most, *wanted, most, *wanted]).rows()
            begin = [row[2] for row in rows if row[2] is not None]
            # Where there are more chunks, what lies before the last of these is complete.
            before = max(begin) if len(begin) == most else None
            page = _page(rows, limit=limit, after=after, before=before)
            if before is None or page.next is not None:
                return page
            most *= 4

    async def latest(self, run_ids: Collection[UUID]) -> Mapping[UUID, Sequence[Scalar]]:
        found: dict[UUID, list[Scalar]] = {}
        for run_id, name, value, step, timestamp in await self._statements.ask(_LATEST, [list(run_ids)]).rows():
            scalar = Scalar(name=name, value=value, step=step, timestamp=timestamp)
            found.setdefault(run_id, []).append(scalar)
        return found

    async def any_in(self, run_id: UUID) -> bool:
        return await self._statements.ask(
            "SELECT EXISTS (SELECT FROM scalar_metrics WHERE run_id = %s)", [run_id]
        ).value()


_NEW: Row = ("", 0, None, None, None, (), (), ())


def _page(rows: Sequence[Row], *, limit: int, after: Place | None, before: int | None) -> ScalarPage:
    """The page of the values in `rows` that follow the place `after`; those from the step `before` on do not count."""
    if not rows:
        return ScalarPage(items=[])
    sizes = [len(row[3]) for row in rows]
    names = sorted({row[0] for row in rows})
    steps = np.concatenate([np.array(row[3], np.int64) for row in rows])
    values = np.concatenate([row[4] for row in rows])
    timestamps = np.concatenate([row[5] for row in rows])
    ranks = np.repeat([names.index(row[0]) for row in rows], sizes)
    positions = np.concatenate([np.arange(size) + row[1] for row, size in zip(rows, sizes, strict=True)])
    order = np.lexsort((positions, ranks, steps))
    if before is not None:
        order = order[steps[order] < before]

    def place(at: Any) -> Place:
        return int(steps[at]), names[int(ranks[at])], int(positions[at])

    start = 0
    if after is not None:
        # Only values of that very step can come before it.
        start = int(np.searchsorted(steps[order], after[0]))
        while start < len(order) and place(order[start]) <= after:
            start += 1
    part = order[start : start + limit]
    return ScalarPage(
        items=[
            Scalar(name=names[rank], value=value, step=step, timestamp=moment(timestamp))
            for rank, value, step, timestamp in zip(
                ranks[part].tolist(),
                values[part].tolist(),
                steps[part].tolist(),
                timestamps[part].tolist(),
                strict=True,
            )
        ],
        next=place(part[-1]) if len(order) > start + limit else None,
    )
