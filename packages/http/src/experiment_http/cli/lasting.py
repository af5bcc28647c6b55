"""Granian's server with a rule of its own for processes that end: who is killed is started again, however often."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from granian.server.mp import MPServer
from structlog import get_logger

BRIEF = 5.0
"""A life of fewer seconds is a short one."""
PAUSES = (0.0, 0.0, 0.1, 0.2, 0.5)
"""Seconds before the next process, by the number of short lives in a row."""

log = get_logger("experiment_http.serving")


def tell_when_stopping(tell: Callable[[], None]) -> None:
    """Have a process told that it is to stop, before Granian waits for what is open: it says so only afterwards."""
    from granian import _signals  # noqa: PLC0415 - not needed where nothing is served

    watch_signals = _signals.set_loop_signals

    def watch(loop: asyncio.AbstractEventLoop) -> Any:
        stopping = watch_signals(loop)

        def stop() -> None:
            tell()
            stopping.set()

        with suppress(NotImplementedError):  # Windows has no signals to speak of
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop)
        return stopping

    _signals.set_loop_signals = watch


class Lives:
    """What became of the processes that stood in one place, one after the other."""

    def __init__(self) -> None:
        self._brief = 0
        self._has_failed = False

    def pause(self, exit_code: int | None, seconds: float) -> float | None:
        """After how many seconds one that ended is started again; None where that is in vain.

        It is in vain where two in a row fail by themselves, neither killed nor asked to end, when they have just begun.
        """
        is_brief = seconds < BRIEF
        has_failed = is_brief and exit_code is not None and exit_code > 0
        if has_failed and self._has_failed:
            return None
        self._has_failed = has_failed
        self._brief = self._brief + 1 if is_brief else 0
        return PAUSES[min(self._brief, len(PAUSES) - 1)]


class LastingServer(MPServer):
    """The server; Granian's own would end with all its processes when one of them is killed twice within seconds."""

    def _serve_loop(
        self, spawn_target: Callable[..., None], target_loader: Callable[..., Callable[..., Any]] | None
    ) -> None:
        lives = [Lives() for _ in range(self.workers)]
        due: dict[int, float] = {}
        while not self.interrupt_signal:
            rest = max(0.0, min(due.values()) - time.monotonic()) if due else None
            self.main_loop_interrupt.wait(rest)
            self.main_loop_interrupt.clear()
            if self.reload_signal:
                due.clear()
                self._reload(spawn_target, target_loader)
            while self.interrupt_children:
                place = self.interrupt_children[0]
                ended = self.wrks[place]
                pause = lives[place].pause(ended.inner.exitcode, time.monotonic() - ended.birth)
                if pause is None:
                    log.error("an API process failed twice as soon as it was started: giving up")
                    return  # what is left in `interrupt_children` makes the exit code
                due[place] = time.monotonic() + pause
                self.interrupt_children.remove(place)
            for place in [place for place, moment in due.items() if moment <= time.monotonic()]:
                del due[place]
                self._respawn_workers([place], spawn_target, target_loader)
