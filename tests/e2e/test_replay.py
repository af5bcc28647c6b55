"""`experiment-service replay` against a real service, however often it is broken off."""

import csv
import json
import math
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.remote import Remote
from fix_up import COMMAND, Up, command_here, environment
from servers import open_directory

pytestmark = pytest.mark.e2e

Here = Callable[..., "subprocess.CompletedProcess[str]"]
RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "skab"
REAL = RECORDINGS / "valve1-0.csv"
SENSORS = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)
LABELS = ("anomaly", "changepoint")
needs_recordings = pytest.mark.skipif(not REAL.is_file(), reason=f"the real recordings are not there: {RECORDINGS}")


def record(path: Path, rows: int, seed: int) -> Path:
    """Write a recording of the shape of the real ones: eight signals and two labels, a row a second, some missing."""
    chance = random.Random(seed)
    levels = (0.0266, 0.0401, 1.33, 0.38, 79.4, 26.0, 233.0, 32.0)
    moment = datetime(2020, 3, 9, 10, 14, 33)  # noqa: DTZ001 - the recordings name no zone
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["datetime", *SENSORS, *LABELS])
        for row in range(rows):
            faulty = float(0.5 < row / rows < 0.8)
            values = [f"{chance.gauss(level, level / 50):.6g}" for level in levels]
            writer.writerow([moment.isoformat(" "), *values, faulty, float(chance.random() < 0.01)])
            moment += timedelta(seconds=1 if chance.random() < 0.95 else 2)
    return path


@pytest.fixture(scope="module")
def recordings() -> Iterator[Sequence[Path]]:
    """Three short ones and a long one."""
    with open_directory() as folder:
        yield [record(folder / f"valve-{seed}.csv", rows, seed) for seed, rows in enumerate((1_147, 500, 400, 3_000))]


@pytest.fixture(scope="module")
def up(shared_up: Up) -> Up:
    return shared_up


@pytest.fixture(scope="module")
def token(up: Up) -> str:
    return up.token("player")


@pytest.fixture
def home() -> Iterator[Path]:
    with open_directory() as path:
        yield path


def where(up: Up, token: str, project: str = "Loop", experiment: str = "Valves") -> list[str]:
    return ["--project", project, "--experiment", experiment, "--url", up.url, "--token", token]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs `replay` in this process."""
    return partial(command_here, "replay", capsys=capsys, monkeypatch=monkeypatch)


def replayed(run: Here, *arguments: str, home: Path) -> Sequence[Mapping[str, Any]]:
    done = run(*arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)["runs"]


def refused(run: Here, *arguments: str, home: Path, code: int = 1) -> str:
    done = run(*arguments, home=home)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("experiment-service: ").rstrip("\n")


def recorded(path: Path, columns: Sequence[str] = SENSORS) -> Mapping[str, Sequence[float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    return {column: [float(row[column]) for row in rows] for column in columns}


def check_against_file(items: Sequence[Mapping[str, Any]], path: Path, columns: Sequence[str] = SENSORS) -> None:
    """The service's numbers of each signal are those of the file."""
    expected = recorded(path, columns)
    found = {item["signal"]: item for item in items}
    assert set(found) >= set(columns)
    assert len(found) == len(items)
    for signal_name, values in expected.items():
        item = found[signal_name]
        assert (item["layer"], item["count"], item["late"]) == ("physical", len(values), 0), item
        assert (item["min"], item["max"]) == (min(values), max(values))
        assert item["mean"] == pytest.approx(math.fsum(values) / len(values), rel=1e-12)


def client_of(up: Up, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"{up.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
    )


@needs_recordings
def test_a_real_recording(here: Here, up: Up, token: str) -> None:
    (run,) = replayed(here, str(REAL), *where(up, token, "Real"), home=up.home)
    check_against_file(run["items"], REAL, (*SENSORS, *LABELS))


