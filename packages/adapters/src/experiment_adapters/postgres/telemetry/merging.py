"""Chunks that overlap in time, merged: of one timestamp the reading received last is the one that is read."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from attrs import evolve, frozen

from experiment_adapters.postgres.telemetry.arrays import Floats, Integers, restored
from experiment_domain.telemetry.statistics import LARGE, SMALL, Statistics

AT_ONCE = 250_000
"""About so many readings are merged at once: it takes several times the memory that they do."""
_EVERY = 1_000
"""Of so many readings of a chunk one is looked at to find where to divide it."""


@frozen(kw_only=True, eq=False)
class Opened:
    """A chunk with its arrays; NaN stands for no physical value."""

    position: int
    late: bool
    timestamps: Integers
    values: Floats

    @classmethod
    def of(cls, position: int, late: bool, kept: Integers, values: Floats) -> "Opened":
        """A chunk as its row has it, of whose timestamps not all may be kept."""
        return cls(position=position, late=late, timestamps=restored(kept, len(values)), values=values)

    def between(self, low: int, high: int) -> "Opened":
        """Some of the readings, by their places."""
        return evolve(self, timestamps=self.timestamps[low:high], values=self.values[low:high])


@frozen(kw_only=True, eq=False)
class Merged:
    """Readings by strictly rising timestamps, and which of them came late."""

    timestamps: Integers
    values: Floats
    late: "np.typing.NDArray[np.bool_]"

    def split(self, places: Integers) -> "list[Merged]":
        """The same in parts, which begin at the start and at these places."""
        parts = zip(*(np.split(column, places) for column in (self.timestamps, self.values, self.late)), strict=True)
        return [Merged(timestamps=timestamps, values=values, late=late) for timestamps, values, late in parts]


class Sweep:
    """Chunks that are opened in the order of time, and merged as far as those that are still to come cannot reach."""

    def __init__(self) -> None:
        self._open: list[Opened] = []

    def add(self, *chunks: Opened) -> None:
        """Add chunks, none of which begins before where those were merged that came earlier."""
        self._open += chunks

    def before(self, moment: int | None) -> Iterator[Merged]:
        """All that lies before a moment, and was not given before, in parts that follow each other; None: the rest."""
        chunks, self._open = self._open, []
        complete: list[Opened] = []
        for chunk in chunks:
            size = len(chunk.timestamps)
            place = size if moment is None else int(np.searchsorted(chunk.timestamps, moment))
            if place:
                complete.append(chunk.between(0, place))
            if place < size:
                self._open.append(chunk.between(place, size))
        yield from map(merge, _portions(complete))


def _portions(chunks: Sequence[Opened]) -> Iterator[Sequence[Opened]]:
    """The readings of chunks in portions that follow each other in time, none much larger than `AT_ONCE`."""
    total = sum(len(chunk.timestamps) for chunk in chunks)
    if total <= AT_ONCE:
        if chunks:
            yield chunks
        return
    looked_at = np.sort(np.concatenate([chunk.timestamps[::_EVERY] for chunk in chunks]))
    moments = np.unique(looked_at[:: max(1, len(looked_at) * AT_ONCE // total)])[1:]
    places = [[0, *np.searchsorted(chunk.timestamps, moments).tolist(), len(chunk.timestamps)] for chunk in chunks]
    for portion in zip(*map(pairwise, places), strict=True):
        parts = [chunk.between(low, high) for chunk, (low, high) in zip(chunks, portion, strict=True) if low < high]
        if parts:
            yield parts


def merge(chunks: Sequence[Opened]) -> Merged:
    """The readings of chunks that may overlap."""
    ordered = sorted(chunks, key=lambda chunk: chunk.position)
    timestamps = np.concatenate([chunk.timestamps for chunk in ordered])
    values = np.concatenate([chunk.values for chunk in ordered])
    late = np.repeat([chunk.late for chunk in ordered], [len(chunk.timestamps) for chunk in ordered])
    # A stable sort keeps the order of reception within a timestamp: its last reading is the one that is read.
    order = np.argsort(timestamps, kind="stable")
    timestamps = timestamps[order]
    last = np.append(timestamps[1:] != timestamps[:-1], True)
    kept = order[last]
    return Merged(timestamps=timestamps[last], values=values[kept], late=late[kept])


def statistics_of(values: Floats) -> Statistics | None:
    """What `Statistics.of` says, by NumPy; NaN stands for no value."""
    minimum = float(np.minimum.reduce(values, initial=math.inf))
    if math.isnan(minimum):  # as it is where any of them is
        values = values[~np.isnan(values)]
        minimum = float(np.minimum.reduce(values, initial=math.inf))
    if not len(values):
        return None
    maximum = float(np.maximum.reduce(values))
    peak = max(-minimum, maximum)
    if peak and not SMALL <= peak <= LARGE:
        # Their squares overflow or vanish: the domain's slower way knows what to do.
        return Statistics.of(values.tolist())
    mean = float(np.add.reduce(values)) / len(values)
    apart = values - mean
    return Statistics(
        count=len(values),
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        squares=float(apart @ apart),
        first=float(values[0]),
        last=float(values[-1]),
    )
