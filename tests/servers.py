"""Servers for tests: the ways to one, tried in order, and what each of them needs of this machine."""

import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

MEMORY_NEEDED = 4 * 1024**3

Way = Callable[[ExitStack], str]
"""The URL of a server, for as long as the stack is open. Raises `NoServer`."""


class NoServer(Exception):  # noqa: N818 - a reason to try the next one, not a fault
    """This way there is no server to be had."""


def given_by(variable: str) -> Way:
    """A server that somebody else keeps, named in the environment."""

    def given(_stack: ExitStack) -> str:
        url = os.environ.get(variable)
        if not url:
            raise NoServer(f"{variable} is not set")
        return url

    return given


@contextmanager
def docker() -> Iterator[None]:
    """A Docker that answers, to start containers of testcontainers on. Raises `NoServer`, whatever goes wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of testcontainers' own making
        try:
            # Both before Docker is asked: one that does not answer leaves a connection behind.
            import testcontainers.core  # pyright: ignore[reportMissingImports]  # noqa: F401
            from docker import from_env  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
        except ImportError as error:
            raise NoServer("testcontainers is not installed") from error
        try:
            with closing(from_env()) as engine:
                engine.ping()
            yield
        except Exception as error:  # whatever keeps Docker from answering, the next server may do
            raise NoServer(f"Docker does not answer: {error}") from error


@contextmanager
def first_of(ways: Sequence[Way], what: str) -> Iterator[str]:
    """The URL of the first server that is to be had."""
    reasons: list[str] = []
    with ExitStack() as stack:
        for way in ways:
            try:
                url = way(stack)
            except NoServer as reason:
                reasons.append(str(reason))
            else:
                yield url
                return
    missing(what, "; ".join(reasons))


def missing(what: str, reasons: str) -> NoReturn:
    """Skip on a laptop, and fail where nothing may be skipped."""
    said = f"no {what} for tests: {reasons}"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)


@contextmanager
def open_directory(*, in_memory: bool = False) -> Iterator[Path]:
    """A temporary folder for a server's data directory.

    `tmp_path` will not do: too long for a socket, and closed to the server's user where the tests run as root.
    In memory, where there is enough of it, a database is copied in 10 ms instead of 300.
    """
    memory = Path("/dev/shm")
    room = in_memory and memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_NEEDED
    path = Path(tempfile.mkdtemp(prefix="experiment-test-", dir=memory if room else None))
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A port on which nobody listens now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]
