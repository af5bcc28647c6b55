"""Sensors in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import has_words, newest_first, one_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_adapters.memory.store import StoredSensorVigil
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.kernel.errors import Conflict
from experiment_domain.sensors import (
    Sensor,
    SensorFilter,
    SensorRepository,
    SensorStatus,
    SignsOfLife,
    SignsWindow,
    StatusSummary,
    connection,
    minute_of,
)


class MemorySensors(MemoryRepository[Sensor], SensorRepository):
    """Sensors, and with which projects they are shared."""

    rows = attrgetter("sensors")
    noun = "sensor"

    async def by_token(self, token_hash: bytes, at: datetime, lock: Lock = Lock.NONE) -> Sensor | None:
        self._transaction.settle()
        for sensor in self._store.sensors.values():
            if sensor.token_hash == token_hash or (
                sensor.previous_token_hash == token_hash
                and sensor.previous_token_dies_at is not None
                and at < sensor.previous_token_dies_at
            ):
                return sensor
        return None

    def add(self, sensor: Sensor) -> None:
        self._transaction.refers(self._store.projects, sensor.project_id, "project")
        self._transaction.insert(self._store.sensors, sensor.id, sensor, "sensor")
        self._check_token(sensor)

    def save(self, sensor: Sensor) -> None:
        super().save(sensor)
        self._check_token(sensor)

    def remove(self, sensor: Sensor) -> None:
        sessions = (found for found in self._store.captures.values() if found.pin_of(sensor.id) is not None)
        self._transaction.refers_not(sessions, "sensor")
        self._transaction.remove(self._store.sensors, sensor, "sensor")
        for binding in [key for key in self._store.run_sensors if key[1] == sensor.id]:
            self._transaction.drop(self._store.run_sensors, binding)
        for share in [key for key in self._store.shares if key[0] == sensor.id]:
            self._transaction.drop(self._store.shares, share)
        for signs in [key for key in self._store.signs_of_life if key[0] == sensor.id]:
            self._transaction.drop(self._store.signs_of_life, signs)
        self._transaction.drop(self._store.sensor_vigils, sensor.id)
        for profile in [profile for profile in self._store.profiles.values() if profile.sensor_id == sensor.id]:
            self._transaction.drop(self._store.profiles, profile.id)

    def renew_sign_of_life(self, sensor_id: UUID, at: datetime, *, unless_since: datetime | None = None) -> None:
        sensor = self._store.sensors.get(sensor_id)
        if sensor is None:
            return
        before, minute = sensor.last_seen_at, (sensor_id, minute_of(at))
        if before is not None and unless_since is not None and before > unless_since:
            return
        self._transaction.put(self._store.sensors, sensor_id, evolve(sensor, last_seen_at=max(at, before or at)))
        signs = self._store.signs_of_life
        self._transaction.put(signs, minute, signs.get(minute, 0) + 1)
        vigil = self._store.sensor_vigils.get(sensor_id, StoredSensorVigil(look_at=None))
        if vigil.look_at is None:
            self._transaction.put(self._store.sensor_vigils, sensor_id, evolve(vigil, look_at=at))

    async def signs_of_life(self, sensor_id: UUID, window: SignsWindow) -> Sequence[SignsOfLife]:
        self._transaction.settle()
        counts = Counter[int]()
        for (seen, minute), count in self._store.signs_of_life.items():
            if seen == sensor_id and window.start <= minute < window.end:
                counts[(minute - window.start) // window.bucket] += count
        return window.filled(counts)

    async def forget_signs_of_life(self, before: datetime, *, most: int) -> int:
        self._transaction.settle()
        old = [key for key in self._store.signs_of_life if key[1] < before][:most]
        for key in old:
            self._transaction.drop(self._store.signs_of_life, key)
        return len(old)

    async def page(self, which: SensorFilter, *, limit: int, after: Position | None) -> Page[Sensor]:
        self._transaction.settle()
        found = [
            sensor
            for sensor in self._store.sensors.values()
            if not set(which.project_ids).isdisjoint(self._projects_of(sensor))
            and one_of(sensor.status, which.statuses)
            and one_of(sensor.sensor_type, which.sensor_types)
            and (not which.connections or connection(sensor.last_seen_at, which.moment) in which.connections)
            and has_words(which.words, sensor.name)
        ]
        return newest_first(found, limit, after)

    async def status_summary(self, project_ids: Collection[UUID], now: datetime) -> StatusSummary:
        self._transaction.settle()
        counts = Counter(
            str(connection(sensor.last_seen_at, now))
            for sensor in self._store.sensors.values()
            if sensor.status is not SensorStatus.RETIRED and not set(project_ids).isdisjoint(self._projects_of(sensor))
        )
        return StatusSummary(**counts)

    async def projects_of(self, sensor_id: UUID) -> Sequence[UUID]:
        self._transaction.settle()
        sensor = self._store.sensors.get(sensor_id)
        return [] if sensor is None else self._projects_of(sensor)

    def share(self, sensor_id: UUID, project_id: UUID, at: datetime, by: str) -> None:
        self._transaction.refers(self._store.sensors, sensor_id, "sensor")
        self._transaction.refers(self._store.projects, project_id, "project")
        if (sensor_id, project_id) not in self._store.shares:
            self._transaction.put(self._store.shares, (sensor_id, project_id), at)

    def unshare(self, sensor_id: UUID, project_id: UUID) -> None:
        self._transaction.drop(self._store.shares, (sensor_id, project_id))

    def _check_token(self, sensor: Sensor) -> None:
        others = (found for found in self._store.sensors.values() if found.id != sensor.id)
        self._transaction.check(
            all(found.token_hash != sensor.token_hash for found in others),
            Conflict("already_exists", "Another sensor has this token."),
        )

    def _projects_of(self, sensor: Sensor) -> list[UUID]:
        shared = sorted((at, project) for (shared, project), at in self._store.shares.items() if shared == sensor.id)
        return [sensor.project_id, *(project for _, project in shared)]
