"""Telemetry in memory: the plain model of what every other store has to answer."""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby, islice
from uuid import UUID

from experiment_adapters.memory.captures import MemoryCaptures
from experiment_adapters.memory.layers import MemoryLayers
from experiment_adapters.memory.sensors import MemorySensors
from experiment_adapters.memory.series import StoredSeries
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain import vigils
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.errors import Conflict
from experiment_domain.sensors import Sensor
from experiment_domain.telemetry.batches import EARLIEST, LATEST, Batch, moment
from experiment_domain.telemetry.statistics import Statistics
from experiment_domain.telemetry.store import (
    Admission,
    Destination,
    Intake,
    Layer,
    Metrics,
    Presumed,
    Ran,
    ReadingQuery,
    Readings,
    Receipt,
    Series,
    TelemetryStore,
    check_buckets,
)

_Group = tuple[UUID, str, UUID | None]
"""Sensor, signal, and the profile of the layer."""


class MemoryTelemetry(TelemetryStore):
    """Readings: all that was received, and by timestamp the ones that are read."""

    def __init__(
        self,
        store: Store,
        transaction: Transaction,
        sensors: MemorySensors,
        captures: MemoryCaptures,
        layers: MemoryLayers,
    ) -> None:
        self._store = store
        self._transaction = transaction
        self._sensors = sensors
        self._captures = captures
        self._layers = layers

    async def admit(
        self, token_hash: bytes, capture_session_id: UUID | None, keys: Sequence[str], at: datetime
    ) -> Admission | None:
        sensor = await self._sensors.by_token(token_hash, at)
        if sensor is None:
            return None
        return Admission(
            sensor=sensor,
            destinations=await self._destinations(sensor, capture_session_id),
            future_tolerance=self._store.projects[sensor.project_id].future_tolerance,
            repeated={key: receipt for key in keys if (receipt := self._receipt(sensor.id, capture_session_id, key))},
        )

    async def ran_between(self, token_hash: bytes, since: datetime, until: datetime, at: datetime) -> Sequence[Ran]:
        sensor = await self._sensors.by_token(token_hash, at)
        return [
            Ran(capture_session_id=session.id, started_at=session.started_at, stopped_at=session.stopped_at)
            for session in self._store.captures.values()
            if sensor is not None
            and session.pin_of(sensor.id) is not None
            and session.deleted_at is None
            and session.started_at is not None
            and session.started_at <= until
            and (session.stopped_at is None or since < session.stopped_at)
        ]

    async def marked(self, sensor_id: UUID, batch: Batch) -> Receipt | None:  # noqa: ARG002 - all receipts are kept
        return None

    def append(self, *intakes: Intake) -> None:
        for intake in intakes:
            self._append(intake)

    async def append_presumed(self, presumed: Sequence[Presumed]) -> Sequence[bool]:
        kept: list[bool] = []
        for one in presumed:
            receipt = one.intake.receipt
            # At the end of time no rotated token holds any more.
            found = await self.admit(one.sensor.token_hash, receipt.capture_session_id, [receipt.key], moment(LATEST))
            kept.append(one.holds_by(found))
            if kept[-1]:
                self._append(one.intake)
        return kept

    def _append(self, intake: Intake) -> None:
        receipt = intake.receipt
        session_id, sensor_id = receipt.capture_session_id, receipt.sensor_id
        self._transaction.refers(self._store.captures, session_id, "capture session")
        self._transaction.check(
            (sensor_id, session_id, receipt.key) not in self._store.intakes,
            Conflict("duplicate_batch", "This batch was accepted before."),
        )
        self._transaction.put(self._store.intakes, (sensor_id, session_id, receipt.key), intake)
        for chunk in intake.chunks:
            key = (session_id, sensor_id, chunk.column.signal)
            series = self._store.series.get(key)
            if series is None:
                series = StoredSeries(intake.profile_id)
                self._transaction.put(self._store.series, key, series)
            received = series.received(chunk, intake.profile_id, is_late=intake.is_late)
            self._transaction.put_all(series.readings, received)

    async def series(self, capture_session_id: UUID) -> Sequence[Series]:
        self._transaction.settle()
        found: list[Series] = []
        for (session_id, sensor_id, signal), series in sorted(self._store.series.items(), key=lambda item: item[0]):
            if session_id == capture_session_id:
                found.append(
                    Series(
                        capture_session_id=session_id,
                        sensor_id=sensor_id,
                        signal=signal,
                        count=len(series.readings),
                        late=series.late,
                        out_of_range=series.out_of_range,
                        first_timestamp=moment(min(series.readings)),
                        last_timestamp=moment(max(series.readings)),
                        profile_id=series.profile_id,
                    )
                )
        return found

    async def names(self, capture_session_id: UUID) -> Sequence[tuple[UUID, str]]:
        self._transaction.settle()
        return sorted(key[1:] for key in self._store.series if key[0] == capture_session_id)

    async def layer_of(self, capture_session_id: UUID, sensor_id: UUID, signal: str) -> tuple[bool, UUID | None]:
        self._transaction.settle()
        series = self._store.series.get((capture_session_id, sensor_id, signal))
        return (False, None) if series is None else (True, series.profile_id)

    async def has_layer(self, capture_session_id: UUID, sensor_id: UUID, signal: str, profile_id: UUID) -> bool:
        self._transaction.settle()
        exists = (capture_session_id, sensor_id, signal) in self._store.series
        return exists and profile_id in self._layers.whole(capture_session_id, sensor_id)

    async def read(self, query: ReadingQuery) -> Readings:
        self._transaction.settle()
        series = self._store.series.get((query.capture_session_id, query.sensor_id, query.signal))
        found = (
            (stamp, value)
            for stamp, value in (series.values(query.layer, query.profile_id) if series else ())
            if (query.start is None or stamp >= query.start)
            and (query.end is None or stamp < query.end)
            and (query.after is None or stamp > query.after)
        )
        rows = list(islice(found, query.limit + 1))
        part = rows[: query.limit]
        return Readings(
            timestamps=array("q", [stamp for stamp, _ in part]),
            values=array("d", [value for _, value in part]),
            more=len(rows) > query.limit,
        )

    async def metrics(
        self, run_id: UUID, *, layer: Layer | None, signals: Collection[str] = (), bucket: int | None = None
    ) -> Sequence[Metrics]:
        self._transaction.settle()
        found: list[Metrics] = []
        for (sensor_id, signal, profile_id), group in sorted((await self._groups(run_id, layer)).items(), key=_place):
            if signals and signal not in signals:
                continue
            read = Layer.RAW if profile_id is None else Layer.PHYSICAL
            readings = sorted(
                (stamp, ordinal, value, series.readings[stamp].is_late)
                for ordinal, series in group
                for stamp, value in series.values(read, profile_id)
            )
            for start, within in groupby(readings, lambda reading: bucket and reading[0] // bucket * bucket):
                stamps, _, values, late = zip(*within, strict=True)
                found.append(
                    Metrics(
                        sensor_id=sensor_id,
                        signal=signal,
                        layer=read,
                        profile_id=profile_id,
                        late=sum(late),
                        out_of_range=sum(map(math.isnan, values)),
                        duration=(stamps[-1] - stamps[0]) / 1_000_000,
                        statistics=Statistics.of(values),
                        timestamp=None if start is None else moment(max(start, EARLIEST)),
                    )
                )
                if bucket is not None:
                    check_buckets(len(found))
        return found

    async def metrics_of_runs(
        self, layers: Mapping[UUID, Layer | None], *, signals: Collection[str] = ()
    ) -> Mapping[UUID, Sequence[Metrics]]:
        found = {run_id: await self.metrics(run_id, layer=layer, signals=signals) for run_id, layer in layers.items()}
        return {run_id: metrics for run_id, metrics in found.items() if metrics}

    async def _groups(self, run_id: UUID, layer: Layer | None) -> dict[_Group, list[tuple[int, StoredSeries]]]:
        """The series that are counted together, each with the number of its session."""
        groups: dict[_Group, list[tuple[int, StoredSeries]]] = {}
        for session in await self._captures.of_runs([run_id]):
            for (session_id, sensor_id, signal), series in self._store.series.items():
                if session_id == session.id and (layer is not Layer.PHYSICAL or series.profile_id is not None):
                    profile_id = None if layer is Layer.RAW else series.profile_id
                    groups.setdefault((sensor_id, signal, profile_id), []).append((session.ordinal, series))
        return groups

    async def _destinations(self, sensor: Sensor, capture_session_id: UUID | None) -> list[Destination]:
        if capture_session_id is None:
            running = [
                session
                for session in self._store.captures.values()
                if session.status is CaptureStatus.RUNNING and session.deleted_at is None
            ]
            taking_part = [session for session in running if session.pin_of(sensor.id) is not None]
            return [self._destination(sensor, session) for session in sorted(taking_part, key=lambda found: found.id)]
        session = await self._captures.get(capture_session_id)
        if session is None:
            return []
        if session.pin_of(sensor.id) is None and session.project_id not in await self._sensors.projects_of(sensor.id):
            return []
        return [self._destination(sensor, session)]

    def _destination(self, sensor: Sensor, session: CaptureSession) -> Destination:
        current, *others = self._layers.whole(session.id, sensor.id) or [None]
        return Destination(
            capture_session_id=session.id,
            project_id=session.project_id,
            run_id=session.run_id,
            status=session.status,
            stopped_at=session.stopped_at,
            profile=None if current is None else self._store.profiles[current],
            others=[self._store.profiles[profile_id] for profile_id in others if profile_id is not None],
            signals=frozenset(key[2] for key in self._store.series if key[:2] == (session.id, sensor.id)),
            takes_part=session.pin_of(sensor.id) is not None,
            run_is_due_for_a_sign=self._is_due_for_a_sign(session.run_id),
        )

    def _is_due_for_a_sign(self, run_id: UUID) -> bool:
        vigil = self._store.vigils.get(run_id)
        return (
            vigil is None
            or vigil.warned_at is not None
            or vigil.alive_at <= datetime.now(UTC) - vigils.READINGS_COUNT_EVERY
        )

    def _receipt(self, sensor_id: UUID, capture_session_id: UUID | None, key: str) -> Receipt | None:
        if capture_session_id is not None:
            intake = self._store.intakes.get((sensor_id, capture_session_id, key))
            return None if intake is None else intake.receipt
        found = [
            intake.receipt
            for (sender, _, known), intake in self._store.intakes.items()
            if sender == sensor_id and known == key
        ]
        return max(found, key=lambda receipt: receipt.received_at, default=None)


def _place(item: tuple[_Group, object]) -> tuple[UUID, str, bool, str]:
    (sensor_id, signal, profile_id), _ = item
    return sensor_id, signal, profile_id is None, str(profile_id or "")
