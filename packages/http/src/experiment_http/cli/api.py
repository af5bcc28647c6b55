"""`api`: the API alone, for deployments."""

import os
import shutil
import textwrap
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.local import TOKEN_VARIABLE

_WIDEST = 100


def epilogue() -> str:
    """All settings, for the help."""
    from experiment_adapters.settings import OTEL_MEANING, SETTINGS  # noqa: PLC0415 - takes a while

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    lines = ["Settings, from environment variables:"]
    for name, default, meaning in (
        *((row.variable, row.default, row.meaning) for row in SETTINGS),
        ("OTEL_*", "", OTEL_MEANING),
    ):
        lines.append(f"  {name}" + (f" [default: {default}]" if default else ""))
        lines.append(textwrap.fill(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)


def api(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=Number(gte=0, lte=65_535))] = None,
    processes: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
) -> None:
    """Run the API alone, with settings from the environment.

    SIGTERM and Ctrl-C let open requests end, for ten seconds at most. A process that crashes is started again.

    Parameters
    ----------
    host
        The address on which it listens; EXPERIMENT_API_HOST otherwise.
    port
        The port on which it listens; EXPERIMENT_API_PORT otherwise.
    processes
        How many processes answer requests; EXPERIMENT_API_PROCESSES otherwise.
    """
    from experiment_adapters import compose  # noqa: PLC0415
    from experiment_adapters.settings import Settings, SettingsError  # noqa: PLC0415
    from experiment_http.cli import serving  # noqa: PLC0415

    os.environ.pop(TOKEN_VARIABLE, None)
    try:
        settings = Settings.from_environment(os.environ)
        # The processes that it starts would find out too, each for itself and over and over.
        settings.need_database()
        settings.need_jwt()
        settings.need_secret_key()
        if (spool := compose.spool(settings)) is not None:
            spool.close()
    except SettingsError as error:
        raise CommandFailed(error) from error
    address = host or settings.api.host
    number = serving.free_port(address, settings.api.port if port is None else port)
    try:
        serving.serve(address, number, processes or settings.api.processes)
    except OSError as error:
        raise CommandFailed(f"cannot listen on {address}:{number}: {error.strerror or error}") from error
