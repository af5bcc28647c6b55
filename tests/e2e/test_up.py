"""`experiment-service up` as real processes: it starts, serves, stops cleanly, and survives being killed."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psutil
import pytest

from experiment_adapters.settings import SETTINGS
from experiment_domain.conversions.its90 import TYPE_K_INVERSE
from experiment_http.cli.demo import Demo
from experiment_http.cli.lasting import Lives
from fix_up import Up, are_gone, command, command_here, environment, processes_of
from servers import open_directory

pytestmark = pytest.mark.e2e


@pytest.fixture
def home() -> Iterator[Path]:
    with open_directory() as path:
        yield path


@pytest.fixture
def here(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a command in this process."""
    return partial(command_here, home=home, capsys=capsys, monkeypatch=monkeypatch)


Here = Callable[..., "subprocess.CompletedProcess[str]"]


def api(up: Up, user: str = "tester") -> httpx.Client:
    return httpx.Client(
        base_url=f"{up.url}/api/v1",
        headers={"Authorization": f"Bearer {up.token(user)}"},
        timeout=30,
        trust_env=False,
    )


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def create(client: httpx.Client, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body, headers={"Idempotency-Key": str(uuid4())})
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


def items(client: httpx.Client, path: str, **params: Any) -> Sequence[Any]:
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def one_line_of(done: "subprocess.CompletedProcess[str]", code: int = 1) -> str:
    """What a command that failed complained of: one line, and nothing else."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("experiment-service: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    return done.stderr.removeprefix("experiment-service: ").strip()


@pytest.mark.covers("up.start")
def test_it_says_where_everything_is(shared_up: Up) -> None:
    said = "\n".join(shared_up.said)
    assert f"ready at {shared_up.url}\n" in said
    assert f"{shared_up.url}/schema" in said
    assert str(shared_up.data_dir) in said
    assert f"experiment-service token --user NAME --data-dir {shared_up.data_dir}" in said
    assert httpx.get(f"{shared_up.url}/schema", trust_env=False).status_code == 200
    assert httpx.get(f"{shared_up.url}/health/ready", trust_env=False).status_code == 200


def test_nothing_secret_shows_in_the_list_of_processes(shared_up: Up) -> None:
    processes = processes_of(shared_up.data_dir)
    words = [word for one in processes for word in (*one.cmdline(), *one.environ().values())]
    signing_key = (shared_up.data_dir / "keys" / "signing-key.pem").read_text().splitlines()[1]
    secrets = [(shared_up.data_dir / "keys" / "secret-key").read_bytes().hex(), signing_key]
    assert len(processes) > 5
    assert [word for word in words if any(secret in word for secret in secrets)] == []


def test_a_token_is_alone_on_standard_output(shared_up: Up) -> None:
    made = command("token", "--user", "ada", "--data-dir", str(shared_up.data_dir), home=shared_up.home)
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", made.stdout)
    assert made.stderr == ""
    for token, status in ((made.stdout.strip(), 200), ("x.y.z", 401)):
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{shared_up.url}/api/v1/projects", headers=headers, trust_env=False).status_code == status


def test_a_token_has_a_lifetime(shared_up: Up, here: Here) -> None:
    def made(seconds: str) -> "subprocess.CompletedProcess[str]":
        return here("token", "--user", "ada", "--data-dir", str(shared_up.data_dir), "--expires", seconds)

    claims = jwt.decode(made("60").stdout.strip(), options={"verify_signature": False})
    assert claims["sub"] == "ada"
    assert 50 < claims["exp"] - time.time() <= 60
    assert one_line_of(made("0")) == "expires: must be more than 0 seconds and at most 100 years"


def test_without_a_data_directory_there_is_no_token(here: Here, home: Path) -> None:
    missing = here("token", "--user", "ada", "--data-dir", "nowhere")
    assert one_line_of(missing) == "nowhere is not a data directory of experiment-service: `up` makes one"
    assert not (home / "nowhere").exists()


def test_a_second_one_on_the_same_directory_is_refused(shared_up: Up) -> None:
    second = command("up", "--data-dir", str(shared_up.data_dir), "--port", "0", home=shared_up.home)
    assert one_line_of(second) == f"{shared_up.data_dir} is in use by another experiment-service"
    assert httpx.get(f"{shared_up.url}/health/ready", trust_env=False).status_code == 200


def test_a_port_in_use_is_refused_before_anything_is_done(home: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = command("up", "--data-dir", "data", "--port", str(port), home=home)
    assert one_line_of(done) == f"port {port} on 127.0.0.1 is in use: stop what uses it, or choose another --port"
    assert list(home.iterdir()) == []


def test_a_foreign_directory_is_refused(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "thesis.txt").write_text("mine")
    done = command("up", "--data-dir", "data", "--port", "0", home=home)
    assert one_line_of(done) == f"{home}/data is not empty and is not a data directory of experiment-service"
    assert [path.name for path in (home / "data").iterdir()] == ["thesis.txt"]


def test_a_directory_that_cannot_be_written_is_refused(home: Path) -> None:
    (home / "file").write_text("")
    done = command("up", "--data-dir", "file/data", "--port", "0", home=home)
    assert one_line_of(done) == f"cannot use {home}/file/data as a data directory: a part of its path is a file"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"EXPERIMENT_LOG_LEVEL": "loud"}, "EXPERIMENT_LOG_LEVEL must be one of debug, info, warning, error"),
        ({"EXPERIMENT_LOG_LEVLE": "info"}, "EXPERIMENT_LOG_LEVLE is not a setting of this service; "),
        ({"EXPERIMENT_DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}, "the database was not migrated: "),
    ],
)
def test_bad_settings_are_named(home: Path, settings: dict[str, str], complaint: str) -> None:
    done = command("up", "--data-dir", "data", "--port", "0", home=home, more=settings)
    assert one_line_of(done).startswith(complaint)


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--port", "65536"),
        ("up", "--nonsense"),
        ("up", "surplus"),
        ("nonsense",),
        ("token",),
        ("seed", "--runs", "0"),
    ],
)
def test_wrong_calls_exit_with_2(here: Here, arguments: Sequence[str]) -> None:
    assert one_line_of(here(*arguments), 2)


@pytest.mark.parametrize(
    "name", ["", "up", "api", "worker", "migrate", "seed", "token", "replay", "openapi", "asyncapi"]
)
def test_every_command_has_help(here: Here, name: str) -> None:
    done = here(*([name] if name else []), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: experiment-service {name}".rstrip() in done.stdout
    assert len(done.stdout) > 150


HELPING = """
import sys
from experiment_http.cli import main
from experiment_http.cli.commands import COMMANDS
for command in COMMANDS:
    main([command, "--help"])
