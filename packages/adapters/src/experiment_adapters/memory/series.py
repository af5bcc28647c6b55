"""Series in memory, as plain as can be: for each timestamp the reading that was received last."""

import math
from array import array
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


def layers_of(chunk: Chunk, profile_id: UUID | None) -> Mapping[UUID, "array[float]"]:
    """The physical values that a chunk came with, by profile; `profile_id` is the current one."""
    if profile_id is None or chunk.physical is None:
        return chunk.others
    return {profile_id: chunk.physical, **chunk.others}


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
        layers = layers_of(chunk, profile_id)
        return {
            stamp: Reading(value, is_late, {profile: values[place] for profile, values in layers.items()})
            for place, (stamp, value) in enumerate(zip(column.timestamps, column.values, strict=True))
        }

    def converted(self, chunk: Chunk, profile_id: UUID, physical: "array[float]") -> dict[int, Reading]:
        """What the values of one more layer put in the place of what is read of a chunk."""
        column = chunk.column
        return {
            stamp: reading._replace(physical={**reading.physical, profile_id: converted})
            for stamp, value, converted in zip(column.timestamps, column.values, physical, strict=True)
            # A reading that was overridden is not read, unless by its own value, of which a rule makes the same.
            if (reading := self.readings[stamp]).value == value
        }

    def switched(self, profile_id: UUID) -> "StoredSeries":
        """The same readings with another layer current."""
        series = StoredSeries(profile_id)
        series.readings.update(self.readings)
        return series

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
