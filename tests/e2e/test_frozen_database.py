"""A database that does not answer, though its machine does: every request is answered all the same, and soon."""

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from experiment_adapters.embedded import EmbeddedPostgres
from experiment_adapters.postgres import migrations
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain import Services, User
from experiment_domain.kernel.errors import Unavailable

pytestmark = pytest.mark.e2e

BOUND = 10.0


def test_a_frozen_database_is_given_up_and_found_again(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as url:
        migrations.upgrade(url)
        asyncio.run(freeze_and_thaw(url, postmaster_of(data_dir)))


def postmaster_of(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))


async def freeze_and_thaw(url: str, postmaster: psutil.Process) -> None:
    settings = DatabaseSettings(url=url, pool_min=2, pool_max=4)
    async with PostgresUnitsOfWork.open(settings=settings) as units:
        services = Services(units_of_work=units)
        await create_project(services)
        frozen = [postmaster, *postmaster.children(recursive=True)]
        for process in frozen:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            took = await asyncio.gather(*(refused_after(services) for _ in range(12)))
        finally:
            for process in frozen:
                os.kill(process.pid, signal.SIGCONT)
        assert max(took) < BOUND
        deadline = time.monotonic() + 30
        while True:
            try:
                await create_project(services)
                break
            except Unavailable:
                assert time.monotonic() < deadline, "the database was not found again"
                await asyncio.sleep(0.2)


async def create_project(services: Services) -> None:
    async with services.begin(User(id="ann")) as work:
        await work.projects.create(name="Rig 7")


async def refused_after(services: Services) -> float:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await create_project(services)
    return time.monotonic() - began
