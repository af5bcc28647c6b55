"""`migrate`: the database's schema."""

from typing import Annotated

from cyclopts import Parameter

from experiment_http.cli.failure import CommandFailed, one_line
from experiment_http.cli.local import checked_settings

HEAD = "head"


def migrate(*, to: str = HEAD, sql: Annotated[bool, Parameter(negative=(), show_default=False)] = False) -> None:
    """Bring the database at EXPERIMENT_DATABASE_URL to the schema of this version.

    It is safe to start it anywhere and more than once: one migration runs at a time, and what is done is not done
    again. `up` migrates by itself.

    Parameters
    ----------
    to
        The revision to end with.
    sql
        Print the SQL that brings an empty database there, and touch none.
    """
    from alembic.util import CommandError  # noqa: PLC0415

    from experiment_adapters.postgres.migrations import as_sql  # noqa: PLC0415

    if sql:
        try:
            as_sql(to)
        except CommandError as error:
            raise CommandFailed(error) from error
        return
    url = configured_database()
    if url is None:
        raise CommandFailed("EXPERIMENT_DATABASE_URL is not set: postgresql://user:password@host:port/database")
    upgrade_database(url, to)


def configured_database() -> str | None:
    """The database that the environment names, if it does."""
    settings = checked_settings()
    return None if settings.database is None else settings.database.url


def upgrade_database(url: str, revision: str = HEAD) -> None:
    """Migrate the database at `url`. Raises `CommandFailed`."""
    from alembic.util import CommandError  # noqa: PLC0415
    from psycopg import Error as DriverError  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from experiment_adapters.postgres.migrations import upgrade  # noqa: PLC0415

    try:
        upgrade(url, revision)
    except (CommandError, SQLAlchemyError, DriverError) as error:
        # SQLAlchemy's text goes on with the statement and a link; the driver's own says what is wrong.
        reason = getattr(error, "orig", None) or error
        raise CommandFailed(f"the database was not migrated: {one_line(str(reason).split('[SQL:')[0])}") from error
