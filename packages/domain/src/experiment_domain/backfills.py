"""Backfills: re-conversion of a session's raw values under another profile, as a restartable piece of work."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import evolve, field, frozen

from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.conversions.profiles import ConversionProfile, ProfileStatus
from experiment_domain.events import (
    BackfillCancelled,
    BackfillFailed,
    BackfillFinished,
    BackfillStarted,
    OfBackfill,
    ProfileApplied,
)
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Page,
    Position,
    Repository,
    changed,
    created,
    refuse_archived,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict, NotFound
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle

ATTEMPTS = 3
"""How many errors in a row, without any progress between them, make a backfill fail."""
LOSSES = 10
"""How many workers in a row may vanish over a backfill, without any progress between them, before it fails."""
CLAIM_LASTS = timedelta(seconds=10)
"""How long a claim holds that is not renewed: then its worker is taken for dead. Each step renews it."""
FIRST_PAUSE = timedelta(seconds=2)
"""The pause after the first error; each further one doubles it."""
ERROR_LENGTH = 500


class BackfillStatus(StrEnum):
    """The statuses of a backfill."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


BACKFILL = Lifecycle(
    "backfill",
    BackfillStatus.QUEUED,
    {
        BackfillStatus.QUEUED: (BackfillStatus.RUNNING, BackfillStatus.CANCELLED),
        BackfillStatus.RUNNING: (
            BackfillStatus.SUCCEEDED,
            BackfillStatus.FAILED,
            BackfillStatus.CANCELLED,
            BackfillStatus.QUEUED,
        ),
        BackfillStatus.FAILED: (BackfillStatus.QUEUED,),
    },
)
PROGRESS = ("chunks_total", "chunks_done", "readings_converted", "attempts", "place", "is_swept")
"""What changes with each step, and leaves `version` as it is."""
ACTIVE = (BackfillStatus.QUEUED, BackfillStatus.RUNNING)
"""A session with a backfill of one of these is active."""

_EVENTS: Mapping[BackfillStatus, type[OfBackfill]] = {
    BackfillStatus.RUNNING: BackfillStarted,
    BackfillStatus.SUCCEEDED: BackfillFinished,
    BackfillStatus.FAILED: BackfillFailed,
    BackfillStatus.CANCELLED: BackfillCancelled,
}

Place = tuple[int, int]
"""How far a sweep over the chunks of a sensor has come: the series and the position of the last one seen."""


def check_convertible(session: CaptureSession) -> None:
    """Refuse a session whose readings are not to be converted again: not started, still running, or archived."""
    refuse_archived("capture session", session.status)
    if session.status is CaptureStatus.DRAFT:
        raise Conflict("session_not_started", "This capture session has not been started: there is nothing to convert.")
    if session.status is CaptureStatus.RUNNING:
        raise Conflict(
            "session_running",
            "This capture session is running: until it is stopped, its readings are converted by the pinned profile.",
        )


def check_none_active(backfills: Sequence[UUID]) -> None:
    """Refuse to put a session away while backfills of it are queued or running."""
    if backfills:
        raise Conflict(
            "active_backfills",
            "Backfills of this capture session are queued or running: cancel them or wait for their end.",
            active_backfills=[str(backfill_id) for backfill_id in backfills],
        )


