"""Conversion profiles in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from operator import attrgetter
from uuid import UUID

from experiment_adapters.memory.paging import page_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_domain.conversions.profiles import ConversionProfile, ConversionProfileRepository, ProfileStatus
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.kernel.errors import Conflict


class MemoryConversionProfiles(MemoryRepository[ConversionProfile], ConversionProfileRepository):
    """Conversion profiles."""

    rows = attrgetter("profiles")
    noun = "conversion profile"

    async def published(self, sensor_id: UUID, lock: Lock = Lock.NONE) -> ConversionProfile | None:
        self._transaction.settle()
        return next((profile for profile in self._of(sensor_id) if profile.status is ProfileStatus.PUBLISHED), None)

    async def next_version(self, sensor_id: UUID) -> int:
        self._transaction.settle()
        return max((profile.profile_version for profile in self._of(sensor_id)), default=0) + 1

    def add(self, profile: ConversionProfile) -> None:
        self._transaction.refers(self._store.sensors, profile.sensor_id, "sensor")
        self._transaction.insert(self._store.profiles, profile.id, profile, "conversion profile")
        self._check_siblings(profile)

    def save(self, profile: ConversionProfile) -> None:
        super().save(profile)
        self._check_siblings(profile)

    async def page(self, sensor_id: UUID, *, limit: int, after: Position | None) -> Page[ConversionProfile]:
        self._transaction.settle()
        return page_of(self._of(sensor_id), "-profile_version", limit, after)

    def _of(self, sensor_id: UUID) -> list[ConversionProfile]:
        return [profile for profile in self._store.profiles.values() if profile.sensor_id == sensor_id]

    def _check_siblings(self, profile: ConversionProfile) -> None:
        siblings = [other for other in self._of(profile.sensor_id) if other.id != profile.id]
        self._transaction.check(
            all(other.profile_version != profile.profile_version for other in siblings),
            Conflict("version_taken", "Another profile of this sensor took the same version."),
        )
        if profile.status is ProfileStatus.PUBLISHED:
            self._transaction.check(
                all(other.status is not ProfileStatus.PUBLISHED for other in siblings),
                Conflict("already_published", "Another version of this sensor is published."),
            )
