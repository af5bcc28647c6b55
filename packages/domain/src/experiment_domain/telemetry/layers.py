"""The port of physical layers: which there are of a sensor's readings in a session, and how one more is made.

All series of a sensor in a session have the same layers. The one under the pinned profile is whole by itself, since
every reading is converted by it on its way in; others are made chunk by chunk, and are whole from one moment on.
"""

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.backfills import Place


@frozen(kw_only=True)
class LayerName:
    """The layer of a sensor's readings in a session under a profile."""

    capture_session_id: UUID
    sensor_id: UUID
    profile_id: UUID


@frozen(kw_only=True, eq=False)
class RawChunk:
    """The raw values of a chunk that is to be converted."""

    place: Place
    values: "array[float]"


@frozen(kw_only=True, eq=False)
class PhysicalChunk:
    """The physical values of a chunk; NaN stands for no value."""

    place: Place
    values: "array[float]"


@frozen(kw_only=True, eq=False)
class Sweep:
    """A part of a sensor's chunks: how many were `seen`, those among them that the layer lacks, and where to go on.

    `next` is None where there are no more.
    """

    seen: int
    missing: Sequence[RawChunk]
    next: Place | None


@frozen(kw_only=True)
class Portion:
    """How much one step converts at most: so many chunks, and so many readings unless one chunk alone has more."""

    chunks: int = 1_000
    readings: int = 250_000

    def fitting(self, counts: Iterable[int]) -> int:
        """How many of the first chunks, of so many readings each, fit into it; one always does."""
        fitting = readings = 0
        for count in counts:
            readings += count
            if fitting and (readings > self.readings or fitting == self.chunks):
                break
            fitting += 1
        return fitting


class PhysicalLayers(Protocol):
    """Keeps physical layers beside those that readings get on their way in."""

    @abstractmethod
    async def chunks(self, capture_session_id: UUID, sensor_id: UUID) -> int:
        """How many chunks a sensor's readings in a session are kept in."""

    @abstractmethod
    async def current(self, capture_session_id: UUID, sensor_id: UUID) -> UUID | None:
        """The profile of the current layer, None where there are raw values only."""

    @abstractmethod
    async def sweep(self, layer: LayerName, portion: Portion, after: Place | None) -> Sweep:
        """The chunks behind a place, in one fixed order. What comes in meanwhile may lie before it."""

    @abstractmethod
    async def missing(self, layer: LayerName, portion: Portion) -> Sweep:
        """The chunks that the layer lacks, wherever they lie; only these are `seen`."""

    @abstractmethod
    def add(self, layer: LayerName, chunks: Sequence[PhysicalChunk]) -> None:
        """Keep converted chunks, which nobody reads before the layer is whole."""

    @abstractmethod
    def make_current(self, layer: LayerName) -> None:
        """Note that a layer is whole, and read it by default; call it with the session held against batches.

        From now on batches are converted for it as well as for the layers before it.
        """
