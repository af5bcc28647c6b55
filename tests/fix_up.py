"""`experiment-service up` as a real process, and the command line beside it."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from experiment_adapters.auth.local import LocalKeys
from experiment_http.cli import main

COMMAND = (sys.executable, "-W", "error", "-m", "experiment_http.cli")
READY = "Ctrl-C stops it"
START_LIMIT = 90.0


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a person who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPERIMENT_")}
    if kept.pop("PYTHONDONTWRITEBYTECODE", None):
        # Otherwise every process would compile everything again, which takes longer than what is tested.
        kept["PYTHONPYCACHEPREFIX"] = bytecode()
    return {**kept, "XDG_STATE_HOME": str(home / "state"), "PYTHONUNBUFFERED": "1", **(more or {})}


@cache
def bytecode() -> str:
    """Where the processes of these tests keep compiled modules, if not beside the sources."""
    folder = tempfile.mkdtemp(prefix="experiment-test-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def command(
    *arguments: str, home: Path, more: Mapping[str, str] | None = None, timeout: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=home,
        env=environment(home, more),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def command_here(
    *arguments: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> "subprocess.CompletedProcess[str]":
    """The same as `command` in this process, for what starts none: it is much quicker."""
    monkeypatch.chdir(home)
    for name in [name for name in os.environ if name.startswith("EXPERIMENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    code = main(list(arguments))
    said = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, code, said.out, said.err)


class Up:
    """One `up`, started in a folder of its own."""

    def __init__(self, home: Path, *arguments: str, port: int = 0, more: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.said: list[str] = []
        self.complaints = home / "stderr.txt"
        with self.complaints.open("ab") as complaints:
            self.process = psutil.Popen(
                [*COMMAND, "up", "--data-dir", str(self.data_dir), "--port", str(port), *arguments],
                cwd=home,
                env=environment(home, more),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # How it stops by itself is the business of some tests; the others need not wait for it.
        for left in [self.process, *processes_of(self.data_dir)]:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        self.process.wait()
        self.process.stdout.close()

    def wait_until_ready(self) -> Self:
        """Read what it says until it says that it is ready."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"up ended with {self.process.wait()}: {self.complaints.read_text()}")
            self.said.append(line.rstrip("\n"))
            if READY in line:
                return self
            if time.monotonic() > deadline:
                raise AssertionError("up was not ready in time")

    @property
    def url(self) -> str:
        found = re.search(r"http://\S+", self.said[0])
        assert found
        return found[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def token(self, user: str = "tester") -> str:
        """What `experiment-service token` prints, without the second that it takes to start."""
        return LocalKeys(self.data_dir).issue(user, 3_600)

    def complaint(self) -> str:
        """What it wrote to standard error, without what its programs log in passing."""
        lines = self.complaints.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if "[info " not in line)

    def api_processes(self) -> list[psutil.Process]:
        """The server process of the API, and its workers."""
        found: list[psutil.Process] = []
        for child in self.process.children():
            with suppress(psutil.Error):
                if "experiment_http.cli.serving" in child.cmdline():
                    found += [child, *child.children()]
        return found

    def kill(self) -> None:
        """Kill it so that it can clean up nothing."""
        self.process.kill()
        self.process.wait()


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every `up` on the data directory, its children, and the processes of PostgreSQL."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(data_dir) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def are_gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True
