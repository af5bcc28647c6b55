"""Capture sessions: intervals of recording inside a run."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.events import (
    CaptureArchived,
    CaptureCompleted,
    CaptureCreated,
    CaptureDeleted,
    CaptureFailed,
    CaptureRestored,
    CaptureStarted,
    PinnedProfile,
    SessionMoved,
)
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Lock,
    Page,
    Position,
    Repository,
    changed,
    created,
    refuse_archived,
    removed,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.kernel.values import checked_text
from experiment_domain.runs import Run, RunStatus


class CaptureStatus(StrEnum):
    """The statuses of a capture session."""

    DRAFT = "draft"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ARCHIVED = "archived"


CAPTURE_SESSION = Lifecycle(
    "capture_session",
    CaptureStatus.DRAFT,
    {
        CaptureStatus.DRAFT: (CaptureStatus.RUNNING, CaptureStatus.ARCHIVED),
        CaptureStatus.RUNNING: (CaptureStatus.SUCCEEDED, CaptureStatus.FAILED),
        CaptureStatus.SUCCEEDED: (CaptureStatus.ARCHIVED,),
        CaptureStatus.FAILED: (CaptureStatus.ARCHIVED,),
    },
)

_EVENTS: Mapping[CaptureStatus, type[SessionMoved]] = {
    CaptureStatus.RUNNING: CaptureStarted,
    CaptureStatus.SUCCEEDED: CaptureCompleted,
    CaptureStatus.FAILED: CaptureFailed,
    CaptureStatus.ARCHIVED: CaptureArchived,
}


@frozen(kw_only=True)
class Pin:
    """A sensor that takes part in a session, and the profile version its readings are converted by.

    `profile_id` is None where the sensor had no published profile when the session started: its readings
    then have raw values only.
    """

    sensor_id: UUID
    profile_id: UUID | None
    profile_version: int | None

    def told(self) -> PinnedProfile:
        """The pin as events tell it."""
        return PinnedProfile(sensor_id=self.sensor_id, profile_id=self.profile_id, profile_version=self.profile_version)


@frozen(kw_only=True)
class CaptureSession(Entity):
    """One interval of recording inside a run. `ordinal` counts a run's sessions 1, 2, 3 …"""

    run_id: UUID
    ordinal: int
    notes: str | None = None
    status: CaptureStatus = CaptureStatus.DRAFT
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    deleted_at: datetime | None = None
    pins: tuple[Pin, ...] = ()

    @classmethod
    def create(
        cls, *, session_id: UUID, run: Run, ordinal: int, at: datetime, by: str, notes: str | None
    ) -> Change["CaptureSession"]:
        """A new session of `run`, in draft."""
        refuse_archived("run", run.status)
        if run.status not in (RunStatus.DRAFT, RunStatus.RUNNING):
            raise Conflict("run_over", f"This run is {run.status} and takes no more capture sessions.")
        if notes is not None:
            checked_text("notes", notes)
        session = cls(
            id=session_id,
            project_id=run.project_id,
            run_id=run.id,
            ordinal=ordinal,
            notes=notes,
            created_at=at,
            updated_at=at,
            created_by=by,
        )
        return created(session, session.event(CaptureCreated(run_id=run.id, ordinal=ordinal), at))

    @property
    def is_running(self) -> bool:
        """Whether it is being recorded. It is active while it is, and while one of its backfills is under way."""
        return self.status is CaptureStatus.RUNNING

    def pin_of(self, sensor_id: UUID) -> Pin | None:
        """The part that a sensor takes in this session, None where it takes none."""
        return next((pin for pin in self.pins if pin.sensor_id == sensor_id), None)

    @property
    def subject(self) -> str:
        """What events say they are about."""
        return f"capture_session/{self.id}"

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this session."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    def start(
        self,
        *,
        run: Run,
        pins: Sequence[Pin],
        running_sessions: Collection[UUID],
        at: datetime,
        reason: str | None = None,
    ) -> Change["CaptureSession"]:
        """draft → running: pins for each bound sensor the profile version published now."""
        if not CAPTURE_SESSION.moves(self.status, CaptureStatus.RUNNING):
            return unchanged(self)
        if run.status is not RunStatus.RUNNING:
            raise Conflict("run_not_running", f"A session starts only in a running run; this one is {run.status}.")
        if not pins:
            raise Conflict("no_bound_sensors", "A session starts only in a run with at least one bound sensor.")
        if running_sessions:
            raise Conflict(
                "session_already_running",
                "A run has at most one running session.",
                active_capture_sessions=[str(session_id) for session_id in running_sessions],
            )
        values = {"started_at": at, "pins": tuple(pins)}
        return self._move(CaptureStatus.RUNNING, at, reason, values, pins=tuple(pin.told() for pin in pins))

    def stop(self, outcome: CaptureStatus, *, at: datetime, reason: str | None = None) -> Change["CaptureSession"]:
        """running → succeeded or failed."""
        return self._move(outcome, at, reason, {"stopped_at": at})

    def archive(self, *, at: datetime, reason: str | None = None) -> Change["CaptureSession"]:
        """draft, succeeded or failed → archived."""
        return self._move(CaptureStatus.ARCHIVED, at, reason, {})

    def delete(self, *, at: datetime) -> Change["CaptureSession"]:
        """A draft is removed; a failed one is gone from every listing and can be restored; others refuse."""
        event = self.event(CaptureDeleted(run_id=self.run_id, ordinal=self.ordinal), at)
        if self.status is CaptureStatus.DRAFT:
            return removed(self, event)
        if self.status is not CaptureStatus.FAILED:
            raise Conflict("not_deletable", f"Only draft and failed sessions are deleted; this one is {self.status}.")
        return changed(self, at, {"deleted_at": at}, event)

    def restore(self, *, at: datetime) -> Change["CaptureSession"]:
        """Bring a deleted session back; one that is there stays as it is."""
        event = self.event(CaptureRestored(run_id=self.run_id, ordinal=self.ordinal), at)
        return changed(self, at, {"deleted_at": None}, event)

    def _move(
        self, target: CaptureStatus, at: datetime, reason: str | None, values: Mapping[str, Any], **more: Any
    ) -> Change["CaptureSession"]:
        if not CAPTURE_SESSION.moves(self.status, target):
            return unchanged(self)
        said = _EVENTS[target](run_id=self.run_id, ordinal=self.ordinal, from_=self.status, reason=reason, **more)
        return changed(self, at, {"status": target, **values}, self.event(said, at))