@pytest.mark.covers("replay")
def test_a_recording_is_replayed_once(here: Here, up: Up, token: str, recordings: Sequence[Path]) -> None:
    file = recordings[0]
    arguments = [str(file), *where(up, token)]
    (run,) = replayed(here, *arguments, home=up.home)
    assert run["file"] == file.name
    check_against_file(run["items"], file, (*SENSORS, *LABELS))
    assert [item["signal"] for item in run["items"]] == [*SENSORS, *LABELS]
    with client_of(up, token) as client:
        answer = client.get(f"/runs/{run['run_id']}").json()
        assert answer["status"] == "finished"
        session = client.get(f"/capture-sessions/{run['capture_session_id']}").json()
        assert session["status"] == "succeeded"
        sensors = client.get(f"/runs/{run['run_id']}/sensors").json()["items"]
        assert len(sensors) == len(SENSORS) + 2
        versions = answer["version"], session["version"]

        # A second time, nothing changes, and it says the same.
        assert replayed(here, *arguments, home=up.home) == [run]
        again = client.get(f"/runs/{run['run_id']}").json()
        session = client.get(f"/capture-sessions/{run['capture_session_id']}").json()
        assert (again["version"], session["version"]) == versions
        found = client.get("/runs", params={"experiment_id": answer["experiment_id"]}).json()["items"]
        assert [one["id"] for one in found] == [run["run_id"]]


@pytest.mark.covers("replay")
def test_sensors_are_used_again_and_the_table_is_readable(
    here: Here, up: Up, token: str, recordings: Sequence[Path]
) -> None:
    files = [str(recordings[1]), str(recordings[2])]
    done = here(*files, *where(up, token, "Table"), "--columns", ",".join(SENSORS), home=up.home)
    assert (done.returncode, done.stderr) == (0, "")
    for file in files:
        assert Path(file).name in done.stdout
    for name in SENSORS:
        assert done.stdout.count(name) == 2
    with client_of(up, token) as client:
        (project,) = (one for one in client.get("/projects").json()["items"] if one["name"] == "Table")
        sensors = client.get("/sensors", params={"project_id": project["id"]}).json()["items"]
        assert sorted(sensor["name"] for sensor in sensors) == sorted(SENSORS)
    (first, second) = replayed(here, *files, *where(up, token, "Table"), "--columns", ",".join(SENSORS), home=up.home)
    check_against_file(first["items"], recordings[1])
    check_against_file(second["items"], recordings[2])


