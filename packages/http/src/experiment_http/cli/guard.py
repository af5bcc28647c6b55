"""A child process of `up`: `python -m experiment_http.cli.guard MODULE [--import MODULE] [ARGUMENT …]`.

Its parent holds the other end of its standard input, a pipe. The first line that comes is the environment to run
with, as JSON: until then, there is time to import what will be needed, and no other user of the machine sees it.
Nothing comes after that; the system closes the pipe when the parent is gone, also after a SIGKILL, and the child
ends.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module

_PATIENCE = 10.0


def _end_with_parent() -> None:
    """End this process when its standard input is closed: politely, so that it can stop its own children."""
    _watch_in_background(_wait_for_end_of_input, patience=_PATIENCE)


def end_with_parent_process() -> None:
    """End this process, started by `multiprocessing`, at once when the one that started it is gone."""
    _watch_in_background(_wait_for_parent_process, patience=0.0)


def _watch_in_background(wait_until_gone: Callable[[], None], patience: float) -> None:
    def watch() -> None:
        wait_until_gone()
        if patience:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(patience)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _wait_for_end_of_input() -> None:
    while os.read(0, 4096):
        pass


def _wait_for_parent_process() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()


def _read_environment() -> dict[str, str]:
    line = bytearray()
    while not line.endswith(b"\n"):
        part = os.read(0, 65_536)
        if not part:
            sys.exit(0)  # the parent went away before it had decided
        line += part
    return json.loads(line)


def _main(module: str, *arguments: str) -> None:
    if arguments[:1] == ("--import",):
        import_module(arguments[1])
        arguments = arguments[2:]
    os.environ.clear()
    os.environ.update(_read_environment())
    _end_with_parent()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
