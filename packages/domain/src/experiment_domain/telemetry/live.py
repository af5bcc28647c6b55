"""The port of readings as they come in: what a session has received since one has looked last."""

from abc import abstractmethod
from array import array
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.telemetry.store import Layer


@frozen(kw_only=True, eq=False)
class LiveChunk:
    """Readings of one series that were received together; `place` is behind them. NaN stands for no physical value.

    `position` tells one chunk of a session from the others.
    """

    position: int
    place: str
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None
    is_late: bool
    timestamps: "array[int]"
    values: "array[float]"


@frozen(kw_only=True, eq=False)
class LivePart:
    """What is read at once. `place` is where the next part begins, also where nothing was found.

    Without `more`, it was everything that was visible when it was read; with it, there may be nothing behind it.
    """

    chunks: Sequence[LiveChunk]
    place: str
    more: bool


class LiveReadings(Protocol):
    """Readings in the order of their reception. What backfills convert, and what is only moved, does not come again.

    A place is a text of the port's own making: kept as it is, it leads on, in whatever process.
    """

    @abstractmethod
    async def latest(self, capture_session_id: UUID) -> str:
        """The place behind everything that has been received by now."""

    @abstractmethod
    async def since(
        self,
        capture_session_id: UUID,
        place: str,
        *,
        layer: Layer | None,
        chunks: int,
        readings: int,
        until: str | None = None,
    ) -> LivePart:
        """The first chunks behind a place, up to `until`, which was the latest one at some time.

        So many `chunks` at most, and no more once there are so many `readings`. Without a `layer`, physical values of
        series that have a physical layer, and raw ones of the others. Who goes on from part to part gets every chunk
        once, however long the transactions last that receive them. Raises `Conflict`, `place_lost`, where what lies
        behind the place is not known chunk by chunk any more.
        """
