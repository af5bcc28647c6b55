"""The commands and where they live; each is imported when it is called or asked for its help."""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module

from cyclopts import App

COMMANDS = {
    "up": ("up", "Run PostgreSQL, the API and the worker on this machine."),
    "api": ("api", "Run the API alone, for deployments."),
    "worker": ("worker", "Run the worker alone, for deployments."),
    "migrate": ("migrate", "Bring a database to the schema of this version."),
    "seed": ("seed", "Fill a database with test data."),
    "token": ("tokens", "Print a signed token for local use."),
    "replay": ("replay", "Send recorded CSV files as live telemetry."),
    "openapi": ("openapi", "Print the OpenAPI document of the HTTP API."),
    "asyncapi": ("asyncapi", "Print the AsyncAPI document of all events."),
}
USAGES = {"replay": "Usage: experiment-service replay FILE... --project NAME --experiment NAME [OPTIONS]"}
_HELP = ("--help", "-h")


def application(arguments: Sequence[str]) -> App:
    """The whole command line; only the command that `arguments` begin with has to be imported."""
    app = App(
        name="experiment-service",
        help="The system of record for physical experiments: runs, sensors, and what they measured.",
        help_epilogue="Begin with: experiment-service up --demo\nMore of each: experiment-service COMMAND --help",
        help_format="plaintext",  # what renders Markdown takes as long to import as everything else together
        version=lambda: f"{_version()}\n",
        version_format="rich",  # only this one keeps the line break
        suppress_keyboard_interrupt=False,
    )
    for place, (name, (module, summary)) in enumerate(COMMANDS.items()):
        target = f"experiment_http.cli.{module}"
        if list(arguments[:1]) == [name]:
            command = getattr(import_module(target), name)
            epilogue = _epilogue(command) if set(_HELP) & set(arguments) else ""
            app.command(command, name=name, help=_text(command), help_epilogue=epilogue, usage=USAGES.get(name))
        else:
            app.command(f"{target}:{name}", name=name, help=summary, sort_key=place)
    return app


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - takes a while

    return version("experiment-http")


def _text(command: Callable[..., object]) -> str:
    """What a command's docstring says before its parameters, without the line breaks of the source."""
    text = inspect.cleandoc(command.__doc__ or "").split("\nParameters\n---")[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _epilogue(command: Callable[..., object]) -> str:
    """What a command's module adds to its help, if anything."""
    add = getattr(import_module(command.__module__), "epilogue", None)
    return "" if add is None else add()
