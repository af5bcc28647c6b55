"""Identifiers: UUIDv7, whose order is the order of their making."""

import os
import time
from abc import abstractmethod
from typing import Protocol
from uuid import UUID


class Ids(Protocol):
    """Makes identifiers."""

    @abstractmethod
    def new(self) -> UUID:
        """A new identifier, unlike any other."""


def first_id(at: float) -> UUID:
    """The least UUIDv7 that is made at a moment, in seconds since the Unix epoch, or after it."""
    return UUID(int=int(at * 1_000) << 80 | 0x7 << 76 | 0b10 << 62)


class TimeOrderedIds(Ids):
    """UUIDv7 from the system's clock and random source, ascending within one process.

    Layout after RFC 9562, section 5.7: 48 bits of Unix milliseconds, version, 12 bits of sub-millisecond
    fraction (method 3 of section 6.2), variant, 62 random bits.
    """

    def __init__(self) -> None:
        self._last = 0

    def new(self) -> UUID:
        """A UUIDv7 above all that this object has made."""
        nanoseconds = time.time_ns()
        milliseconds, rest = divmod(nanoseconds, 1_000_000)
        tick = milliseconds << 12 | (rest << 12) // 1_000_000
        # A clock that stands still or is set back must not hand out ids that sort before earlier ones.
        self._last = tick = max(tick, self._last + 1)
        random = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
        return UUID(int=(tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | random)
