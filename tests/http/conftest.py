"""The API over each adapter, and a world for tests that do not mind what others did in it."""

import asyncio

import pytest
from litestar import Litestar

from experiment_domain.unit_of_work import UnitsOfWork
from http_api import World, app_over, new_world


@pytest.fixture(scope="module")
def app(units_of_work: UnitsOfWork) -> Litestar:
    """The application over each adapter in turn."""
    return app_over(units_of_work)


@pytest.fixture
def world(runner: asyncio.Runner, app: Litestar) -> World:
    """A world that nobody else changes, everything in it running."""
    return runner.run(new_world(app))


@pytest.fixture
def drafts(runner: asyncio.Runner, app: Litestar) -> World:
    """A world that nobody else changes, everything in it in draft."""
    return runner.run(new_world(app, start=False))
