"""A lock whose holders may live in different event loops, one after another or at once."""

import asyncio
import threading
from collections import deque
from types import TracebackType


class Turn:
    """First come, first served. `asyncio.Lock` belongs to the first loop that waits for it; this one to none."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._holder: asyncio.Task[object] | None = None
        self._is_held = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        with self._guard:
            if not self._is_held:
                self._is_held, self._holder = True, task
                return
            if self._holder is task:
                raise RuntimeError("This task is in a unit of work already, and would wait for itself.")
            loop = asyncio.get_running_loop()
            waiter = (loop, loop.create_future())
            self._waiting.append(waiter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            with self._guard:
                has_turn = waiter not in self._waiting
                if not has_turn:
                    self._waiting.remove(waiter)
            if has_turn:
                self._pass_on()
            raise
        self._holder = task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        with self._guard:
            self._holder = None
            while self._waiting:
                loop, turn = self._waiting.popleft()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_give, turn)
                    return
            self._is_held = False


def _give(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)
