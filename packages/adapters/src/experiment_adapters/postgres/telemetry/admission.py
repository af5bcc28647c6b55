"""Admission of batches: what is known of their sensor, and of the sessions that they may go to, which are held."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from experiment_adapters.postgres.captures import LOCK_KEY, lock_key
from experiment_adapters.postgres.conversions import CONVERSION_PROFILES
from experiment_adapters.postgres.sensors import HAS_TOKEN, SENSORS
from experiment_adapters.postgres.statements import Row, Statements
from experiment_adapters.postgres.vigils import LIVING
from experiment_domain.captures import CaptureStatus
from experiment_domain.telemetry.store import Admission, Destination, Receipt

_MARKS_UNTIL = (
    "(SELECT extract(epoch FROM max(ends_at))::float8 * 1000000 FROM telemetry_marks WHERE sensor_id = sensors.id)"
)
_SESSION = (
    "session.id, session.project_id, session.run_id, session.status, pin.sensor_id IS NOT NULL,"
    " ARRAY(SELECT signal FROM telemetry_series AS series"
    " WHERE series.capture_session_id = session.id AND series.sensor_id = sensors.id), session.stopped_at,"
    f" NOT EXISTS (SELECT FROM run_vigils WHERE run_vigils.run_id = session.run_id AND {LIVING})"
)
_LAYER = "coalesce(layer.is_current, true)"
# Of batches without a session, whatever one they went to, the latest last: a client that did not hear the answer sends
# again, perhaps after the session is over.
_RECEIPTS = (
    "ARRAY(SELECT ROW(key, batch.capture_session_id, digest, accepted, late, received_at)"
    " FROM telemetry_batches AS batch WHERE batch.sensor_id = sensors.id AND key = ANY(%s){} ORDER BY received_at)"
)

# The session that batches name, if the sensor takes part in it or it is of a project that knows the sensor: a row
# for each whole layer of its readings there, or one where they have no other than the one of the pin, if that.
_TO_NAMED_SESSION = f"""
SELECT {SENSORS.columns}, projects.future_tolerance, {_MARKS_UNTIL},
    {_RECEIPTS.format(" AND batch.capture_session_id = %s")}, {_SESSION}, {_LAYER}, {CONVERSION_PROFILES.columns}
FROM sensors
JOIN projects ON projects.id = sensors.project_id
LEFT JOIN capture_session_pins AS pin ON pin.capture_session_id = %s AND pin.sensor_id = sensors.id
LEFT JOIN capture_sessions AS session ON session.id = %s AND session.deleted_at IS NULL AND (
    pin.sensor_id IS NOT NULL OR session.project_id = sensors.project_id OR EXISTS (
        SELECT FROM sensor_projects
        WHERE sensor_projects.sensor_id = sensors.id AND sensor_projects.project_id = session.project_id
    )
)
LEFT JOIN telemetry_layers AS layer ON layer.capture_session_id = pin.capture_session_id
    AND layer.sensor_id = pin.sensor_id
LEFT JOIN conversion_profiles ON conversion_profiles.id = coalesce(layer.profile_id, pin.profile_id)
WHERE {HAS_TOKEN}
"""

# The running sessions of a sensor. Backfills are for sessions that are over: here the pinned profile is the only one.
_TO_RUNNING_SESSION = f"""
SELECT {SENSORS.columns}, projects.future_tolerance, {_MARKS_UNTIL}, {_RECEIPTS.format("")},
    {_SESSION}, true, {CONVERSION_PROFILES.columns}
