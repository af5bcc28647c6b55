"""`experiment-service api` as a real process beside a PostgreSQL of the test's own, and what is recorded through it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import psycopg
from attrs import frozen

from experiment_adapters.embedded import EmbeddedPostgres
from fix_up import COMMAND, environment
from http_api import API, AUDIENCE, ISSUER, SECRET, token_of
from servers import free_port

PATIENCE = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """All processes of an embedded PostgreSQL."""
    postmaster = psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
    return [postmaster, *postmaster.children(recursive=True)]


def owner_of(server: EmbeddedPostgres) -> Callable[[str], Any]:
    """Asks the database itself."""
    url = server.start()

    def ask(sql: str) -> Any:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    return ask


class ApiProgram:
    """One `api`, from `with` to its end; what it logs is in a file."""

    def __init__(self, home: Path, url: str, *, processes: int = 1, more: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self._log = home / "api.log"
        self._command = [*COMMAND, "api", "--port", str(self.port), "--processes", str(processes)]
        settings = {
            "EXPERIMENT_DATABASE_URL": url,
            "EXPERIMENT_JWT_ISSUER": ISSUER,
            "EXPERIMENT_JWT_AUDIENCE": AUDIENCE,
            "EXPERIMENT_JWT_KEYS": f"HS256:{SECRET.decode()}",
            "EXPERIMENT_SECRET_KEY": SECRET.decode(),
            "EXPERIMENT_LOG_LEVEL": "warning",
        }
        self._environment = environment(home, {**settings, **(more or {})})
        self._processes = processes

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = psutil.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._is_live, "the API answers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (self._process, *self.workers()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        if error is not None:
            print(self._log.read_text()[-5_000:])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        """The processes that answer requests."""
        with suppress(psutil.NoSuchProcess):
            return [child for child in self._process.children() if _serves(child)]
        return []

    def kill_workers(self) -> None:
        """Kill them so that they can clean up nothing; they are started again."""
        for worker in self.workers():
            with suppress(psutil.NoSuchProcess):
                os.kill(worker.pid, signal.SIGKILL)

    def ready(self) -> Any:
        """What `/health/ready` says; nothing while it does not answer."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=15, trust_env=False).json()
        except httpx.TransportError:
            return {}

    def _is_live(self) -> bool:
        assert self._process.status() != psutil.STATUS_ZOMBIE, self._log.read_text()
        try:
            answer = httpx.get(f"{self.url}/health/live", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and len(self.workers()) == self._processes


def _serves(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    return False


@frozen(kw_only=True)
class Recording:
    """A session that runs, and the tokens of sensors that take part in it."""

    url: str
    session_id: str
    tokens: list[str]

    @classmethod
    def begin(cls, url: str, sensors: int) -> "Recording":
        with httpx.Client(
            base_url=url + API, headers={"Authorization": f"Bearer {token_of('ann')}"}, timeout=30, trust_env=False
        ) as client:

            def made(path: str, **body: Any) -> Any:
                answer = client.post(path, json=body)
                assert answer.is_success, answer.text
                return answer.json()

            project = made("/projects", name="Rig 7")["id"]
            experiment = made("/experiments", project_id=project, name="Does it hold?")["id"]
            run = made(f"/experiments/{experiment}/runs", name="Run A")["id"]
            kind = {"project_id": project, "sensor_type": "TC", "input_unit": "mV", "display_unit": "°C"}
            found = [made("/sensors", name=f"TC-{number}", **kind) for number in range(sensors)]
            for sensor in found:
                assert client.put(f"/runs/{run}/sensors/{sensor['id']}").is_success
            made(f"/runs/{run}/start")
            session = made(f"/runs/{run}/capture-sessions", start=True)["id"]
        return cls(url=url, session_id=session, tokens=[sensor["token"] for sensor in found])
