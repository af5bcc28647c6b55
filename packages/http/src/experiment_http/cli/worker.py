"""`worker`: everything that happens without a person waiting."""

import os
import sys
from importlib.util import find_spec

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.local import environment_of_programs

MODULE = "experiment_worker"


def is_installed() -> bool:
    """Whether there is a worker that can be run."""
    try:
        return find_spec(f"{MODULE}.__main__") is not None
    except ModuleNotFoundError:
        return False


def worker() -> None:
    """Run the worker alone, with settings from the environment.

    It is `python -m experiment_worker` in place of this process. `experiment-service api --help` lists the settings.
    """
    if not is_installed():
        raise CommandFailed("the worker is not installed: install experiment-worker")
    os.execve(sys.executable, [sys.executable, "-m", MODULE], environment_of_programs())  # noqa: S606