def test_lost_tokens_are_replaced(here: Here, up: Up, token: str, home: Path, recordings: Sequence[Path]) -> None:
    """On another machine, or after the file with the tokens was lost."""
    columns = ("--columns", "Current")
    replayed(here, str(recordings[0]), *where(up, token, "Tokens"), *columns, home=up.home)
    (run,) = replayed(here, str(recordings[1]), *where(up, token, "Tokens"), *columns, home=home)
    check_against_file(run["items"], recordings[1], ["Current"])
    (kept,) = (home / "state").rglob("replay-tokens.json")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_an_editor_replays_raw_values_only(
    here: Here, up: Up, token: str, home: Path, recordings: Sequence[Path]
) -> None:
    with client_of(up, token) as client:
        project = client.post("/projects", json={"name": "Shared"}).json()
        client.put(f"/projects/{project['id']}/members/ed", json={"role": "editor"}).raise_for_status()
    done = here(str(recordings[0]), *where(up, up.token("ed"), "Shared"), "--columns", "Current", "--json", home=home)
    assert done.returncode == 0
    assert done.stderr == "raw values only: you may not publish conversion profiles in this project\n"
    (item,) = json.loads(done.stdout)["runs"][0]["items"]
    assert (item["layer"], item["count"]) == ("raw", 1147)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("time,a\n2026-01-01T00:00:00Z,1.5\n2026-01-01T00:00:01Z,2.5\n", ()),
        ("time;a\n2026-01-01 00:00:00;1.5\n2026-01-01 00:00:01;2.5\n", ()),
        ("a\tnote\ttime\n1.5\tx\t1767225600\n2.5\ty\t1767225601\n", ()),
        ("\ufeffms,a\r\n1767225600000,1.5\r\n1767225601000,2.5\r\n", ()),
        ("us|a\n1767225600000000|1.5\n1767225601000000|2.5\n", ("--delimiter", "|")),
        ("seconds,a\n1767225600.25,1.5\n\n1767225601.25,2.5\n", ()),
        ("s,a\n10,1.5\n11,2.5\n", ("--time-column", "s")),
        ('time,"b, quoted",a\n2026-01-01T01:00:00+01:00,7,1.5\n2026-01-01T00:00:01Z,8,2.5\n', ("--columns", "a")),
        ("time,a,b\n2026-01-01T00:00:00Z,1.5,\n2026-01-01T00:00:01Z,2.5,nan\n", ()),
        ("time,a\n2026-01-01T00:00:01Z,2.5\n2026-01-01T00:00:00Z,1.5\n2026-01-01T00:00:00Z,1.5\n", ()),
    ],
)
def test_many_kinds_of_csv(here: Here, up: Up, token: str, home: Path, text: str, options: Sequence[str]) -> None:
    file = write(home / "some.csv", text)
    (run,) = replayed(here, file, *where(up, token, "Kinds"), *options, home=up.home)
    (item,) = run["items"]
    assert (item["signal"], item["count"], item["min"], item["max"]) == ("a", 2, 1.5, 2.5)
    with client_of(up, token) as client:
        (series,) = client.get(f"/capture-sessions/{run['capture_session_id']}/series").json()["items"]
    expected = "1970-01-01T00:00:10" if "--time-column" in options else "2026-01-01T00:00:00"
    assert series["first_timestamp"].startswith(expected)


HEADER = "time,a,b\n"
ROW = "2026-01-01T00:00:00Z,1,2\n"
GOOD = HEADER + ROW + ROW


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        (None, (), "cannot read {file}: No such file or directory"),
        ("", (), "{file} is empty"),
        (HEADER, (), "{file} has no readings: there is nothing below its header"),
        (HEADER + "2026-01-01T00:00:00Z,,\n", (), "{file} has no readings: no column holds numbers"),
        ("time,note\n2026-01-01T00:00:00Z,x\n", (), "{file} has no readings: no column holds numbers"),
        (HEADER + ROW, ("--columns", "a,c"), "{file} has no column c; it has time, a, b"),
        (HEADER + ROW, ("--time-column", "when"), "{file} has no column when; it has time, a, b"),
        (HEADER + ROW, ("--time-column", "a", "--columns", "a"), "{file}: a is the column of the times"),
        ("a,b\n1,2\n", (), "{file}: no column holds times; name it with --time-column"),
        (ROW + ROW, (), "{file}, line 1: a header with the names of the columns is needed"),
        (GOOD + "2026-01-01T00:00:01Z,1\n", (), "{file}, line 4: 2 cells, the header has 3"),
        (GOOD + "2026-01-01T00:00:01Z,x,2\n", (), "{file}, line 4, column a: not a finite number: 'x'"),
        (GOOD + "2026-01-01T00:00:01Z,inf,2\n", (), "{file}, line 4, column a: not a finite number: 'inf'"),
        (GOOD + "yesterday,1,2\n", (), "{file}, line 4, column time: not a time: 'yesterday'"),
        (GOOD + ",1,2\n", (), "{file}, line 4, column time: no time"),
        ("time,a,a\n" + ROW, (), "{file}: the column a occurs twice"),
        (HEADER + ROW, ("--delimiter", "|"), "{file} has one column only; is '|' its delimiter?"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(
    here: Here, home: Path, text: str | None, options: Sequence[str], complaint: str
) -> None:
    """Before the service is asked for anything: none answers here."""
    file = home / "some.csv"
    if text is not None:
        write(file, text)
    arguments = [str(file), "--project", "P", "--experiment", "E", "--token", "x.y.z", *options]
    assert refused(here, *arguments, home=home) == complaint.format(file=file)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("\x01", "the signal of column '\\x01': must have 1 to 100 characters, has 0"),
        ("a\x00", "its columns.replay.columns[0]: must not contain the control character U+0000"),
        ("a" * 70_000, "its columns: must not be larger than 65,536 characters"),
    ],
)
def test_odd_names_of_columns_are_refused_before_anything_is_made(
    here: Here, home: Path, column: str, problem: str
) -> None:
    file = write(home / "some.csv", f"time,{column}\n2026-01-01T00:00:00Z,1\n")
    arguments = [file, "--project", "P", "--experiment", "E", "--token", "x.y.z"]
    complaint = refused(here, *arguments, home=home)
    assert complaint.startswith(f"{file} has names that cannot be kept: ")
    assert problem in complaint


