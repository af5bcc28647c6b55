"""Recordings as the API would have stored them, made by SQL: far more of them than could be sent in a test."""

from datetime import datetime
from uuid import UUID

import psycopg
from attrs import frozen

_STATISTICS = """
    min(at), max(at), count(*), min({value}), max({value}), avg({value}), coalesce(var_pop({value}) * count(*), 0),
    (array_agg({value} ORDER BY at))[1], (array_agg({value} ORDER BY at DESC))[1]
"""
# One batch a chunk: readings a second apart, the value a plain function of the second.
_BATCHES = """
CREATE TEMPORARY TABLE batch ON COMMIT DROP AS
SELECT number, nextval('telemetry_positions') AS before, nextval('telemetry_positions') AS position,
    %(start)s::timestamptz + number * %(each)s::int * interval '1 second' AS starts_at
FROM generate_series(%(first)s::int, %(first)s::int + %(count)s::int - 1) AS number ORDER BY number;
CREATE TEMPORARY TABLE reading ON COMMIT DROP AS
SELECT position, starts_at + place * interval '1 second' AS at, sin((number * %(each)s + place) / 1000.0) * 40 AS value
FROM batch, generate_series(0, %(each)s - 1) AS place;
INSERT INTO telemetry_batches
    (sensor_id, key, capture_session_id, digest, accepted, late, received_at, starts_at, position)
SELECT %(sensor)s::uuid, 'sha256:' || encode(digest, 'hex'), %(session)s, digest, %(each)s, 0,
    starts_at + %(each)s * interval '1 second', starts_at, before
FROM batch, sha256(convert_to(%(sensor)s || number::text, 'UTF8')) AS digest;
INSERT INTO telemetry_chunks (transaction_id, capture_session_id, series_id, position, late, starts_at, ends_at, count,
    minimum, maximum, mean, squares, first, last, timestamps, "values")
SELECT pg_current_xact_id(), %(session)s, %(series)s, position, false, {raw}, (array_agg(at ORDER BY at))[:2],
    array_agg(value ORDER BY at)
FROM reading GROUP BY position ORDER BY position;
INSERT INTO telemetry_physical_chunks
    (capture_session_id, series_id, profile_id, position, count, minimum, maximum, mean, squares, first, last, "values")
SELECT %(session)s, %(series)s, %(profile)s, position, {physical}, array_agg(value * 2 ORDER BY at)
FROM reading GROUP BY position ORDER BY position
""".format(
    raw=_STATISTICS.format(value="value"),
    physical=_STATISTICS.format(value="value * 2").split(",", 2)[2],
)
SIZE = """
SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r' AND relname LIKE 'telemetry\\_%'
"""


@frozen(kw_only=True)
class Recording:
    """One series of a sensor whose profile doubles, as it lies in the tables; there is a first batch of it already."""

    session_id: UUID
    sensor_id: UUID
    series_id: int
    profile_id: UUID
    start: datetime

    @classmethod
    def found(cls, connection: psycopg.Connection, start: datetime) -> "Recording":
        """The one series that there is."""
        row = connection.execute(
            "SELECT capture_session_id, sensor_id, id, profile_id FROM telemetry_series"
        ).fetchone()
        assert row is not None
        return cls(session_id=row[0], sensor_id=row[1], series_id=row[2], profile_id=row[3], start=start)

    def add(self, connection: psycopg.Connection, *, first: int, count: int, each: int) -> None:
        """Batches of so many readings, one reading a second, from the `first` one on."""
        values = {
            "session": self.session_id,
            "sensor": str(self.sensor_id),
            "series": self.series_id,
            "profile": self.profile_id,
            "start": self.start,
            "first": first,
            "count": count,
            "each": each,
        }
        with connection.transaction():
            for statement in _BATCHES.split(";"):
                connection.execute(statement.encode(), values)


def bytes_stored(connection: psycopg.Connection) -> int:
    """What all telemetry tables take, with their indexes and everything."""
    row = connection.execute(SIZE.encode()).fetchone()
    assert row is not None
    return row[0]