def readings_are_late(status: CaptureStatus) -> bool:
    """Whether readings for a session of this status come late; refused before it started and once it is archived."""
    refuse_archived("capture session", status)
    if status is CaptureStatus.DRAFT:
        raise Conflict("session_not_started", "This capture session has not been started.")
    return status is not CaptureStatus.RUNNING


def recording_is_over(status: CaptureStatus) -> bool:
    """Whether nothing comes in any more for a session of this status but what is late."""
    return status not in (CaptureStatus.DRAFT, CaptureStatus.RUNNING)


class CaptureSessionRepository(Repository[CaptureSession], Protocol):
    """Keeps capture sessions with their pins. Deleted ones are found only by who asks for them."""

    @abstractmethod
    async def get(self, session_id: UUID, lock: Lock = Lock.NONE, *, deleted: bool = False) -> CaptureSession | None:
        """The session, or None; a deleted one only where `deleted` ones are asked for as well."""

    @abstractmethod
    def remove(self, session: CaptureSession) -> None:
        """Remove a draft."""

    @abstractmethod
    async def page(
        self,
        run_id: UUID,
        *,
        statuses: Collection[CaptureStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[CaptureSession]:
        """The sessions of a run, newest first."""

    @abstractmethod
    async def of_runs(self, run_ids: Collection[UUID], lock: Lock = Lock.NONE) -> Sequence[CaptureSession]:
        """All sessions of runs that are not deleted, by run and ordinal, and locked in that order."""

    @abstractmethod
    async def any_in(self, run_id: UUID) -> bool:
        """Whether a run has sessions, deleted ones included."""

    @abstractmethod
    async def running_in(self, run_id: UUID) -> Sequence[UUID]:
        """The running sessions of a run."""

    @abstractmethod
    async def left_running(self, limit: int) -> Sequence[UUID]:
        """At most so many running sessions whose runs are over, which no command leaves behind."""

    @abstractmethod
    async def active_in(self, run_ids: Collection[UUID]) -> Mapping[UUID, Sequence[UUID]]:
        """The active sessions of runs, by run: running, or with a backfill that is queued or running.

        A run without any is not named.
        """

    @abstractmethod
    async def active_with(self, sensor_id: UUID, run_id: UUID | None = None) -> Sequence[UUID]:
        """The active sessions in which a sensor takes part, of one run or of all."""

    @abstractmethod
    async def any_with(self, sensor_id: UUID) -> bool:
        """Whether a sensor ever took part in a session."""

    @abstractmethod
    async def pins_for(self, run_id: UUID) -> Sequence[Pin]:
        """A pin for each bound sensor that is not retired and that the run's project may use.

        Each has the profile version published now.

        The sensors are held: none is retired, deleted or given another profile until the unit of work ends.
        """

    @abstractmethod
    async def next_ordinal(self, run_id: UUID) -> int:
        """One above the highest ordinal of a run, deleted sessions included; call it with the run locked."""
