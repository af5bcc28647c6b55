"""`experiment-service up` as a real process, and the command line beside it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

COMMAND = (sys.executable, "-W", "error", "-m", "experiment_http.cli")
READY = "Ctrl-C stops it"
START_LIMIT = 90.0


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a person who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPERIMENT_")}
    return {**kept, "XDG_STATE_HOME": str(home / "state"), "PYTHONUNBUFFERED": "1", **(more or {})}


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


class Up:
    """One `up`, started in a folder of its own."""

    def __init__(self, home: Path, *arguments: str, more: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.said: list[str] = []
        self.complaints = home / "stderr.txt"
        with self.complaints.open("ab") as complaints:
            self.process = psutil.Popen(
                [*COMMAND, "up", "--data-dir", str(self.data_dir), "--port", "0", *arguments],
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
        with suppress(psutil.NoSuchProcess):
            self.process.terminate()
        try:
            self.process.wait(60)
        except psutil.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        for left in processes_of(self.data_dir):
            with suppress(psutil.NoSuchProcess):
                left.kill()

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
        made = command("token", "--user", user, "--data-dir", str(self.data_dir), home=self.home)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

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
    """Everything that runs with files of the data directory or for it: programs and database."""
    return [process for process in psutil.process_iter() if _belongs(process, str(data_dir))]


def _belongs(process: psutil.Process, data_dir: str) -> bool:
    try:
        words: Sequence[str] = process.cmdline()
        if any(data_dir in word for word in words):
            return True
        if not any("experiment_" in word for word in words):
            return False
        settings: Mapping[str, Any] = process.environ()
        return any(data_dir in str(value) for name, value in settings.items() if name.startswith("EXPERIMENT_"))
    except psutil.Error:
        return False


def lines(text: str) -> Iterator[str]:
    """The lines that say something."""
    return (line for line in text.splitlines() if line.strip())
