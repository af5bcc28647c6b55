"""A unit of work that only writes goes to PostgreSQL in one go, and is kept whole or not at all.

Its end is said: where the pipeline is left to be a transaction by itself, an error at its end throws the driver out of
step.
"""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from experiment_adapters.postgres.statements import Pool, Statements
from experiment_domain.kernel.errors import Conflict

TABLE = "whole_transactions"
INSERT = f"INSERT INTO {TABLE} VALUES (%s)"


@pytest.fixture(scope="module")
def table(module_postgres_url: str) -> Iterator[str]:
    """A table of numbers that occur once each, which is looked at in the end."""
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE {TABLE} (number integer CHECK (number > 0) UNIQUE DEFERRABLE INITIALLY DEFERRED)".encode()
        )
        yield module_postgres_url
        connection.execute(f"DROP TABLE {TABLE}".encode())


@pytest.fixture
def pool(runner: asyncio.Runner, table: str) -> Iterator[Pool]:
    """One connection, which whoever comes next has to do with."""
    pool = Pool(table, kwargs={"autocommit": True}, min_size=1, max_size=1, open=False)
    runner.run(pool.open())
    yield pool
    runner.run(pool.close())
    with psycopg.connect(table, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLE}".encode())


async def _write(pool: Pool, *numbers: int) -> None:
    statements = Statements(pool, in_transaction=True, patience=10.0)
    try:
        for number in numbers:
            statements.write(INSERT, [number])
        await statements.commit()
    finally:
        await statements.close()


async def _kept(pool: Pool) -> list[int]:
    statements = Statements(pool, in_transaction=False, patience=10.0)
    try:
        return [number for (number,) in await statements.ask(f"SELECT number FROM {TABLE} ORDER BY 1", []).rows()]
    finally:
        await statements.close()


@pytest.mark.postgres
async def test_all_of_it_is_kept(pool: Pool) -> None:
    await _write(pool, 1, 2, 3)
    await _write(pool, 4)
    assert await _kept(pool) == [1, 2, 3, 4]


@pytest.mark.postgres
@pytest.mark.parametrize("numbers", [(5, 6, -1, 7), (-1, 5), (5, -1)])
async def test_nothing_is_kept_of_one_that_fails_half_way(pool: Pool, numbers: tuple[int, ...]) -> None:
    await _write(pool, 1)
    with pytest.raises(psycopg.errors.CheckViolation):
        await _write(pool, *numbers)
    assert await _kept(pool) == [1]
    await _write(pool, 2)
    assert await _kept(pool) == [1, 2]


@pytest.mark.postgres
async def test_nothing_is_kept_of_one_that_fails_when_it_is_committed(pool: Pool) -> None:
    """Nobody is told that something was kept which a deferred constraint has refused in the very end."""
    await _write(pool, 1)
    for numbers in ((5, 6, 1), (7, 7)):
        with pytest.raises(Conflict):
            await _write(pool, *numbers)
        assert await _kept(pool) == [1]
    await _write(pool, 2)
    assert await _kept(pool) == [1, 2]
