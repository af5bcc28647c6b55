"""PostgreSQL: units of work over psycopg 3 and its pipeline mode."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork

__all__ = ["PostgresUnitsOfWork"]


def __getattr__(name: str) -> Any:
    """The driver is imported where it is used: settings and migrations of this package do without."""
    if name != "PostgresUnitsOfWork":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork  # noqa: PLC0415

    return PostgresUnitsOfWork
