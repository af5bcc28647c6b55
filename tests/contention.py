"""A database that many work on at once, and whether they ever waited for each other in a circle."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg

from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork

CONNECTIONS = 16


@asynccontextmanager
async def contended(url: str) -> AsyncGenerator[PostgresUnitsOfWork]:
    """Units of work on a pool that is smaller than the crowd, but patient; at the end PostgreSQL has seen no deadlock.

    What is tested is not how long anybody waits: on a busy machine, that may be seconds.
    """
    settings = DatabaseSettings(url=url, pool_max=CONNECTIONS, pool_timeout=120.0, statement_timeout=60.0)
    before = await deadlocks(url)
    async with PostgresUnitsOfWork.open(settings=settings) as units:
        yield units
    # The pool is closed: every connection has told its statistics.
    assert await deadlocks(url) == before


async def deadlocks(url: str) -> int:
    """How many deadlocks there ever were in this database."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        # Who has just left may still be telling.
        await (
            await connection.execute(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'experiment-service'"
            )
        ).fetchall()
        cursor = await connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        row = await cursor.fetchone()
        assert row is not None
        return row[0]
