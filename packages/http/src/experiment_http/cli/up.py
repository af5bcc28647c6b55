"""`up`: everything on this machine, as one command."""

import http.client
import os
import shlex
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from cyclopts.validators import Number

from experiment_http.cli import serving, worker
from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.local import (
    DATA_DIR,
    TOKEN_VARIABLE,
    checked_settings,
    environment_of_programs,
    local_keys,
    settings_of,
)
from experiment_http.cli.migrate import upgrade_database
from experiment_http.cli.supervisor import Child, ProcessWatch, Restarting, Signals, StopRequested, ending, say

if TYPE_CHECKING:
    from experiment_adapters.auth.local import LocalKeys
    from experiment_adapters.settings import Settings

HOST = "127.0.0.1"
PORT = 8000
EVERYWHERE = {"0.0.0.0": HOST, "::": "::1"}  # noqa: S104 - where to knock when it listens on all addresses
START_PATIENCE = 120.0
STOP_PATIENCE = serving.DRAINING + 10.0
DEMO_USER = "demo"
DEMO_TOKEN_EXPIRES = 30 * 86_400.0
APPLICATION_ROLE = "experiment_app"
"""Owns no table, and cannot change what is written once."""


def up(
    *,
    data_dir: Path = DATA_DIR,
    host: str = HOST,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = PORT,
    demo: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> None:
    """Run PostgreSQL, the API and the worker on this machine.

    PostgreSQL is brought along, unless EXPERIMENT_DATABASE_URL names one; keys for tokens are made, unless
    EXPERIMENT_JWT_ISSUER and its like name an identity provider. Ctrl-C stops all of it, and the data stay.

    Parameters
    ----------
    data_dir
        Where the data and the keys are; it is made where there is none.
    host
        The address on which the API listens; 0.0.0.0 for all.
    port
        The port on which the API listens; 0 for any that is free.
    demo
        Set up a thermocouple rig once, record with it as long as this runs, and show what to try.
    """
    port = serving.free_port(host, port)
    with Signals() as signals:
        try:
            with ExitStack() as stack:
                try:
                    Everything(data_dir, host, port, signals).run(stack, demo=demo)
                finally:
                    # From here on there is only stopping left, which a signal must not break off.
                    signals.stop_raising()
        except StopRequested:
            say("Stopped; the data stay.")


class Everything:
    """What `up` starts, watches and stops."""

    def __init__(self, data_dir: Path, host: str, port: int, signals: Signals) -> None:
        self._data_dir = data_dir
        self._host = host
        self._port = port
        self._signals = signals
        self._database: ProcessWatch | None = None

    def run(self, stack: ExitStack, *, demo: bool) -> None:
        """Start all of it and watch over it, until something ends it; `stack` stops it in the reverse order."""
        # In the reverse order they are stopped: the API, then the worker, then what both of them need.
        foundation = stack.enter_context(ExitStack())
        background = self._background(stack)
        api = self._api(stack)
        settings = checked_settings()
        environment = environment_of_programs()
        if settings.database is None:
            environment["EXPERIMENT_DATABASE_URL"] = self._start_database(foundation)
        else:
            self._hold_data_dir(foundation)
            upgrade_database(settings.database.url)
        keys = self._add_keys(settings, environment)
        environment.setdefault("EXPERIMENT_EXPORTS_URL", (self._data_dir.absolute() / "exports").as_uri())
        environment.setdefault("EXPERIMENT_LOG_FORMAT", "console")
        environment.setdefault("EXPERIMENT_LOG_LEVEL", "warning")
        api.begin(environment)
        self._wait_until_ready(api)
        if background is not None:
            background.begin(environment)
        self._introduce(keys)
        if demo:
            self._start_demo(stack, keys)
        say("\nCtrl-C stops it; the data stay.")
        self._watch(api, background)

    @property
    def _url(self) -> str:
        host = EVERYWHERE.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def _background(self, stack: ExitStack) -> Restarting | None:
        """The worker, if it is installed; to be stopped after the API."""
        if not worker.is_installed():
            return None
        background = Restarting(Child("worker", worker.MODULE))
        stack.callback(background.stop, STOP_PATIENCE, self._signals.hurry)
        return background

    def _api(self, stack: ExitStack) -> Child:
        """The API, whose imports take as long as starting the database does."""
        api = Child("API", serving.__name__, "--import", serving.MODULE, self._host, str(self._port), "1")
        stack.callback(api.stop, STOP_PATIENCE, self._signals.hurry)
        api.prepare()
        return api

    def _start_database(self, stack: ExitStack) -> str:
        """The embedded PostgreSQL, migrated; the URL for the programs."""
        from experiment_adapters.embedded import EmbeddedPostgres, EmbeddedPostgresError  # noqa: PLC0415

        server = EmbeddedPostgres(self._data_dir)

        def stop() -> None:
            try:
                server.stop()
            except EmbeddedPostgresError as error:
                raise CommandFailed(error) from error

        stack.callback(stop)
        try:
            # Broken off while it starts a process, it would not know of it.
            with self._signals.held_back():
                url = server.start()
        except EmbeddedPostgresError as error:
            raise CommandFailed(error) from error
        self._database = ProcessWatch.of_file(self._data_dir / "postgres" / "postmaster.pid")
        upgrade_database(url)
        parts = urlsplit(url)
        return parts._replace(netloc=f"{APPLICATION_ROLE}@{parts.netloc.rpartition('@')[2]}").geturl()

    def _hold_data_dir(self, stack: ExitStack) -> None:
        """Without a PostgreSQL of its own the directory still holds keys, and belongs to one `up` at a time."""
        from experiment_adapters.embedded.data_dir import (  # noqa: PLC0415
            EmbeddedPostgresError,
            lock,
            prepare_data_dir,
            unusable,
        )

        try:
            prepare_data_dir(self._data_dir)
            held = lock(self._data_dir / "lock")
        except EmbeddedPostgresError as error:
            raise CommandFailed(error) from error
        except OSError as error:
            raise CommandFailed(unusable(self._data_dir, error)) from error
        if held is None:
            raise CommandFailed(f"{self._data_dir} is in use by another experiment-service")
        stack.callback(os.close, held)

    def _add_keys(self, settings: "Settings", environment: dict[str, str]) -> "LocalKeys | None":
        """Add local keys to the programs' environment where it has none; those that sign tokens, if any."""
        if settings.jwt is not None and settings.secret_key is not None:
            return None
        keys = local_keys(self._data_dir)
        ours = dict(settings_of(keys))
        if settings.secret_key is not None:
            del ours["EXPERIMENT_SECRET_KEY"]
        if settings.jwt is not None:
            ours = {"EXPERIMENT_SECRET_KEY": ours["EXPERIMENT_SECRET_KEY"]}
        environment.update(ours)
        return None if settings.jwt is not None else keys

    def _wait_until_ready(self, api: Child) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while True:
            self._check(api)
            problem = self._knock()
            if problem is None:
                return
            if time.monotonic() > deadline:
                raise CommandFailed(f"the API was not ready after {START_PATIENCE:g} s: {problem}")
            time.sleep(0.05)

    def _knock(self) -> str | None:
        """What keeps the API from being ready; None where nothing does."""
        host = EVERYWHERE.get(self._host, self._host)
        with closing(http.client.HTTPConnection(host, self._port, timeout=10)) as connection:
            try:
                connection.request("GET", "/health/ready")
                answer = connection.getresponse()
                text = answer.read(500).decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                return str(error)
            return None if answer.status == http.client.OK else text

    def _introduce(self, keys: "LocalKeys | None") -> None:
        say(f"Experiment Service is ready at {self._url}")
        say(f"  API docs  {self._url}/schema")
        say(f"  data      {self._data_dir.absolute()}")
        if keys is not None:
            where = "" if self._data_dir == DATA_DIR else f" --data-dir {shlex.quote(str(self._data_dir))}"
            say(f"  a token   experiment-service token --user NAME{where}")

    def _start_demo(self, stack: ExitStack, keys: "LocalKeys | None") -> None:
        from experiment_http.cli.demo import Demo  # noqa: PLC0415 - brings an HTTP client

        token = os.environ.get(TOKEN_VARIABLE) if keys is None else keys.issue(DEMO_USER, DEMO_TOKEN_EXPIRES)
        if not token:
            raise CommandFailed(f"--demo needs a token of your identity provider in {TOKEN_VARIABLE}")
        demo = Demo(self._url, token, self._data_dir)
        stack.callback(demo.stop)
        say(demo.start())

    def _watch(self, api: Child, background: Restarting | None) -> None:
        while True:
            self._check(api)
            if background is not None:
                background.watch()
            time.sleep(0.25)

    def _check(self, api: Child) -> None:
        """Raise where the API or PostgreSQL has died for good."""
        if self._database is not None and not self._database.is_alive():
            raise CommandFailed(f"PostgreSQL has died; {self._data_dir / 'postgres.log'} may tell why")
        code = api.exit_code()
        if code is not None:
            raise CommandFailed(f"the API has died ({ending(code)})")
