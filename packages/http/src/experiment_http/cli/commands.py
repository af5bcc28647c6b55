"""The commands and where they live; each is imported when it is called or asked for its help."""

from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App

COMMANDS = {
    "up": ("up:up", "Run everything on this machine: PostgreSQL, the API and the worker."),
    "api": ("api:app", "Run the API alone, with settings from the environment."),
    "worker": ("worker:worker", "Run the worker alone, with settings from the environment."),
    "migrate": ("migrate:migrate", "Bring a database to the schema of this version."),
    "seed": ("seed:seed", "Fill a database with test data."),
    "token": ("tokens:token", "Print a signed token for local use."),
    "replay": ("replay:replay", "Send recorded CSV files through the public API as live telemetry."),
    "openapi": ("openapi:openapi", "Print the OpenAPI document of the HTTP API."),
}


def application(arguments: Sequence[str]) -> App:
    """The whole command line; only the command that `arguments` begin with may have to be imported."""
    app = App(
        name="experiment-service",
        help="The system of record for physical experiments: runs, sensors, and what they measured.",
        help_epilogue="Begin with `experiment-service up --demo`; `experiment-service COMMAND --help` tells more.",
        help_format="plaintext",
        version=lambda: version("experiment-http"),
        suppress_keyboard_interrupt=False,
    )
    for name, (place, summary) in COMMANDS.items():
        # A text given here would replace the command's own, longer one.
        chosen = list(arguments[:1]) == [name]
        app.command(f"experiment_http.cli.{place}", name=name, help=None if chosen else summary)
    return app
