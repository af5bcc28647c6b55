"""The server: made, started, taken over and stopped."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
from attrs import frozen

from experiment_adapters.disk import sync_directory
from experiment_adapters.embedded.data_dir import (
    EmbeddedPostgresError,
    lock,
    prepare_data_dir,
    unusable,
)
from experiment_adapters.embedded.programs import account_for, programs_for, require_entrance

DATABASE = "experiment"

# For a laptop with two cores that takes readings all day. Nothing that was acknowledged may be lost, so fsync
# and synchronous_commit stay on; the wheel's build knows pglz and no lz4.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "pglz",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "jit": "off",
    # A statement ends with the process that wanted it, also where the server itself was killed and left it behind.
    "client_connection_check_interval": "2s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A refused statement is the business of whoever sent it; its text may hold what a log should not.
    "log_min_error_statement": "panic",
}

_SOCKET_PREFIX = "experiment-postgres-"
_SOCKET_PATH_LIMIT = 100  # of 104 bytes on macOS and 108 on Linux
_LOG_LIMIT = 16 * 1024 * 1024
_ENDING_LIMIT = 60.0
_INHERITED_VARIABLES = ("PATH", "LD_LIBRARY_PATH")


class EmbeddedPostgres:
    """One PostgreSQL server on the files of one data directory, from `start` to `stop` or within a `with`.

    If its owner is killed, the server lives on, and the next `start` on the directory takes it over; if both
    are killed, the next `start` recovers what was committed. `settings` are added to `SETTINGS`.
    """

    def __init__(
        self, data_dir: Path, *, settings: Mapping[str, str] | None = None, start_timeout: float = 300.0
    ) -> None:
        self._data_dir = data_dir.expanduser().absolute()
        self._files = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._settings = {**SETTINGS, **(settings or {})}
        self._start_timeout = start_timeout
        self._lock: int | None = None
        self._postmaster: psutil.Process | None = None
        self._log_start = 0

    def start(self) -> str:
        """Start the server or take over a killed owner's; the URL of its database `experiment`."""
        if self._lock is not None:
            raise EmbeddedPostgresError(f"the PostgreSQL in {self._data_dir} is already started")
        prepare_data_dir(self._data_dir)
        try:
            # The names of one directory must be equal for everybody who looks for the server's process.
            self._data_dir = self._data_dir.resolve()
            self._files = self._data_dir / "postgres"
            self._lock = lock(self._data_dir / "lock")
            if self._lock is None:
                raise EmbeddedPostgresError(f"{self._data_dir} is in use by another experiment-service")
            return self._start()
        except BaseException as error:
            with suppress(EmbeddedPostgresError):
                self.stop()
            if isinstance(error, OSError):
                raise unusable(self._data_dir, error) from error
            raise

    def stop(self) -> None:
        """Shut the server down, rolling back what is open, and wait for its end."""
        postmaster, self._postmaster = self._postmaster, None
        held, self._lock = self._lock, None
        try:
            if postmaster is not None:
                self._end(postmaster)
        finally:
            if held is not None:
                os.close(held)

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> str:
        account = account_for(self._files)
        if account:
            require_entrance(account, self._data_dir)
        programs = programs_for(account, self._data_dir)
        self._initialise(programs, account)
        self._postmaster = self._adopt_or_spawn(programs, account)
        state = self._wait_until_ready(self._postmaster)
        self._create_database(state)
        return state.url(DATABASE)

    def _initialise(self, programs: Path, account: Mapping[str, Any]) -> None:
        """Run initdb beside the final place, so that a half-made cluster never stands there."""
        for leftover in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self._files.exists():
            return
        fresh = _private_directory("postgres.new-", self._data_dir, account)
        command = [
            str(programs / "initdb"),
            f"--pgdata={fresh}",
            "--username=postgres",
            "--auth-local=trust",  # the socket's directory is the door; there is no other
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            # Sorts as C does, and still knows upper and lower case beyond ASCII.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        if self._settings["fsync"] == "off":
            command.append("--no-sync")
        made = subprocess.run(  # noqa: S603 - our own program
            command,
            capture_output=True,
            check=False,
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            **account,
        )
        if made.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedPostgresError(f"initdb failed in {self._data_dir}: {_last_words(made.stderr)}")
        fresh.rename(self._files)
        sync_directory(self._data_dir)

    def _adopt_or_spawn(self, programs: Path, account: Mapping[str, Any]) -> psutil.Process:
        """Never a second server on the same files.

        PostgreSQL's own guard, the process id in `postmaster.pid`, is fooled by a recycled id and sees
        nothing of other containers. `postgres.lock` is inherited by every process of the server: who gets it
        knows that they are all gone.
        """
        deadline = time.monotonic() + _ENDING_LIMIT
        while True:
            state = _PidFile.read(self._files)
            running = state.process() if state else None
            if running is None:
                if (free := lock(self._data_dir / "postgres.lock")) is not None:
                    try:
                        return self._spawn(programs, account, free, state)
                    finally:
                        os.close(free)
            elif state and state.status != "stopping":
                return running
            # What is left ends by itself: a server that shuts down, or the children of one that was killed.
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"processes of an earlier PostgreSQL still use {self._files}")
            time.sleep(0.05)

    def _spawn(
        self, programs: Path, account: Mapping[str, Any], server_lock: int, stale: "_PidFile | None"
    ) -> psutil.Process:
        # PostgreSQL would heed the ids in these files, were they recycled or of a zombie that nobody reaps.
        for leftover in (self._files / "postmaster.pid", *self._files.glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)
        if stale is not None:
            _remove_socket_dir(stale.socket_dir)
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        settings = {**self._settings, "unix_socket_directories": str(self._make_socket_dir(account))}
        command = [str(programs / "postgres"), "-D", str(self._files)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self._log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            self._log_start = log.tell()
            return psutil.Popen(
                command,
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the terminal's whole process group; the server has to outlive its clients.
                start_new_session=True,
                pass_fds=(server_lock,),
                **account,
            )

    def _make_socket_dir(self, account: Mapping[str, Any]) -> Path:
        """The server's own files, or a private folder in /tmp where their path is too long for a socket."""
        socket = os.fsencode(self._files / f".s.PGSQL.{self._settings['port']}")
        if len(socket) < _SOCKET_PATH_LIMIT and b"," not in socket:  # libpq takes a comma for a list of hosts
            return self._files
        return _private_directory(_SOCKET_PREFIX, Path("/tmp"), account)  # noqa: S108 - made by mkdtemp, 0700

    def _wait_until_ready(self, postmaster: psutil.Process) -> "_PidFile":
        """Replaying the log of a server that was killed takes its time: wait as long as the server lives."""
        deadline = time.monotonic() + self._start_timeout
        while True:
            state = _PidFile.read(self._files)
            if state is not None and state.pid == postmaster.pid and state.status == "ready":
                return state
            if _ended(postmaster, 0.02):
                raise EmbeddedPostgresError(f"PostgreSQL did not start in {self._data_dir}: {self._last_log_line()}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self._data_dir} was not ready after {self._start_timeout:g} s: "
                    f"{self._last_log_line()}"
                )

    def _create_database(self, state: "_PidFile") -> None:
        try:
            with psycopg.connect(state.url("postgres"), autocommit=True, connect_timeout=30) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if known.fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.Error as error:
            reason = _last_words(str(error).encode())
            raise EmbeddedPostgresError(f"the PostgreSQL in {self._data_dir} does not answer: {reason}") from error

    def _end(self, postmaster: psutil.Process) -> None:
        state = _PidFile.read(self._files)
        # SIGINT is a fast shutdown. SIGQUIT leaves work for the next start, and loses nothing either.
        for number, patience in ((signal.SIGINT, _ENDING_LIMIT), (signal.SIGQUIT, 15.0)):
            with suppress(psutil.NoSuchProcess):
                postmaster.send_signal(number)
            if _ended(postmaster, patience):
                if state is not None:
                    _remove_socket_dir(state.socket_dir)
                return
        raise EmbeddedPostgresError(f"the PostgreSQL in {self._data_dir} (process {postmaster.pid}) does not stop")

    def _last_log_line(self) -> str:
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_start)
            return _last_words(log.read())
        return f"see {self._log}"


