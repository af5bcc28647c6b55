"""Capture sessions in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from uuid import UUID

from experiment_adapters.memory.paging import one_of, page_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_domain.captures import CaptureSession, CaptureSessionRepository, CaptureStatus, Pin
from experiment_domain.conversions.profiles import ProfileStatus
from experiment_domain.kernel.entity import Lock, Page, Position
from experiment_domain.kernel.errors import Conflict
from experiment_domain.sensors import SensorStatus


class MemoryCaptures(MemoryRepository[CaptureSession], CaptureSessionRepository):
    """Capture sessions with their pins."""

    rows = attrgetter("captures")
    noun = "capture session"

    async def get(self, session_id: UUID, lock: Lock = Lock.NONE, *, deleted: bool = False) -> CaptureSession | None:
        self._transaction.settle()
        session = self._store.captures.get(session_id)
        return session if session is None or session.deleted_at is None or deleted else None

    def add(self, session: CaptureSession) -> None:
        self._transaction.refers(self._store.runs, session.run_id, "run")
        self._transaction.insert(self._store.captures, session.id, session, "capture session")
        self._check_siblings(session)

    def save(self, session: CaptureSession) -> None:
        super().save(session)
        self._check_siblings(session)

    def remove(self, session: CaptureSession) -> None:
        intakes = (key for key in self._store.intakes if key[1] == session.id)
        self._transaction.refers_not([*session.pins, *intakes], "capture session")
        self._transaction.remove(self._store.captures, session, "capture session")

    async def page(
        self,
        run_id: UUID,
        *,
        statuses: Collection[CaptureStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[CaptureSession]:
        self._transaction.settle()
        found = [session for session in self._shown(run_id) if one_of(session.status, statuses)]
        return page_of(found, "-ordinal", limit, after)

    async def of_runs(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Sequence[CaptureSession]:
        self._transaction.settle()
        found = [session for run_id in run_ids for session in self._shown(run_id)]
        return sorted(found, key=lambda session: (session.run_id, session.ordinal))

    async def any_in(self, run_id: UUID) -> bool:
        self._transaction.settle()
        return any(session.run_id == run_id for session in self._store.captures.values())

    async def running_in(self, run_id: UUID) -> Sequence[UUID]:
        self._transaction.settle()
        return [session.id for session in self._shown(run_id) if session.is_running]

    async def left_running(self, limit: int) -> Sequence[UUID]:
        self._transaction.settle()
        found = (session for session in self._shown(None) if session.is_running)
        return sorted(session.id for session in found if self._store.runs[session.run_id].is_over)[:limit]

    async def active_in(self, run_ids: Collection[UUID]) -> Mapping[UUID, Sequence[UUID]]:
        self._transaction.settle()
        active: dict[UUID, list[UUID]] = {}
        for session in sorted(self._store.captures.values(), key=lambda session: session.id):
            if session.run_id in run_ids and session.deleted_at is None and self._is_active(session):
                active.setdefault(session.run_id, []).append(session.id)
        return active

    async def active_with(self, sensor_id: UUID, run_id: UUID | None = None) -> Sequence[UUID]:
        self._transaction.settle()
        return sorted(
            session.id
            for session in self._shown(run_id)
            if self._is_active(session) and session.pin_of(sensor_id) is not None
        )

    async def any_with(self, sensor_id: UUID) -> bool:
        self._transaction.settle()
        return any(session.pin_of(sensor_id) is not None for session in self._store.captures.values())

    async def pins_for(self, run_id: UUID) -> Sequence[Pin]:
        self._transaction.settle()
        bound = sorted(
            (binding for binding in self._store.run_sensors.values() if binding.run_id == run_id),
            key=lambda binding: (binding.bound_at, binding.sensor_id),
        )
        published = {
            profile.sensor_id: profile
            for profile in self._store.profiles.values()
            if profile.status is ProfileStatus.PUBLISHED
        }
        pins: list[Pin] = []
        for sensor_id in (binding.sensor_id for binding in bound):
            sensor = self._store.sensors[sensor_id]
            shared = (sensor_id, self._store.runs[run_id].project_id) in self._store.shares
            owned = sensor.project_id == self._store.runs[run_id].project_id
            if sensor.status is not SensorStatus.RETIRED and (owned or shared):
                profile = published.get(sensor_id)
                pins.append(
                    Pin(
                        sensor_id=sensor_id,
                        profile_id=profile and profile.id,
                        profile_version=profile and profile.profile_version,
                    )
                )
        return pins

    async def next_ordinal(self, run_id: UUID) -> int:
        self._transaction.settle()
        ordinals = (session.ordinal for session in self._store.captures.values() if session.run_id == run_id)
        return max(ordinals, default=0) + 1

    def _is_active(self, session: CaptureSession) -> bool:
        return session.is_running or any(
            backfill.is_active
            for backfill in self._store.backfills.values()
            if backfill.capture_session_id == session.id
        )

    def _shown(self, run_id: UUID | None) -> Iterator[CaptureSession]:
        for session in self._store.captures.values():
            if session.deleted_at is None and run_id in (None, session.run_id):
                yield session

    def _check_siblings(self, session: CaptureSession) -> None:
        siblings = [
            other
            for other in self._store.captures.values()
            if other.run_id == session.run_id and other.id != session.id
        ]
        self._transaction.check(
            all(other.ordinal != session.ordinal for other in siblings),
            Conflict("ordinal_taken", "Another session of this run took the same ordinal."),
        )
        if session.status is CaptureStatus.RUNNING:
            self._transaction.check(
                all(other.status is not CaptureStatus.RUNNING for other in siblings),
                Conflict("session_already_running", "A run has at most one running session."),
            )
        for pin in session.pins:
            self._transaction.refers(self._store.sensors, pin.sensor_id, "sensor")
            if pin.profile_id is not None:
                self._transaction.refers(self._store.profiles, pin.profile_id, "conversion profile")
