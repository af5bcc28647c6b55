"""Sensors in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.paging import has_words, newest_first, one_of
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.kernel.errors import Conflict
from experiment_domain.sensors import Sensor, SensorFilter, SensorRepository


class MemorySensors(SensorRepository):
    """Sensors, and with which projects they are shared."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def get(self, sensor_id: UUID, lock: Lock = Lock.NONE) -> Sensor | None:
        self._transaction.settle()
        return self._store.sensors.get(sensor_id)

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
        self._transaction.save(self._store.sensors, sensor, "sensor")
        self._check_token(sensor)

    def remove(self, sensor: Sensor) -> None:
        sessions = (found for found in self._store.captures.values() if found.pin_of(sensor.id) is not None)
        self._transaction.refers_not(sessions, "sensor")
        self._transaction.remove(self._store.sensors, sensor, "sensor")
        for binding in [key for key in self._store.run_sensors if key[1] == sensor.id]:
            self._transaction.drop(self._store.run_sensors, binding)
        for share in [key for key in self._store.shares if key[0] == sensor.id]:
            self._transaction.drop(self._store.shares, share)
        for profile in [profile for profile in self._store.profiles.values() if profile.sensor_id == sensor.id]:
            self._transaction.drop(self._store.profiles, profile.id)

    def renew_sign_of_life(self, sensor_id: UUID, at: datetime) -> None:
        sensor = self._store.sensors.get(sensor_id)
        if sensor is not None:
            self._transaction.put(
                self._store.sensors, sensor_id, evolve(sensor, last_seen_at=max(at, sensor.last_seen_at or at))
            )

    async def page(self, which: SensorFilter, *, limit: int, after: Position | None) -> Page[Sensor]:
        self._transaction.settle()
        found = [
            sensor
            for sensor in self._store.sensors.values()
            if not set(which.project_ids).isdisjoint(self._projects_of(sensor))
            and one_of(sensor.status, which.statuses)
            and one_of(sensor.sensor_type, which.sensor_types)
            and has_words(which.words, sensor.name)
        ]
        return newest_first(found, limit, after)

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
