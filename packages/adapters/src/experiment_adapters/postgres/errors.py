"""What PostgreSQL refuses, in the words of the domain: the one table from SQLSTATE and constraint to refusal."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from experiment_domain.kernel.errors import BrokenOff, Conflict, Refusal, Unavailable, VersionMismatch

_CONSTRAINTS = {
    "backfills_active": ("active_backfills", "Another backfill does the same."),
    "capture_sessions_running": ("session_already_running", "A run has at most one running session."),
    "capture_sessions_ordinals": ("ordinal_taken", "Another session of this run took the same ordinal."),
    "conversion_profiles_published": ("already_published", "Another version of this sensor is published."),
    "conversion_profiles_versions": ("version_taken", "Another profile of this sensor took the same version."),
    "telemetry_batches_pkey": ("duplicate_batch", "This batch was accepted before."),
}

_EXPECTED_ONE_ROW = "XP001"

_AWAY = "The service cannot reach its database right now: try again."
_NO_CONNECTION = (
    "The service got no connection to its database in time: too much is asked at once, or it is away. Try again."
)
_OVERLOADED = "The service has too much to do right now: try again."
_TOO_LONG = "The database took too long and was stopped: try again, or ask for less at once."
_CONTENDED = "Too much was done to the same things at once: try again."
_FULL = "The service's database has no room left right now: try again later."
_READ_ONLY = "The service's database takes no changes right now: try again."
_STANDBY = "the server that answers takes no changes: it is, or has become, a standby"
"""For the log: the driver's own words name a statement, and not what is wrong with the server."""
_OTHER_SCHEMA = "the database may not have the schema of this version: `experiment-service migrate` brings it there"
"""For the log, too: to whoever has forgotten it, a table that is missing looks like a fault of the program."""


@contextmanager
def refusals() -> Iterator[None]:
    """Raise the domain's refusal for what the driver raises."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, PoolClosed, TooManyRequests) as error:
        raise refusal_of(error) from error


def refusal_of(error: Exception) -> Refusal | Exception:
    """The refusal that an error of the driver means; the error itself where it is a fault of the program."""
    match error:
        case psycopg.Error(sqlstate=state) if state == _EXPECTED_ONE_ROW:
            return VersionMismatch("entity")
        case errors.UniqueViolation(diag=diagnostics) | errors.ExclusionViolation(diag=diagnostics):
            known = _CONSTRAINTS.get(diagnostics.constraint_name or "")
            return Conflict(*(known or ("already_exists", "There is one already.")))
        case errors.ForeignKeyViolation():
            return Conflict("reference_missing", "Something that this refers to is gone, or something refers to this.")
        case PoolTimeout():
            # The pool is as silent where all connections are taken as where none can be made.
            return Unavailable(_NO_CONNECTION)
        case errors.TooManyConnections() | TooManyRequests():
            return Unavailable(_OVERLOADED)
        case errors.QueryCanceled() | errors.IdleInTransactionSessionTimeout():
            return BrokenOff(_TOO_LONG)
        case errors.SerializationFailure() | errors.DeadlockDetected() | errors.LockNotAvailable():
            return BrokenOff(_CONTENDED)
        case errors.DiskFull():
            return Unavailable(_FULL)
        case errors.ReadOnlySqlTransaction():
            _note(error, _STANDBY)
            return Unavailable(_READ_ONLY)
        case errors.AdminShutdown() | errors.CrashShutdown() | errors.CannotConnectNow() | PoolClosed():
            return Unavailable(_AWAY)
        case psycopg.Error(sqlstate=None) if isinstance(error, psycopg.OperationalError):
            # Without a state it is the connection itself: refused, reset, timed out.
            return Unavailable(_AWAY)
        case errors.UndefinedTable() | errors.UndefinedColumn() | errors.UndefinedFunction():
            _note(error, _OTHER_SCHEMA)
            return error
        case _:
            return error


def _note(error: Exception, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):  # a failed transaction raises the same error again
        error.add_note(note)
