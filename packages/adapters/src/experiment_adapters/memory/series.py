"""Series in memory, as plain as can be: for each timestamp the reading that was received last."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from attrs import field, frozen

from experiment_domain.telemetry.store import Chunk, Layer

SeriesKey = tuple[UUID, UUID, str]
"""Capture session, sensor, signal."""


class Reading(NamedTuple):
    """One reading, with its physical value per profile, NaN for none."""

    value: float
    is_late: bool
    physical: Mapping[UUID, float]


@frozen
class StoredSeries:
    """The readings that are read, by timestamp, and the profile whose physical layer is current."""

    profile_id: UUID | None
    readings: dict[int, Reading] = field(factory=dict[int, Reading], init=False)

    def in_order(self) -> Iterator[tuple[int, Reading]]:
        """Timestamps and readings, by timestamp."""
        return iter(sorted(self.readings.items()))

    def received(self, chunk: Chunk, profile_id: UUID | None, *, is_late: bool) -> dict[int, Reading]:
        """What a chunk puts in the place of what was received before it."""
        column = chunk.column
        if profile_id is None or chunk.physical is None:
            raw = zip(column.timestamps, column.values, strict=True)
            return {stamp: Reading(value, is_late, {}) for stamp, value in raw}
        converted = zip(column.timestamps, column.values, chunk.physical, strict=True)
        return {stamp: Reading(value, is_late, {profile_id: physical}) for stamp, value, physical in converted}

    def has_layer(self, profile_id: UUID) -> bool:
        """Whether there is a whole physical layer under a profile."""
        return all(profile_id in reading.physical for reading in self.readings.values())

    def values(self, layer: Layer, profile_id: UUID | None) -> Iterator[tuple[int, float]]:
        """Timestamps and values of one layer, by timestamp; none where there is no such physical layer."""
        if layer is Layer.RAW:
            return ((stamp, reading.value) for stamp, reading in self.in_order())
        if profile_id is None:
            return iter(())
        return ((stamp, reading.physical.get(profile_id, math.nan)) for stamp, reading in self.in_order())

    @property
    def late(self) -> int:
        """How many of the readings that are read came late."""
        return sum(reading.is_late for reading in self.readings.values())

    @property
    def out_of_range(self) -> int:
        """How many of the readings that are read have no physical value in the current layer."""
        if self.profile_id is None:
            return 0
        return sum(math.isnan(physical) for _, physical in self.values(Layer.PHYSICAL, self.profile_id))
