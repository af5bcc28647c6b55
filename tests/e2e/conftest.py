"""What the tests of processes share."""

from collections.abc import Iterator

import pytest

from fix_up import Up
from servers import open_directory


@pytest.fixture(scope="session")
def shared_up() -> Iterator[Up]:
    """One that is never stopped; each test works in projects of its own."""
    with open_directory() as path, Up(path) as up:
        yield up.wait_until_ready()
