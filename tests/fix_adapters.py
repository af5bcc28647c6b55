"""Units of work to test with: every adapter by name, each in an event loop that lives as long as its module."""

import asyncio
from collections.abc import Iterator
from inspect import iscoroutinefunction

import pytest

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain.unit_of_work import UnitsOfWork


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine and asks for a `runner`, by itself or by a fixture, in that runner's loop."""
    runner = pyfuncitem.funcargs.get("runner")
    if not isinstance(runner, asyncio.Runner) or not iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for a module, in which pools of connections live on from test to test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def postgres_units_of_work(runner: asyncio.Runner, module_postgres_url: str) -> Iterator[UnitsOfWork]:
    """Units of work on a database that the tests of a module share: they keep out of each other's projects."""
    from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork

    opened = PostgresUnitsOfWork.open(module_postgres_url)
    yield runner.run(opened.__aenter__())
    runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="module", params=["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def units_of_work(request: pytest.FixtureRequest, runner: asyncio.Runner) -> UnitsOfWork:
    """Each adapter in turn."""
    return MemoryUnitsOfWork() if request.param == "memory" else request.getfixturevalue("postgres_units_of_work")
