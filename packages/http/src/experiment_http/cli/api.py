"""`api`: the API alone, for deployments."""

import os

from cyclopts import App

from experiment_adapters.settings import OTEL_MEANING, PREFIX, SETTINGS, Settings, SettingsError
from experiment_http.cli import serving
from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.local import TOKEN_VARIABLE


def _settings() -> str:
    """All settings as a list in Markdown."""
    lines = ["Settings, from environment variables:", ""]
    for row in SETTINGS:
        default = f" [default: {row.default}]" if row.default else ""
        lines.append(f"- `{row.variable}`{default}: {row.meaning}")
    lines.append(f"- `OTEL_*`: {OTEL_MEANING}")
    return "\n".join(lines)


app = App(name="api", help_epilogue=_settings())


@app.default
def api(*, host: str | None = None, port: int | None = None, workers: int | None = None) -> None:
    """Run the API alone, with settings from the environment.

    SIGTERM and Ctrl-C let open requests end, for ten seconds at most. A worker process that crashes is started again.

    Parameters
    ----------
    host
        The address on which it listens; EXPERIMENT_API_HOST otherwise.
    port
        The port on which it listens; EXPERIMENT_API_PORT otherwise.
    workers
        How many processes answer requests; EXPERIMENT_API_PROCESSES otherwise.
    """
    os.environ.pop(TOKEN_VARIABLE, None)
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        raise CommandFailed(error) from error
    if settings.database is None:
        raise CommandFailed(f"{PREFIX}DATABASE_URL is not set; `experiment-service up` brings its own PostgreSQL")
    if settings.jwt is None:
        raise CommandFailed(f"{PREFIX}JWT_ISSUER is not set; `experiment-service up` makes its own keys")
    if settings.secret_key is None:
        raise CommandFailed(f"{PREFIX}SECRET_KEY is not set: `openssl rand -hex 32` makes one")
    address = host or settings.api.host
    number = serving.free_port(address, settings.api.port if port is None else port)
    try:
        serving.serve(address, number, workers or settings.api.processes)
    except OSError as error:
        raise CommandFailed(f"cannot listen on {address}:{number}: {error.strerror or error}") from error