@frozen
class _PidFile:
    """What a server says of itself in `postmaster.pid`; the later lines come in the course of its start."""

    files: Path
    pid: int
    socket_dir: str
    port: str
    status: str

    @classmethod
    def read(cls, files: Path) -> "_PidFile | None":
        try:
            lines = os.fsdecode((files / "postmaster.pid").read_bytes()).splitlines()
        except FileNotFoundError:
            return None
        pid, _, _, port, socket_dir, _, _, status, *_ = (line.strip() for line in [*lines, *[""] * 8])
        return cls(files, int(pid) if pid.isdecimal() else 0, socket_dir, port, status)

    def process(self) -> psutil.Process | None:
        """The server's process; None where it is gone, whoever has its process id now."""
        try:
            process = psutil.Process(self.pid)
            # The working directory would tell too, but root in a container may not look at that of others.
            ours = self.pid > 0 and process.name() == "postgres" and str(self.files) in process.cmdline()
        except psutil.Error:
            return None
        return process if ours else None

    def url(self, database: str) -> str:
        # The port is named because PGPORT of the environment would count otherwise.
        return f"postgresql://postgres@/{database}?host={quote(os.fsencode(self.socket_dir))}&port={self.port}"


def _ended(process: psutil.Process, within: float) -> bool:
    """Whether `process`, our child or an adopted one, ends within so many seconds; reaps it if it is ours."""
    deadline = time.monotonic() + within
    while True:
        with suppress(psutil.TimeoutExpired):
            process.wait(min(within, 0.05))
            return True
        # An adopted process may stay a zombie where nobody reaps it, and its id may be given away.
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() >= deadline:
                    return False
                continue
        with suppress(psutil.TimeoutExpired):
            process.wait(0)  # our own may have ended between the two questions
        return True


def _private_directory(prefix: str, parent: Path, account: Mapping[str, Any]) -> Path:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if account:
        os.chown(path, account["user"], account["group"])
    return path


def _remove_socket_dir(socket_dir: str) -> None:
    if Path(socket_dir).name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(socket_dir, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Little: PG… variables would change the server, locales its messages; secrets are not its business."""
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _last_words(output: bytes) -> str:
    """The last line that says what went wrong, without time and process id."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    failures = [found[1] for line in lines if (found := re.search(r"\b(?:FATAL|PANIC|error):\s+(.*)", line))]
    # Clients that come too early are told so; that is no reason.
    reasons = [words for words in failures if not words.startswith("the database system is")]
    return (reasons or lines or ["it left no message"])[-1]
