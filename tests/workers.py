"""Workers as real processes, and what they have logged."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from fix_up import bytecode

COMMAND = (sys.executable, "-W", "error", "-m", "experiment_worker")
SOON = 30.0
STOPS_WITHIN = 8.0


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """That of an operator who has set only this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPERIMENT_")}
    if kept.pop("PYTHONDONTWRITEBYTECODE", None):
        # Otherwise every process would compile everything again, which takes longer than what is tested.
        kept["PYTHONPYCACHEPREFIX"] = bytecode()
    return {**kept, **more}


class Running:
    """A worker, and what it has logged so far."""

    def __init__(self, process: "subprocess.Popen[str]", written: IO[str]) -> None:
        self.process = process
        self._written = written

    def lines(self) -> list[Any]:
        # Not by seeking: the process writes where this file stands.
        text = os.pread(self._written.fileno(), 50_000_000, 0).decode()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def told(self, event: str, **values: object) -> list[Any]:
        """The lines of this event with these values."""
        return [line for line in self.lines() if event in line["event"] and values.items() <= line.items()]

    def wait_for(self, event: str, **values: object) -> Any:
        """The first of them."""
        until(lambda: self.told(event, **values) or self.process.poll() is not None)
        found = self.told(event, **values)
        assert found, self.lines()
        return found[0]

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to stop, which must not take long, and leave nothing behind."""
        self.process.send_signal(number)
        assert self.process.wait(STOPS_WITHIN) == 0
        assert self.lines()[-1]["event"] == "worker stopped"
        assert [line for line in self.lines() if line["level"] == "critical"] == []


@contextmanager
def worker(more: Mapping[str, str], command: Sequence[str] = COMMAND) -> Iterator[Running]:
    """A worker with these settings; what still runs at the end is killed."""
    with (
        tempfile.TemporaryFile("w+") as written,
        subprocess.Popen(command, env=environment(more), stderr=written, text=True) as process,
    ):
        try:
            yield Running(process, written)
        finally:
            process.kill()


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
