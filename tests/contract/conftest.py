"""What the suites of use cases share."""

import asyncio

import pytest

from experiment_domain.unit_of_work import UnitsOfWork
from laboratory import Laboratory


@pytest.fixture
def lab(runner: asyncio.Runner, units_of_work: UnitsOfWork) -> Laboratory:
    """A project of its own on each adapter."""
    return runner.run(Laboratory.open(units_of_work))
