"""The API under Granian: one process that listens and restarts the workers that crash.

`python -m experiment_http.cli.serving HOST PORT PROCESSES` is what `up` starts; `experiment-service api` is the
same in the foreground. Everything else comes from the environment.
"""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from experiment_http.cli.failure import CommandFailed

MODULE = "experiment_http.asgi"
TARGET = f"{MODULE}:app"
DRAINING = 10
"""Seconds that open requests have to end when the API is asked to stop."""

SERVER_LOGS = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"_granian": {"handlers": [], "propagate": True}},
}
"""The server's own lines go where those of all libraries go."""

PORT_PATIENCE = 1.5
"""Seconds in which the API of an `up` that was killed has let go of its port."""


def serve(host: str, port: int, processes: int) -> None:
    """Serve until SIGINT or SIGTERM. Raises `OSError` where the address cannot be had; may raise `SystemExit`."""
    from granian.constants import HTTPModes, Interfaces, Loops  # noqa: PLC0415 - not needed to say what is wrong
    from granian.log import LogLevels  # noqa: PLC0415

    from experiment_adapters.logs import configure_logs  # noqa: PLC0415
    from experiment_adapters.settings import Settings  # noqa: PLC0415
    from experiment_http.cli.lasting import LastingServer  # noqa: PLC0415

    log = Settings.from_environment(os.environ).log
    configure_logs(log)
    if sys.platform == "linux":
        # Workers are forked: they share what is imported now, and one that crashed is back at once.
        import_module(MODULE)
    server = LastingServer(
        TARGET,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops.auto if sys.platform == "win32" else Loops.uvloop,
        http=HTTPModes.http1,
        workers=processes,
        workers_kill_timeout=DRAINING,
        log_level=LogLevels(log.level),
        log_dictconfig=SERVER_LOGS,
    )
    server.serve(target_loader=_load)


def free_port(host: str, port: int) -> int:
    """`port`, or one that is free where it is 0. Raises `CommandFailed` where the API could not listen on it.

    It has to be asked first: the server shares its port with its own workers, and so with another such server too.
    """
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                # As servers do: connections of an earlier one that are still closing do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return probe.getsockname()[1]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise CommandFailed(
                    f"port {port} on {host} is in use: stop what uses it, or choose another --port"
                ) from error
            raise CommandFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _load(_target: str) -> Callable[..., Any]:
    """What a worker process does first; a worker whose server was killed must not keep the port."""
    from experiment_http.cli.guard import end_with_parent_process  # noqa: PLC0415
    from experiment_http.cli.lasting import tell_when_stopping  # noqa: PLC0415

    end_with_parent_process()
    # Granian's own loader would put the current directory before the installed packages.
    from experiment_http.asgi import app  # noqa: PLC0415

    application = app()
    tell_when_stopping(application.stop)
    return application


if __name__ == "__main__":
    try:
        serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except OSError as error:
        sys.exit(f"cannot listen on {sys.argv[1]}:{sys.argv[2]}: {error.strerror or error}")