main(["--help"])
slow = ("alembic", "granian", "httpx", "litestar", "numpy", "psycopg", "structlog")
print(*[name for name in slow if name in sys.modules], file=sys.stderr)
"""


def test_help_imports_nothing_that_takes_long(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELPING], cwd=home, env=environment(home), capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Usage: experiment-service") == 10
    assert done.stderr == "\n"


def test_help_for_api_lists_the_settings(here: Here) -> None:
    shown = here("api", "--help").stdout
    assert [row.variable for row in SETTINGS if row.variable not in shown] == []


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_the_document_is_the_one_that_is_served(shared_up: Up, here: Here, name: str) -> None:
    printed = here(name)
    served = httpx.get(f"{shared_up.url}/schema/{name}.json", trust_env=False)
    assert json.loads(printed.stdout) == served.json()


def test_the_schema_as_sql(here: Here) -> None:
    done = here("migrate", "--sql")
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE runs" in done.stdout
    assert "EXPERIMENT_DATABASE_URL is not set" in one_line_of(here("migrate"))


@pytest.mark.parametrize(
    ("head", "status", "is_ours"),
    [
        (b"GET /" + b"a" * 65_533 + b" HTTP/1.1", 404, True),
        (b"GET /" + b"a" * 65_534 + b" HTTP/1.1", 414, False),
        (b"GET /health/live HTTP/1.1" + b"\r\nX: 1" * 98, 200, True),
        (b"GET /health/live HTTP/1.1" + b"\r\nX: 1" * 99, 431, False),
        (b"GET /health/live HTTP/1.1\r\nX: " + b"a" * 400_000, 200, True),
        (b"GET /health/live HTTP/1.1\r\nX: " + b"a" * 1_000_000, 431, False),
        (b"nonsense", 400, False),
        (b"GET /\x00 HTTP/1.1", 400, False),
        (b"GET /health/live HTTP/1.1\r\nodd name: 1", 400, False),
    ],
    ids=lambda value: value[:30].decode("ascii", "backslashreplace") if isinstance(value, bytes) else None,
)
def test_what_the_server_itself_refuses(shared_up: Up, head: bytes, status: int, is_ours: bool) -> None:
    with socket.create_connection(("127.0.0.1", shared_up.port), timeout=30) as connection:
        with suppress(ConnectionError):  # it may have answered, and closed, before it has read all of it
            connection.sendall(head + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = connection.recv(200)
    assert int(answer.split()[1]) == status
    with closing(httpx.Client(base_url=shared_up.url, trust_env=False)) as client:
        assert client.get("/health/live").status_code == 200
    assert is_ours is (b"content-type" in answer)


@pytest.mark.covers("seed")
def test_seeded_runs_are_there(shared_up: Up, here: Here) -> None:
    arguments = ("seed", "--runs", "300", "--user", "seeder", "--data-dir", str(shared_up.data_dir))
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    found = re.match(r"project ([0-9a-f-]{36}): 300 runs", done.stdout)
    assert found
    with api(shared_up, "seeder") as client:
        runs = items(client, "/runs", project_id=found[1], limit=500)
        assert len(runs) == 300
        assert {run["status"] for run in runs} >= {"draft", "finished", "failed", "archived"}
        archived = next(run for run in runs if run["status"] == "archived")
        history = items(client, f"/runs/{archived['id']}/history")
        assert [change["to"] for change in history] == ["running", "finished", "archived"]


@pytest.mark.covers("up.start", "up.stop")
def test_stopped_or_killed_it_comes_back_with_everything(home: Path) -> None:
    port = 0
    kept: list[str] = []
    for end in ("Ctrl-C", "SIGKILL", "PostgreSQL killed", "API killed"):
        with Up(home, port=port) as up:
            up.wait_until_ready()
            assert port in {0, up.port}
            port = up.port
            with api(up) as client:
                assert sorted(one["id"] for one in items(client, "/projects")) == kept
                kept.append(create(client, "/projects", name=end)["id"])
            everything = processes_of(up.data_dir)
            assert len(everything) > 5
            if end == "Ctrl-C":
                up.process.send_signal(signal.SIGINT)
                assert up.process.wait(30) == 0
                assert are_gone(everything)
                assert up.complaint() == ""
            elif end == "SIGKILL":
                up.kill()
                # PostgreSQL stays to be taken over; the programs end by themselves.
                programs = [one for one in everything if one not in postgres_of(everything)]
                until(lambda programs=programs: are_gone(programs))
            elif end == "API killed":
                check_that_api_processes_come_back(up)
                everything = processes_of(up.data_dir)
                server, _ = up.api_processes()
                server.kill()
                assert up.process.wait(30) == 1
                assert up.complaint().endswith("experiment-service: the API has died (SIGKILL)\n")
                until(lambda everything=everything: are_gone(everything))
            else:
                os.kill(int((up.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
                assert up.process.wait(30) == 1
                complaint = f"experiment-service: PostgreSQL has died; {up.data_dir}/postgres.log may tell why\n"
                assert up.complaint().endswith(complaint)
                until(lambda everything=everything: are_gone(everything))


def check_that_api_processes_come_back(up: Up) -> None:
    """A process that answers requests and crashes is started again, by the server process that lives on."""
    server, answering = up.api_processes()
    answering.kill()

    def answers() -> bool:
        try:
            return httpx.get(f"{up.url}/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    until(lambda: are_gone([answering]))
    until(answers)
    assert server.is_running()


@pytest.mark.covers("up.start", "up.stop")
def test_killed_again_and_again_the_api_is_soon_back(home: Path) -> None:
    pauses = random.Random(20_260_309)
    with Up(home) as up:
        up.wait_until_ready()
        server, _ = up.api_processes()
        with api(up) as client:
            project = create(client, "/projects", name="Survivor")["id"]
            for _ in range(6):
                time.sleep(pauses.uniform(0.0, 0.4))
                _, *answering = up.api_processes()
                for process in answering:
                    process.kill()
                begun = time.monotonic()
                until(lambda: found(client, project))
                assert time.monotonic() - begun < 10  # a busy machine; alone it takes 0.7 s at most
        assert up.api_processes()[0] == server
        everything = processes_of(up.data_dir)
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(30) == 0
        assert are_gone(everything)


def found(client: httpx.Client, project: str) -> bool:
    try:
        return [one["id"] for one in items(client, "/projects")] == [project]
    except httpx.TransportError:
        return False


FAILING = """
import sys
from experiment_http.cli.lasting import LastingServer
from granian.constants import Interfaces
server = LastingServer("none", port=0, interface=Interfaces.ASGI, log_enabled=False)
server.serve(target_loader=lambda _: sys.exit(3))
"""


def test_an_api_that_cannot_start_is_given_up(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING], cwd=home, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("giving up") == 1


@pytest.mark.parametrize(
    ("ends", "pauses"),
    [
        ([(-9, 1.0)] * 6, [0.0, 0.1, 0.2, 0.5, 0.5, 0.5]),
        ([(-9, 1.0), (-11, 60.0), (-9, 1.0)], [0.0, 0.0, 0.0]),
        ([(0, 1.0), (0, 1.0)], [0.0, 0.1]),
        ([(1, 1.0), (1, 1.0)], [0.0, None]),
        ([(1, 1.0), (-9, 1.0), (1, 1.0)], [0.0, 0.1, 0.2]),
        ([(1, 60.0), (1, 60.0), (1, 1.0)], [0.0, 0.0, 0.0]),
    ],
)
def test_pauses_between_lives(ends: Sequence[tuple[int, float]], pauses: Sequence[float | None]) -> None:
    lives = Lives()
    assert [lives.pause(code, seconds) for code, seconds in ends] == pauses


def postgres_of(processes: Sequence[psutil.Process]) -> Sequence[psutil.Process]:
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.Error):
            if process.name().startswith("postgres"):
                found.append(process)
    return found


@pytest.mark.covers("up.stop")
def test_ctrl_c_while_it_starts(home: Path) -> None:
    with Up(home) as up:
        until((up.data_dir / "postgres.log").exists)
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(30) == 0
        assert processes_of(up.data_dir) == []


def printed_commands(said: Sequence[str]) -> list[str]:
    return [line.strip() for line in said if re.match(r"  (export|curl) ", line)]


@pytest.mark.covers("up.start", "up.stop")
def test_the_demo_can_be_tried_as_printed(home: Path) -> None:
    with Up(home, "--demo") as up:
        up.wait_until_ready()
        export, *curls = printed_commands(up.said)
        assert 4 <= len(curls) <= 8
        assert all(len(line) < 100 for line in up.said if line.strip() not in {export, *curls})
        commented = [line for place, line in enumerate(up.said) if up.said[place - 1].startswith("  # ")]
        assert [line.strip() for line in commented] == [export, *curls]
        answers: list[str] = []
        for line in curls:
            done = subprocess.run(
                ["sh", "-c", f"{export}; {line} --fail-with-body"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            answers.append(done.stdout)
        card, metrics, physical, raw, preview, audit, live = answers
        by_ordinal = sorted(json.loads(card)["capture_sessions"], key=lambda session: session["ordinal"])
        assert json.loads(audit)["ok"] is True
        assert [session["status"] for session in by_ordinal] == ["succeeded", "running"]
        assert {item["signal"] for item in json.loads(metrics)["items"]} == {"furnace", "sample"}
        for line, millivolts in zip(physical.splitlines()[1:], raw.splitlines()[1:], strict=True):
            celsius = TYPE_K_INVERSE.at(float(millivolts.split(",")[1]))
            assert float(line.split(",")[1]) == pytest.approx(celsius, abs=1e-9)
        assert json.loads(preview)["items"][0] == pytest.approx(0.0, abs=0.05)
        live_id = by_ordinal[1]["id"]
        first = {series["signal"]: series["count"] for series in json.loads(live)["items"]}
        with api(up, "demo") as client:
            until(lambda: counts(client, live_id).get("furnace", 0) >= first.get("furnace", 0) + 1)
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(30) == 0
        assert up.complaint() == ""
    with Up(home, "--demo") as again:
        again.wait_until_ready()
        with api(again, "demo") as client:
            (project,) = items(client, "/projects")
            assert project["name"] == "Demo rig"
            assert len(items(client, "/runs", project_id=project["id"])) == 1
            before = counts(client, live_id)["furnace"]
            until(lambda: counts(client, live_id)["furnace"] > before)


class Flaky(BaseHTTPRequestHandler):
    """An API that is busy at first and then takes everything."""

    refusals = 6
    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        busy = type(self).asked <= self.refusals
        answer = {"code": "unavailable", "detail": "Busy."} if busy else {"accepted": 2, "late": 0}
        body = json.dumps(answer).encode()
        self.send_response(503 if busy else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - so it is called there
        """Say nothing."""


def test_the_demo_goes_on_after_passing_faults(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        demo = Demo(f"http://127.0.0.1:{server.server_port}", "x.y.z", home)
        feeding = Thread(target=demo._feed, args=({"sensor_token": "x"}, str(uuid4())), daemon=True)
        demo._thread = feeding  # it is waited for before the client is closed
        feeding.start()
        until(lambda: Flaky.asked >= Flaky.refusals + 3)
        assert feeding.is_alive()
        demo.stop()
        assert not feeding.is_alive()
        server.shutdown()
    said = capsys.readouterr().err
    assert said.startswith("the demo's readings wait: the service refused POST /telemetry: 503 unavailable: Busy.")
    assert said.count("\n") == 1


def counts(client: httpx.Client, session_id: str) -> dict[str, int]:
    return {series["signal"]: series["count"] for series in items(client, f"/capture-sessions/{session_id}/series")}
