"""Chunks that overlap in time, merged: of one timestamp the reading received last is the one that is read."""

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from experiment_adapters.postgres.telemetry.arrays import Floats, Integers
from experiment_domain.telemetry.statistics import LARGE, SMALL, Statistics


@frozen(kw_only=True, eq=False)
class Opened:
    """A chunk with its arrays; NaN stands for no physical value."""

    position: int
    late: bool
    timestamps: Integers
    values: Floats


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
    missing = np.isnan(values)
    if missing.any():
        values = values[~missing]
    if not len(values):
        return None
    minimum, maximum = float(values.min()), float(values.max())
    peak = max(-minimum, maximum)
    if peak and not SMALL <= peak <= LARGE:
        # Their squares overflow or vanish: the domain's slower way knows what to do.
        return Statistics.of(values.tolist())
    mean = float(values.mean())
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
