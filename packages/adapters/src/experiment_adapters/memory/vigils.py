"""The last signs of life of runs, and when sensors are looked at, in memory."""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from attrs import evolve

from experiment_adapters.memory.store import Store, StoredSensorVigil, StoredVigil, Transaction
from experiment_domain import vigils
from experiment_domain.runs import RunStatus
from experiment_domain.vigils import RunVigils, SensorVigil, SensorVigils


class MemoryVigils(RunVigils):
    """When each run gave its last sign of life, and whether it was warned about."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    def renew(self, run_ids: Collection[UUID]) -> None:
        for run_id in run_ids:
            if run_id in self._store.runs:
                self._transaction.put(self._store.vigils, run_id, StoredVigil(alive_at=_now()))

    async def warn(self, *, most: int) -> Sequence[UUID]:
        self._transaction.settle()
        now = _now()
        silent = [
            run_id
            for run_id, vigil, allowed in self._watched()
            if vigil.warned_at is None and vigil.alive_at < now - allowed - vigils.READINGS_COUNT_EVERY
        ][:most]
        for run_id in silent:
            self._transaction.put(self._store.vigils, run_id, evolve(self._store.vigils[run_id], warned_at=now))
        return silent

    async def hung(self, *, most: int) -> Sequence[UUID]:
        self._transaction.settle()
        now = _now()
        return [
            run_id
            for run_id, vigil, allowed in self._watched()
            if vigil.warned_at is not None
            and max(vigil.warned_at, vigil.alive_at + allowed)
            < now - min(max(allowed, vigils.SHORTEST_GRACE), vigils.LONGEST_GRACE)
        ][:most]

    async def is_hung(self, run_id: UUID) -> bool:
        return run_id in await self.hung(most=len(self._store.vigils))

    def _watched(self) -> Iterator[tuple[UUID, StoredVigil, timedelta]]:
        for run_id, vigil in sorted(self._store.vigils.items()):
            run = self._store.runs.get(run_id)
            if run is not None and run.status is RunStatus.RUNNING:
                allowed = run.auto_close_after or self._store.projects[run.project_id].auto_close_after
                if allowed is not None:
                    yield run_id, vigil, timedelta(seconds=allowed)


class MemorySensorVigils(SensorVigils):
    """When each sensor is to be looked at."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def due(self, at: datetime, *, most: int) -> Sequence[SensorVigil]:
        self._transaction.settle()
        waiting = sorted(
            (vigil.look_at, sensor_id)
            for sensor_id, vigil in self._store.sensor_vigils.items()
            if vigil.look_at is not None and vigil.look_at <= at
        )
        return [
            SensorVigil(
                sensor=self._store.sensors[sensor_id],
                look_at=look_at,
                is_told_offline=self._store.sensor_vigils[sensor_id].is_told_offline,
            )
            for look_at, sensor_id in waiting[:most]
        ]

    def keep(self, vigils: Sequence[SensorVigil]) -> None:
        for vigil in vigils:
            kept = StoredSensorVigil(look_at=vigil.look_at, is_told_offline=vigil.is_told_offline)
            self._transaction.put(self._store.sensor_vigils, vigil.sensor.id, kept)


def _now() -> datetime:
    return datetime.now(UTC)
