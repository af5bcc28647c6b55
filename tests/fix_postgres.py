"""PostgreSQL for tests: one server per test session, one migrated template, one database per test or module."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from servers import NoServer, Way, docker, first_of, given_by, open_directory

# The data of a test server need not survive a power cut.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "max_connections": "200",
}
DOCKER_IMAGE = "postgres:18"


def with_database(url: str, database: str) -> str:
    """The same server's URL, of another database."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def _in_docker(stack: ExitStack) -> str:
    with docker():
        from testcontainers.postgres import PostgresContainer  # pyright: ignore[reportMissingImports]

        container = PostgresContainer(DOCKER_IMAGE, driver=None)
        container.with_command(" ".join(["postgres", *(f"-c {key}={value}" for key, value in FAST.items())]))
        return stack.enter_context(container).get_connection_url()


def _from_wheel(stack: ExitStack) -> str:
    from experiment_adapters.embedded import EmbeddedPostgres, EmbeddedPostgresError

    try:
        return stack.enter_context(
            EmbeddedPostgres(stack.enter_context(open_directory(in_memory=True)) / "data", settings=FAST)
        )
    except EmbeddedPostgresError as error:
        raise NoServer(str(error)) from error


_WAYS: tuple[Way, ...] = (given_by("EXPERIMENT_TEST_POSTGRES_URL"), _in_docker, _from_wheel)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a server is marked `postgres`, so that `-m "not postgres"` needs none."""
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker("postgres")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server on which databases may be made and dropped."""
    with first_of(_WAYS, "PostgreSQL") as url:
        yield url


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(
            SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(Identifier(name), Identifier(template))
        )
    try:
        yield name
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a migrated database, of which every test gets a copy."""
    from experiment_adapters.postgres.migrations import upgrade

    with _database(postgres_server, "template0") as name:
        upgrade(with_database(postgres_server, name))
        yield name


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A migrated database for one test."""
    with _database(postgres_server, postgres_template) as name:
        yield with_database(postgres_server, name)


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A migrated database for the tests of one module, which share what is in it."""
    with _database(postgres_server, postgres_template) as name:
        yield with_database(postgres_server, name)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A path for the data directory of an embedded server; nothing is there yet."""
    with open_directory() as path:
        yield path / "data"
