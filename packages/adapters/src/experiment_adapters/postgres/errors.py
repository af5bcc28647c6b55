"""What PostgreSQL refuses, in the words of the domain: the one table from SQLSTATE and constraint to refusal."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from experiment_domain.kernel.errors import Conflict, Refusal, Unavailable, VersionMismatch

_CONSTRAINTS = {
    "capture_sessions_running": ("session_already_running", "A run has at most one running session."),
    "capture_sessions_ordinals": ("ordinal_taken", "Another session of this run took the same ordinal."),
    "conversion_profiles_published": ("already_published", "Another version of this sensor is published."),
    "conversion_profiles_versions": ("version_taken", "Another profile of this sensor took the same version."),
    "telemetry_batches_pkey": ("duplicate_batch", "This batch was accepted before."),
}

_EXPECTED_ONE_ROW = "XP001"


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
        case (
            errors.SerializationFailure()
            | errors.DeadlockDetected()
            | errors.LockNotAvailable()
            | errors.QueryCanceled()
            | errors.ReadOnlySqlTransaction()
            | errors.AdminShutdown()
            | errors.CrashShutdown()
            | errors.CannotConnectNow()
            | errors.TooManyConnections()
            | errors.IdleInTransactionSessionTimeout()
            | errors.DiskFull()
            | PoolTimeout()
            | PoolClosed()
            | TooManyRequests()
        ):
            return Unavailable()
        case psycopg.Error(sqlstate=None) if isinstance(error, psycopg.OperationalError):
            # Without a state it is the connection itself: refused, reset, timed out.
            return Unavailable()
        case _:
            return error
