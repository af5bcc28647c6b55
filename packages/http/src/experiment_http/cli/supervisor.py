"""Child processes of `up`: started so that they end with it, watched, and stopped in order."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.local import environment_of_programs


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Not an `Exception`: whoever handles failures must let it pass."""


class Signals:
    """The first signal raises `StopRequested` wherever the main thread is; a later one means: hurry."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self._stopping = False
        self._held: bool | None = None
        """None: nothing is held back; False: something would be; True: a signal is."""

    def __enter__(self) -> Self:
        # Under `nohup`, SIGHUP is ignored on purpose. That SIGINT is, says only that a script's shell sent us
        # into the background.
        numbers = [number for number in self.NUMBERS if not self._is_meant_to_be_ignored(number)]
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_raising(self) -> None:
        """From here on, things are being stopped: a signal only hurries them."""
        self._stopping = True

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let what must not be broken off in its middle come to its end; a second signal does not wait."""
        self._held = False
        try:
            yield
        finally:
            arrived, self._held = self._held, None
        if arrived:
            self._raise()

    @staticmethod
    def _is_meant_to_be_ignored(number: signal.Signals) -> bool:
        return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self.hurry.set()
        elif self._held is False:
            self._held = True
        else:
            self._raise()

    def _raise(self) -> None:
        self._stopping = True
        raise StopRequested


class Child:
    """A Python module as a child process, in a process group of its own: Ctrl-C reaches `up` alone."""

    def __init__(self, name: str, module: str, *arguments: str) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "experiment_http.cli.guard", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start the process, which imports what it can and waits; whatever it prints goes to standard error."""
        self._close_pipe()
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            self._command,
            env=environment_of_programs(),
            stdin=subprocess.PIPE,  # the system closes it when this process is gone
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )

    def begin(self, environment: Mapping[str, str]) -> None:
        """Let it run with this environment; start it first where that was not done."""
        if self._process is None or self._process.poll() is not None:
            self.prepare()
        assert self._process is not None  # noqa: S101 - just made
        assert self._process.stdin is not None  # noqa: S101 - asked for
        with suppress(BrokenPipeError):  # then it has ended, which whoever watches will see
            self._process.stdin.write(json.dumps(dict(environment)).encode() + b"\n")
            self._process.stdin.flush()

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self, patience: float, hurry: threading.Event) -> None:
        """Ask it to end, wait, and in the end do not ask."""
        process = self._process
        if process is None:
            return
        process.terminate()
        deadline = time.monotonic() + patience
        while process.poll() is None:
            if hurry.is_set() or time.monotonic() > deadline:
                process.kill()
                process.wait()
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()


class Restarting:
    """A child that is started again when it ends, with growing pauses where that does not help."""

    PAUSES = (0.0, 1.0, 5.0, 15.0, 60.0)
    WELL = 120.0
    """Seconds of life after which the next pause is the shortest again."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._environment: Mapping[str, str] = {}
        self._failures = 0
        self._started_at = 0.0
        self._due_at: float | None = None

    def begin(self, environment: Mapping[str, str]) -> None:
        """Start it, now and whenever it is due again, with this environment."""
        self._environment = environment
        self._started_at = time.monotonic()
        self._child.begin(environment)

    def watch(self) -> None:
        """Notice its end, say so, and start it again in due time."""
        now = time.monotonic()
        if self._due_at is not None:
            if now >= self._due_at:
                self._due_at = None
                self.begin(self._environment)
            return
        code = self._child.exit_code()
        if code is None:
            return
        self._failures = 0 if now - self._started_at > self.WELL else self._failures + 1
        pause = self.PAUSES[min(self._failures, len(self.PAUSES) - 1)]
        self._due_at = now + pause
        print(f"the {self._child.name} ended ({ending(code)}); it is started again", file=sys.stderr)

    def stop(self, patience: float, hurry: threading.Event) -> None:
        """Stop it, or do not start it again."""
        self._child.stop(patience, hurry)


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class ProcessWatch:
    """Tells whether a process that somebody else started is still there."""

    def __init__(self, pid: int) -> None:
        import psutil  # noqa: PLC0415 - takes a while

        self._zombie = psutil.STATUS_ZOMBIE
        self._gone = psutil.Error
        try:
            self._process = psutil.Process(pid)
        except psutil.Error as error:
            raise CommandFailed(f"process {pid} is gone") from error

    @classmethod
    def of_file(cls, path: Path) -> "ProcessWatch":
        """The process whose id is the first line of a file, as PostgreSQL writes it."""
        return cls(int(path.read_text().split(maxsplit=1)[0]))

    def is_alive(self) -> bool:
        """Whether it runs; one that nobody has reaped does not."""
        try:
            return self._process.is_running() and self._process.status() != self._zombie
        except self._gone:
            return False


def say(text: str = "") -> None:
    """Tell the person at the terminal at once, whatever standard output is."""
    with suppress(BrokenPipeError):
        print(text, flush=True)