FROM sensors
JOIN projects ON projects.id = sensors.project_id
LEFT JOIN (
    capture_session_pins AS pin
    JOIN capture_sessions AS session ON session.id = pin.capture_session_id AND session.status = 'running'
) ON pin.sensor_id = sensors.id
LEFT JOIN conversion_profiles ON conversion_profiles.id = pin.profile_id
WHERE {HAS_TOKEN}
ORDER BY session.id
"""

# Batches are locked by their sensor and keys: by its token one would not meet itself sent with the next one. All locks
# are taken in one order, and before that of the session, so that two units of work never wait in a circle.
_LOCK_BATCHES = f"""
SELECT pg_advisory_xact_lock(place) FROM (
    SELECT hashtextextended(sensors.id::text || key, 0) AS place FROM sensors, unnest(%s::text[]) AS key
    WHERE {HAS_TOKEN} ORDER BY place
) AS places
"""
_LOCK_NAMED_SESSION = f"""
SELECT pg_advisory_xact_lock_shared(%s)
FROM (SELECT count(locked) FROM ({_LOCK_BATCHES}) AS batches (locked)) AS held
"""
# In the order in which commands on several runs take them, so that none waits for the other in a circle.
_LOCK_RUNNING_SESSIONS = f"""
SELECT id, pg_advisory_xact_lock_shared({LOCK_KEY})
FROM (
    SELECT capture_sessions.id
    FROM sensors
    JOIN capture_session_pins ON capture_session_pins.sensor_id = sensors.id
    JOIN capture_sessions ON capture_sessions.id = capture_session_id AND capture_sessions.status = 'running'
    WHERE {HAS_TOKEN} ORDER BY run_id
) AS running
"""

_AT_SESSION = SENSORS.width + 3
"""Where the columns of a session begin in the row of an admission, after those of the sensor and of its receipts."""
_AT_LAYER = 8
"""Where, among those of a session, it says whether the profile that follows is that of the current layer."""


async def admit(
    statements: Statements, token_hash: bytes, capture_session_id: UUID | None, keys: Sequence[str], at: datetime
) -> tuple[Admission | None, set[tuple[UUID, UUID, str]]]:
    """What `TelemetryStore.admit` answers, and which series there are, by session, sensor and signal."""
    token = [token_hash, token_hash, at]
    # The locks come in statements of their own: the query then sees what was committed while they were waited for.
    if capture_session_id is not None:
        statements.write(_LOCK_NAMED_SESSION, [lock_key(capture_session_id), list(keys), *token])
        named = [list(keys), *[capture_session_id] * 3, *token]
        rows = await statements.ask(_TO_NAMED_SESSION, named).rows()
    else:
        statements.write(_LOCK_BATCHES, [list(keys), *token])
        rows = await _to_running_sessions(statements, list(keys), token)
    return _admission(rows) if rows else None, _series_of(rows)


async def _to_running_sessions(statements: Statements, keys: Sequence[str], token: Sequence[Any]) -> list[Row]:
    """The rows of an admission to the running sessions, of which each is held."""
    statements.write("SAVEPOINT before_sessions", [])
    while True:
        held = statements.ask(_LOCK_RUNNING_SESSIONS, token)
        rows = await statements.ask(_TO_RUNNING_SESSION, [keys, *token]).rows()
        # A session may start between the two statements: then it is not held, and both are asked again, with all of
        # them let go: to take one more would not be in order.
        if {row[_AT_SESSION] for row in rows} - {None} <= {row[0] for row in await held.rows()}:
            return rows
        statements.write("ROLLBACK TO SAVEPOINT before_sessions", [])


def _series_of(rows: Sequence[Row]) -> set[tuple[UUID, UUID, str]]:
    """Which series there are, by session, sensor and signal."""
    return {(row[_AT_SESSION], row[0], signal) for row in rows for signal in row[_AT_SESSION + 5]}


def _admission(rows: Sequence[Row]) -> Admission:
    sensor = SENSORS.entity(rows[0])
    tolerance, marks_until, receipts = rows[0][SENSORS.width : _AT_SESSION]
    destinations = [
        _destination([row[_AT_SESSION:] for row in found])
        for session_id, found in groupby(rows, lambda row: row[_AT_SESSION])
        if session_id is not None
    ]
    return Admission(
        sensor=sensor,
        destinations=destinations,
        future_tolerance=tolerance,
        repeated={
            key: Receipt(
                capture_session_id=session_id,
                sensor_id=sensor.id,
                key=key,
                digest=digest,
                accepted=accepted,
                late=late,
                received_at=received_at,
            )
            for key, session_id, digest, accepted, late, received_at in receipts
        },
        marks_until=marks_until,
    )


def _destination(rows: Sequence[Row]) -> Destination:
    """The session of rows that differ only in the layer of which each tells the profile."""
    session_id, project_id, run_id, status, takes_part, signals, stopped_at, is_due, *_ = rows[0]
    profiles = [
        (is_current, CONVERSION_PROFILES.entity(tuple(profile)))
        for is_current, profile in ((row[_AT_LAYER], row[_AT_LAYER + 1 :]) for row in rows)
        if profile[0] is not None
    ]
    return Destination(
        capture_session_id=session_id,
        project_id=project_id,
        run_id=run_id,
        status=CaptureStatus(status),
        stopped_at=stopped_at,
        profile=next((profile for is_current, profile in profiles if is_current), None),
        others=[profile for is_current, profile in profiles if not is_current],
        signals=frozenset(signals),
        takes_part=takes_part,
        run_is_due_for_a_sign=is_due,
    )