def test_a_file_that_is_no_text_is_refused(here: Here, home: Path) -> None:
    file = home / "some.csv"
    file.write_bytes(b"time,a\n2026-01-01T00:00:00Z,\xff\n")
    arguments = [str(file), "--project", "P", "--experiment", "E", "--token", "x.y.z"]
    assert refused(here, *arguments, home=home) == f"{file} is not a CSV file in UTF-8"


@pytest.mark.parametrize(
    "options", [("--speed", "0"), ("--speed", "fast"), ("--delimiter", ";;"), ("--columns", ","), ("--nonsense",)]
)
def test_wrong_calls_exit_with_2(here: Here, home: Path, options: Sequence[str]) -> None:
    file = write(home / "some.csv", HEADER + ROW)
    assert refused(here, file, "--project", "P", "--experiment", "E", *options, home=home, code=2)


def test_who_may_not_is_told_so(here: Here, up: Up, token: str, home: Path) -> None:
    file = write(home / "some.csv", HEADER + ROW)
    target = ["--project", "P", "--experiment", "E", "--url", up.url]
    assert refused(here, file, *target, "--token", "x.y.z", home=home).startswith(
        f"the service at {up.url} does not accept the token: "
    )
    assert refused(here, file, *target, home=home).startswith("a token is needed: ")
    future = write(home / "future.csv", HEADER + "2999-01-01T00:00:00Z,1,2\n")
    complaint = refused(here, future, *target, "--token", token, home=up.home)
    assert complaint.startswith("the service refused POST /telemetry: 422 bad_readings: ")


