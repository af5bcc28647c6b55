"""What PostgreSQL cannot do right now is told apart: for the caller in a sentence, for the log by its cause."""

import asyncio

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolTimeout, TooManyRequests

from experiment_adapters.postgres.errors import refusal_of, refusals
from experiment_domain.kernel.errors import Unavailable


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


@pytest.mark.parametrize("error", [errors.UndefinedTable(), psycopg.ProgrammingError(), errors.InvalidPassword()])
def test_a_fault_stays_one(error: Exception):
    assert refusal_of(error) is error


async def test_a_standby_is_named_in_the_log(runner: asyncio.Runner, postgres_url: str):
    options = "-c default_transaction_read_only=on"
    async with await psycopg.AsyncConnection.connect(postgres_url, options=options) as connection:
        with pytest.raises(Unavailable) as raised, refusals():
            await connection.execute("CREATE TABLE refused ()")
    cause = raised.value.__cause__
    assert isinstance(cause, errors.ReadOnlySqlTransaction)
    refusal_of(cause)
    assert cause.__notes__ == ["the server that answers takes no changes: it is, or has become, a standby"]
