"""The audit log, as it is asked over HTTP."""

import asyncio

import psycopg

from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from http_api import Client, app_over, token_of

CONNECTIONS = 3


async def test_those_who_verify_leave_connections_to_others(runner: object, postgres_url: str) -> None:
    settings = DatabaseSettings(url=postgres_url, pool_max=CONNECTIONS, pool_timeout=1.0, statement_timeout=60.0)
    async with PostgresUnitsOfWork.open(settings=settings) as units:
        ada = Client(app_over(units), token_of("ada"))
        await ada.done("POST", "/projects", {"name": "Rig 7"})
        async with await psycopg.AsyncConnection.connect(postgres_url) as holding:
            # What is walked cannot be read for now, as if it took long to.
            await holding.execute("LOCK TABLE audit_strands IN ACCESS EXCLUSIVE MODE")
            async with asyncio.TaskGroup() as tasks:
                verified = [tasks.create_task(ada.done("GET", "/audit/verify")) for _ in range(2 * CONNECTIONS)]
                async with asyncio.timeout(30):
                    while not await _waiting(postgres_url):  # noqa: ASYNC110 - PostgreSQL tells nobody
                        await asyncio.sleep(0.01)
                for _ in range(5):
                    await ada.done("GET", "/projects")
                assert not any(task.done() for task in verified)
                await holding.rollback()
    assert all(task.result()["ok"] for task in verified)


async def _waiting(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        row = await cursor.fetchone()
        assert row is not None
        return row[0]