class NotTheService(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - so it is called there
        """Say nothing."""


def test_a_service_that_is_not_there(here: Here, home: Path) -> None:
    file = write(home / "some.csv", HEADER + ROW)
    target = ["--project", "P", "--experiment", "E", "--token", "x.y.z", "--url"]
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert refused(here, file, *target, nobody, home=home).startswith(f"the service at {nobody} does not answer: ")
    assert refused(here, file, *target, "ftp://nowhere", home=home) == "'ftp://nowhere' is not a URL: http://host:port"
    with ThreadingHTTPServer(("127.0.0.1", 0), NotTheService) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{other.server_port}"
        complaint = f"what answers at {address} is not Experiment Service: GET /projects → 501"
        assert refused(here, file, *target, address, home=home) == complaint
        other.shutdown()


def test_a_local_token_is_made_where_up_has_its_data(here: Here, up: Up) -> None:
    """`up` and `replay` in one directory need no token between them."""
    file = write(up.home / "local.csv", HEADER + ROW)
    (up.home / ".experiment-service").symlink_to(up.data_dir)
    try:
        (run,) = replayed(here, file, "--project", "Own", "--experiment", "E", "--url", up.url, home=up.home)
    finally:
        (up.home / ".experiment-service").unlink()
    assert [item["count"] for item in run["items"]] == [1, 1]


def test_at_a_speed_it_takes_its_time(here: Here, up: Up, token: str, home: Path) -> None:
    rows = "".join(f"2026-01-01T00:00:{second:02d}Z,{second},1\n" for second in range(40))
    file = write(home / "slow.csv", HEADER + rows)
    began = time.monotonic()
    (run,) = replayed(here, file, *where(up, token, "Slow"), "--speed", "20", home=up.home)
    assert 1.8 < time.monotonic() - began < 15
    assert [item["count"] for item in run["items"]] == [40, 40]


@pytest.mark.covers("replay")
def test_broken_off_and_completed(here: Here, home: Path, recordings: Sequence[Path]) -> None:
    """First the replay is killed, then the service: the recording ends up whole, and nothing is there twice."""
    file, columns = recordings[3], ("--columns", ",".join(SENSORS))
    with Up(home) as up:
        up.wait_until_ready()
        token, port = up.token("player"), up.port
        arguments = [str(file), *where(up, token), *columns]
        sent = 0
        with client_of(up, token) as client:
            for number in (signal.SIGKILL, signal.SIGINT, None):
                replay = start([*arguments, "--speed", "200"], home)
                sent = wait_for_more(client, replay, sent)
                if number is None:
                    up.kill()
                else:
                    replay.send_signal(number)
                _, complaint = replay.communicate(timeout=30)
                if number is signal.SIGINT:
                    assert (replay.returncode, complaint) == (1, "experiment-service: interrupted\n")
        assert replay.returncode == 1
        assert complaint.startswith(f"experiment-service: the service at {up.url} does not answer: ")
        assert complaint.count("\n") == 1
        with Up(home, port=port) as again:
            again.wait_until_ready()
            with client_of(again, token) as client:
                (begun,) = client.get("/runs").json()["items"]
                assert begun["status"] == "running"
                assert 0 < readings_in(client) < 3_000 * len(SENSORS)
            (run,) = replayed(here, *arguments, home=home)
            assert run["run_id"] == begun["id"]
            check_against_file(run["items"], file)
            assert replayed(here, *arguments, home=home) == [run]
            with client_of(again, token) as client:
                assert len(client.get("/runs").json()["items"]) == 1
                assert len(client.get("/sensors").json()["items"]) == len(SENSORS)
                assert len(client.get(f"/runs/{run['run_id']}/capture-sessions").json()["items"]) == 1
                session = f"/capture-sessions/{run['capture_session_id']}"
                assert {one["count"] for one in client.get(f"{session}/series").json()["items"]} == {3_000}


def readings_in(client: httpx.Client) -> int:
    """How many readings the only session holds that there is, if there is one already."""
    for run in client.get("/runs").json()["items"]:
        for session in client.get(f"/runs/{run['id']}/capture-sessions").json()["items"]:
            series = client.get(f"/capture-sessions/{session['id']}/series").json()["items"]
            return sum(one["count"] for one in series)
    return 0


def wait_for_more(client: httpx.Client, replay: "subprocess.Popen[str]", before: int) -> int:
    """Waits until it speaks to the service: what came last of one that was killed is more, too."""
    deadline = time.monotonic() + 60
    while not psutil.Process(replay.pid).net_connections() or (count := readings_in(client)) <= before + 100:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return count


def broken_off(here: Here, monkeypatch: pytest.MonkeyPatch, *arguments: str, home: Path) -> None:
    """A replay that gets as far as its first batch."""
    with monkeypatch.context() as patched:
        patched.setattr(Remote, "send_readings", refuse)
        assert refused(here, *arguments, home=home) == "broken off"


def refuse(*_: object) -> None:
    raise CommandFailed("broken off")


def test_a_session_that_failed_since_is_replaced(
    here: Here, up: Up, token: str, recordings: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(recordings[1]), *where(up, token, "Failed"), "--columns", "Current"]
    sessions: list[str] = []
    run: Mapping[str, Any] = {}
    with client_of(up, token) as client:
        for _ in range(2):
            broken_off(here, monkeypatch, *arguments, home=up.home)
            (run,) = client.get("/runs", params={"project_id": project_of(client, "Failed")}).json()["items"]
            (session,) = [
                one
                for one in client.get(f"/runs/{run['id']}/capture-sessions").json()["items"]
                if one["status"] == "running"
            ]
            client.post(f"/capture-sessions/{session['id']}/stop", json={"outcome": "failed"}).raise_for_status()
            sessions.append(session["id"])
        # One that is hidden is not counted among those that failed.
        client.delete(f"/capture-sessions/{sessions[0]}").raise_for_status()
        (played,) = replayed(here, *arguments, home=up.home)
        check_against_file(played["items"], recordings[1], ["Current"])
        assert played["run_id"] == run["id"]
        assert played["capture_session_id"] not in sessions
        assert client.get(f"/capture-sessions/{played['capture_session_id']}").json()["status"] == "succeeded"
        assert client.get(f"/runs/{run['id']}").json()["status"] == "finished"


def project_of(client: httpx.Client, name: str) -> str:
    (found,) = [one["id"] for one in client.get("/projects").json()["items"] if one["name"] == name]
    return found


@pytest.mark.parametrize("kind", ["projects", "experiments"])
def test_what_was_renamed_since_is_left_alone(
    here: Here, up: Up, token: str, recordings: Sequence[Path], kind: str
) -> None:
    name = f"Renamed {kind}"
    arguments = [str(recordings[1]), *where(up, token, name), "--columns", "Current"]
    found: set[str] = set()
    with client_of(up, token) as client:
        for count in range(3):
            (played,) = replayed(here, *arguments, home=up.home)
            check_against_file(played["items"], recordings[1], ["Current"])
            run = client.get(f"/runs/{played['run_id']}").json()
            experiment = client.get(f"/experiments/{run['experiment_id']}").json()
            recorded_in = {"projects": experiment["project_id"], "experiments": experiment["id"]}[kind]
            assert recorded_in not in found
            found.add(recorded_in)
            client.patch(f"/{kind}/{recorded_in}", json={"name": f"Old {count}"}).raise_for_status()


def test_a_profile_that_was_retired_since_is_replaced(
    here: Here, up: Up, token: str, recordings: Sequence[Path]
) -> None:
    target = [*where(up, token, "Retired"), "--columns", "Current"]
    with client_of(up, token) as client:
        for file in recordings[:3]:
            (played,) = replayed(here, str(file), *target, home=up.home)
            check_against_file(played["items"], file, ["Current"])
            (sensor,) = client.get("/sensors", params={"project_id": project_of(client, "Retired")}).json()["items"]
            profiles = client.get(f"/sensors/{sensor['id']}/conversion-profiles").json()["items"]
            (published,) = [profile["id"] for profile in profiles if profile["status"] == "published"]
            client.post(f"/conversion-profiles/{published}/retire").raise_for_status()


def test_a_sensor_that_was_retired_since_is_replaced(
    here: Here, up: Up, token: str, recordings: Sequence[Path]
) -> None:
    target = [*where(up, token, "Worn out"), "--columns", "Current"]
    sensors: set[str] = set()
    with client_of(up, token) as client:
        for file in recordings[:2]:
            (played,) = replayed(here, str(file), *target, home=up.home)
            check_against_file(played["items"], file, ["Current"])
            (sensor,) = client.get(f"/runs/{played['run_id']}/sensors").json()["items"]
            sensor_id = sensor.get("sensor_id") or sensor["id"]
            assert sensor_id not in sensors
            sensors.add(sensor_id)
            client.post(f"/sensors/{sensor_id}/retire").raise_for_status()


def start(arguments: Sequence[str], home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "replay", *arguments],
        cwd=home,
        env={**environment(home), "NO_COLOR": "1", "TERM": os.environ.get("TERM", "dumb")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
