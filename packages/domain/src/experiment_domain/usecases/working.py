"""Working off what is queued: one unit of work after the other, so that whatever ends it in between loses nothing."""

import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

TURN = 2.0
"""Seconds after which a piece of work that is not done makes way for the others that wait."""


class Piece(Protocol):
    """A piece of work, as it is after its last step."""

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether it is still to be done."""

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether somebody is at it."""


P = TypeVar("P", bound=Piece)


async def take_turns(
    claim: Callable[[], Awaitable[P | None]],
    step: Callable[[P], Awaitable[P | None]],
    leave: Callable[[P], Awaitable[object]],
    *,
    seconds: float,
    turn: float,
    stopping: Callable[[], bool],
) -> int:
    """Claim pieces of work and go on with them, until none is due, `seconds` are over, or it is `stopping`.

    How many came to an end. One that is not done after `turn` seconds is left, and waits until the others have had
    theirs. `claim` gives None where none is due, `step` where the claim is lost.
    """
    deadline = time.monotonic() + seconds
    ended = 0

    def is_over() -> bool:
        return stopping() or time.monotonic() >= deadline

    while not is_over():
        piece = await claim()
        if piece is None:
            break
        turn_ends = time.monotonic() + turn
        while piece is not None and piece.is_running:
            piece = await step(piece)
            if is_over() or time.monotonic() >= turn_ends:
                break
        if piece is not None and piece.is_running:
            await leave(piece)
        ended += piece is not None and not piece.is_active
    return ended
