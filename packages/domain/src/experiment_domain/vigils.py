"""Vigils: who gave the last sign of life when, so that runs that hang and sensors that fall silent are noticed."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.events import SensorOffline, SensorOnline
from experiment_domain.kernel.events import Event
from experiment_domain.sensors import DELAYED_FOR, Connection, Sensor, SensorStatus, connection

READINGS_COUNT_EVERY = timedelta(seconds=5)
"""How often readings renew a run's sign of life at most; commands and heartbeats always do."""
SHORTEST_GRACE, LONGEST_GRACE = timedelta(seconds=10), timedelta(seconds=60)
"""After the warning, a run has as long again as it may be silent, within these bounds."""


class RunVigils(Protocol):
    """Keeps the last signs of life of runs. All times are those of the database's own clock.

    A run may be silent for its `auto_close_after`, or its project's; where neither is set, for good.
    """

    @abstractmethod
    def renew(self, run_ids: Collection[UUID]) -> None:
        """A sign of life: a warning is forgotten. To be the last thing that a unit of work holds."""

    @abstractmethod
    async def warn(self, *, most: int) -> Sequence[UUID]:
        """Note a warning for running runs that have been silent for too long, and tell which."""

    @abstractmethod
    async def hung(self, *, most: int) -> Sequence[UUID]:
        """Running runs that were warned about and have been silent for the whole grace."""

    @abstractmethod
    async def is_hung(self, run_id: UUID) -> bool:
        """Whether that is so of one run now."""


@frozen(kw_only=True)
class SensorVigil:
    """A sensor that is looked at again at a moment, or, where there is none, after its next sign of life.

    `is_told_offline`: the last that was told of it is that it is offline.
    """

    sensor: Sensor
    look_at: datetime | None
    is_told_offline: bool

    def looked(self, at: datetime) -> tuple["SensorVigil", Event | None]:
        """What is to be told of it at this moment, if anything, and when to look again.

        The silence of a sensor that is switched off or retired is not told: it was asked for.
        """
        sensor, seen = self.sensor, self.sensor.last_seen_at
        if seen is not None and connection(seen, at) is not Connection.OFFLINE:
            back = sensor.event(SensorOnline(last_seen_at=seen), at) if self.is_told_offline else None
            return SensorVigil(sensor=sensor, look_at=seen + DELAYED_FOR, is_told_offline=False), back
        gone = None
        if seen is not None and not self.is_told_offline and sensor.status is SensorStatus.ACTIVE:
            gone = sensor.event(SensorOffline(last_seen_at=seen), at)
        told = self.is_told_offline or gone is not None
        return SensorVigil(sensor=sensor, look_at=None, is_told_offline=told), gone


class SensorVigils(Protocol):
    """Keeps when each sensor is to be looked at. A sign of life begins a vigil; one that is kept already goes on."""

    @abstractmethod
    async def due(self, at: datetime, *, most: int) -> Sequence[SensorVigil]:
        """Those whose moment has come, for longest first, with their sensors held; passing over held ones."""

    @abstractmethod
    def keep(self, vigils: Sequence[SensorVigil]) -> None:
        """Keep what became of vigils that are there."""
