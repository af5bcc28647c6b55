"""What PostgreSQL cannot do right now is told apart: for the caller in a sentence, for the log by its cause."""

import asyncio

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from entities import fresh
from experiment_adapters.postgres.errors import refusal_of, refusals
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.statements import Connection, Pool, Statements
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import BrokenOff, Unavailable

CONNECTIONS = 8


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PoolTimeout("couldn't get a connection after 3.00 sec"), "too much is asked at once, or it is away"),
        (TooManyRequests("the pool has already 10 requests"), "too much to do"),
        (errors.TooManyConnections(), "too much to do"),
        (errors.QueryCanceled("canceling statement due to statement timeout"), "took too long"),
        (errors.DeadlockDetected(), "the same things at once"),
        (errors.SerializationFailure(), "the same things at once"),
        (errors.DiskFull(), "no room left"),
        (errors.ReadOnlySqlTransaction(), "takes no changes"),
        (errors.AdminShutdown(), "cannot reach its database"),
        (errors.CannotConnectNow(), "cannot reach its database"),
        (psycopg.OperationalError("connection failed"), "cannot reach its database"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_sentence_says_what_is_known(error: Exception, said: str):
    refusal = refusal_of(error)
    assert isinstance(refusal, Unavailable)
    assert said in refusal.detail


@pytest.mark.parametrize(
    ("error", "less_may_do"),
    [
        (errors.QueryCanceled(), True),
        (errors.IdleInTransactionSessionTimeout(), True),
        (errors.DeadlockDetected(), True),
        (errors.SerializationFailure(), True),
        (errors.LockNotAvailable(), True),
        (errors.TooManyConnections(), False),
        (errors.DiskFull(), False),
        (errors.AdminShutdown(), False),
        (PoolTimeout(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_transaction_broken_off_is_not_a_database_away(error: Exception, less_may_do: bool):
    assert isinstance(refusal_of(error), BrokenOff) is less_may_do


@pytest.mark.parametrize("error", [errors.UndefinedTable(), psycopg.ProgrammingError(), errors.InvalidPassword()])
def test_a_fault_stays_one(error: Exception):
    assert refusal_of(error) is error


@pytest.mark.parametrize("error", [errors.UndefinedTable(), errors.UndefinedColumn(), errors.UndefinedFunction()])
def test_what_is_missing_may_be_of_another_schema(error: Exception):
    refusal_of(error)
    assert error.__notes__ == [
        "the database may not have the schema of this version: `experiment-service migrate` brings it there"
    ]


async def test_a_standby_is_named_in_the_log(runner: asyncio.Runner, postgres_url: str):
    options = "-c default_transaction_read_only=on"
    async with await psycopg.AsyncConnection.connect(postgres_url, options=options) as connection:
        with pytest.raises(Unavailable) as raised, refusals():
            await connection.execute("CREATE TABLE refused ()")
    cause = raised.value.__cause__
    assert isinstance(cause, errors.ReadOnlySqlTransaction)
    refusal_of(cause)
    assert cause.__notes__ == ["the server that answers takes no changes: it is, or has become, a standby"]


async def test_one_caller_hears_of_a_restart(runner: asyncio.Runner, postgres_url: str):
    """Not as many as there are connections that have not heard of it."""
    settings = DatabaseSettings(url=postgres_url, pool_min=CONNECTIONS, pool_max=CONNECTIONS)
    async with PostgresUnitsOfWork.open(settings=settings) as units:

        async def ask() -> bool:
            try:
                async with units.begin(System(), read_only=True) as uow:
                    await uow.projects.get(fresh())
            except Unavailable:
                return False
            return True

        which = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'experiment-service'"
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
            made = 0
            while made < CONNECTIONS:  # they are made in the background
                await asyncio.sleep(0.01)
                ((made,),) = await (await connection.execute(f"SELECT count(*) {which}".encode())).fetchall()
            await connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {which}".encode())
        assert [await ask() for _ in range(20)].count(False) == 1


async def test_others_are_not_tried_out_where_one_was_given_up(
    runner: asyncio.Runner, postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Nor where the timer goes off a little early, as those of uvloop do."""
    loop, tried = asyncio.get_running_loop(), 0
    call_later = loop.call_later

    async def try_out(self: Pool) -> None:
        nonlocal tried
        tried += 1

    monkeypatch.setattr(Pool, "try_out", try_out)
    async with Pool(postgres_url, kwargs={"autocommit": True}, open=False) as pool:
        statements = Statements(pool, in_transaction=False, patience=1.0)
        await statements.ask("SELECT 1", ()).value()
        monkeypatch.setattr(loop, "call_later", lambda delay, *args: call_later(delay / 2, *args))
        with pytest.raises(Unavailable):
            await statements.ask("SELECT pg_sleep(30)", ()).value()
        monkeypatch.undo()
        await statements.close()
    assert tried == 0


async def test_a_connection_that_does_not_answer_is_parted_with(
    runner: asyncio.Runner, postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    """And not asked for as long as it likes, while all others wait to be tried out."""

    async def ask(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(30)")

    monkeypatch.setattr("experiment_adapters.postgres.statements.TRIAL_LASTS", 0.2)
    monkeypatch.setattr(AsyncConnectionPool, "check_connection", ask)
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        async with asyncio.timeout(20):
            with pytest.raises(psycopg.OperationalError):
                await Pool.check_connection(connection)
        assert connection.broken