@frozen(kw_only=True)
class Backfill(Entity):
    """The readings of one sensor in one session, converted by another profile version, chunk by chunk.

    `attempts` counts the tries in a row that came to nothing; progress sets it back to 0. Progress itself does not
    change `version`. `place` and `is_swept` say where to go on: the first sweep is over when all chunks that were
    there have been seen, and what came meanwhile is left for the last step.
    """

    capture_session_id: UUID
    run_id: UUID
    sensor_id: UUID
    profile_id: UUID
    profile_version: int
    status: BackfillStatus = BackfillStatus.QUEUED
    chunks_total: int = 0
    chunks_done: int = 0
    readings_converted: int = 0
    attempts: int = 0
    error: str | None = None
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    place: Place | None = field(default=None, metadata={"secret": True})
    is_swept: bool = field(default=False, metadata={"secret": True})

    @classmethod
    def request(
        cls,
        *,
        backfill_id: UUID,
        session: CaptureSession,
        sensor_id: UUID,
        profile: ConversionProfile | None,
        at: datetime,
        by: str,
    ) -> Change["Backfill"]:
        """A new backfill of `session`, queued. The sensor took part in it, and the profile is one of its own."""
        check_convertible(session)
        if session.pin_of(sensor_id) is None:
            raise Conflict("sensor_not_in_session", "This sensor was not bound to the run when the session started.")
        if profile is None or profile.sensor_id != sensor_id:
            raise NotFound("conversion profile of this sensor")
        if profile.status is ProfileStatus.DRAFT:
            raise Conflict("profile_is_draft", "This profile is a draft, which can still change: publish it first.")
        backfill = cls(
            id=backfill_id,
            project_id=session.project_id,
            capture_session_id=session.id,
            run_id=session.run_id,
            sensor_id=sensor_id,
            profile_id=profile.id,
            profile_version=profile.profile_version,
            queued_at=at,
            created_at=at,
            updated_at=at,
            created_by=by,
        )
        return created(backfill)

    @property
    def is_active(self) -> bool:
        """Whether it is still to be done, and makes its session active."""
        return self.status in ACTIVE

    @property
    def is_running(self) -> bool:
        """Whether a worker is at it, or was when it ended without a word."""
        return self.status is BackfillStatus.RUNNING

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this backfill, which is about its session."""
        return Event.of(said, project_id=self.project_id, about=self.capture_session_id, at=at)

    def applied(self, profile: ConversionProfile, *, instead_of: UUID | None, at: datetime) -> Event:
        """That the session's readings are read by `profile` now: it is about the profile.

        The session's project is told: the sensor may be another's, and only be shared.
        """
        said = ProfileApplied(
            sensor_id=profile.sensor_id,
            profile_version=profile.profile_version,
            capture_session_id=self.capture_session_id,
            run_id=self.run_id,
            backfill_id=self.id,
            replaces_profile_id=instead_of,
        )
        return Event.of(said, project_id=self.project_id, about=profile.id, at=at)

    def take_up(self, *, chunks_total: int, at: datetime) -> Change["Backfill"]:
        """queued → running, by a worker that has just claimed it."""
        values = {"started_at": self.started_at or at, "chunks_total": max(chunks_total, self.chunks_done)}
        return self._move(BackfillStatus.RUNNING, at, values)

    def take_over(self, *, at: datetime) -> Change["Backfill"]:
        """Go on with what a worker left that vanished; running → failed where too many did so at the same place."""
        attempts = self.attempts + 1
        if attempts < LOSSES:
            return changed(self, at, {"attempts": attempts})
        error = f"{attempts} workers in a row ended without a word while they worked on it."
        values = {"attempts": attempts, "error": error, "finished_at": at}
        return self._move(BackfillStatus.FAILED, at, values, error=error)

    def advance(self, *, seen: int, readings: int, place: Place | None) -> "Backfill":
        """One part of the sweep further; `place` is None where all chunks have been seen."""
        done = self.chunks_done + seen
        return evolve(
            self,
            chunks_done=done,
            chunks_total=max(self.chunks_total, done),
            readings_converted=self.readings_converted + readings,
            attempts=0,
            place=place,
            is_swept=place is None,
        )

    def advance_late(self, *, readings: int) -> "Backfill":
        """Some of what came during the sweep is converted, and there is more."""
        return evolve(self, readings_converted=self.readings_converted + readings, attempts=0)

    def succeed(self, *, chunks: int, readings: int, at: datetime) -> Change["Backfill"]:
        """running → succeeded: all `chunks` are converted, of which the last step converted some `readings`."""
        converted = self.readings_converted + readings
        values = {
            "chunks_done": chunks,
            "chunks_total": chunks,
            "readings_converted": converted,
            "attempts": 0,
            "error": None,
            "finished_at": at,
        }
        return self._move(BackfillStatus.SUCCEEDED, at, values, chunks=chunks, readings=converted)

    def stumble(self, error: str, *, at: datetime) -> Change["Backfill"]:
        """running → queued after an error, to be tried again; running → failed after too many in a row."""
        attempts = self.attempts + 1
        values: dict[str, Any] = {"attempts": attempts, "error": error[:ERROR_LENGTH]}
        if attempts < ATTEMPTS:
            return self._move(BackfillStatus.QUEUED, at, values)
        return self._move(BackfillStatus.FAILED, at, {**values, "finished_at": at}, error=values["error"])

    @property
    def pause(self) -> timedelta:
        """How long to wait before it is tried again."""
        return FIRST_PAUSE * 2 ** max(0, self.attempts - 1) if self.attempts else timedelta()

    def cancel(self, *, at: datetime, reason: str | None = None) -> Change["Backfill"]:
        """queued or running → cancelled, for good. What was converted is never read."""
        return self._move(BackfillStatus.CANCELLED, at, {"finished_at": at}, reason=reason)

    def retry(self, *, at: datetime) -> Change["Backfill"]:
        """failed → queued, by a person: it goes on where it was."""
        if self.status is BackfillStatus.RUNNING:
            return unchanged(self)  # it is being tried, which is what was asked for
        return self._move(BackfillStatus.QUEUED, at, {"attempts": 0, "queued_at": at, "finished_at": None})

    def _move(self, target: BackfillStatus, at: datetime, values: Mapping[str, Any], **data: Any) -> Change["Backfill"]:
        if not BACKFILL.moves(self.status, target):
            return unchanged(self)
        events = [self.event(_EVENTS[target](**self._named(), **data), at)] if target in _EVENTS else []
        return changed(self, at, {"status": target, **values}, *events)

    def _named(self) -> dict[str, Any]:
        """What all of its events say."""
        return {
            "run_id": self.run_id,
            "backfill_id": self.id,
            "sensor_id": self.sensor_id,
            "profile_id": self.profile_id,
            "profile_version": self.profile_version,
        }


@frozen(kw_only=True)
class Claim:
    """A backfill that its worker alone may work on for a while; `was_lost`: the one before it vanished over it."""

    backfill: Backfill
    was_lost: bool


class BackfillRepository(Repository[Backfill], Protocol):
    """Keeps backfills, and which worker works on which. Times of claims are those of the database's own clock."""

    @abstractmethod
    async def page(
        self,
        session_id: UUID,
        *,
        statuses: Collection[BackfillStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Backfill]:
        """The backfills of a session, newest first."""

    @abstractmethod
    async def latest(self, session_id: UUID, sensor_id: UUID, profile_id: UUID) -> Backfill | None:
        """The newest backfill of a sensor's readings in a session under a profile, an active one before all others."""

    @abstractmethod
    async def active_of(self, session_id: UUID) -> Sequence[UUID]:
        """The backfills of a session that are queued or running."""

    @abstractmethod
    async def claim(self, worker: UUID, lasting: timedelta) -> Claim | None:
        """The backfill that waits longest and that no other worker has claimed, claimed; None where there is none.

        It waits since it was queued, or since it was released: those that are given back by turns all come on. Those
        of the same sensor and session come one after the other, so that the last one asked for is current at the end.
        Its row is held until the unit of work ends.
        """

    @abstractmethod
    async def claimed(self, backfill_id: UUID, worker: UUID) -> Backfill | None:
        """The backfill, held until the unit of work ends; None unless it runs and is still claimed by `worker`."""

    @abstractmethod
    def renew(self, backfill: Backfill, worker: UUID, lasting: timedelta) -> None:
        """Keep the progress of a claimed backfill, and the claim for longer."""

    @abstractmethod
    def release(self, backfill_id: UUID, pause: timedelta = timedelta()) -> None:
        """End a claim; it can be claimed again after a `pause`."""
