"""Capture sessions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self
from uuid import UUID

from msgspec import UNSET, UnsetType

from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.usecases import Work
from experiment_domain.usecases.captures import CaptureUseCases
from experiment_http.answers import EntityView, Items, Nothing, Paged, View, created, one, shown
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Timestamp
from experiment_http.v1.values import ENTITY, Json, Reason, Request, StatusChangeView, Text, Transition


class NewCaptureSession(Request, frozen=True):
    """A session to be made, and whether it starts at once."""

    example: ClassVar[Mapping[str, Any]] = {"notes": "warm start", "start": True}

    notes: Text | UnsetType | None = UNSET
    start: bool | UnsetType = UNSET


class Stop(Request, frozen=True):
    """How a session ended, and why."""

    example: ClassVar[Mapping[str, Any]] = {"outcome": "succeeded", "reason": "all points taken"}

    outcome: Literal["succeeded", "failed"]
    reason: Reason | UnsetType | None = UNSET


class PinView(View, frozen=True):
    """A sensor that takes part, and the profile version its readings are converted by; null: raw values only."""

    sensor_id: UUID
    profile_id: UUID | None
    profile_version: int | None


class CaptureSessionView(EntityView, frozen=True):
    """One interval of recording inside a run. `ordinal` counts a run's sessions 1, 2, 3 …"""

    location: ClassVar[str] = "/capture-sessions"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        "run_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
        "ordinal": 1,
        "notes": "warm start",
        "status": "running",
        "started_at": "2026-03-09T10:14:33.000000Z",
        "stopped_at": None,
        "pins": [
            {
                "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
                "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
                "profile_version": 2,
            }
        ],
    }

    run_id: UUID
    ordinal: int
    notes: str | None
    status: CaptureStatus
    started_at: Timestamp | None
    stopped_at: Timestamp | None
    pins: list[PinView]

    @classmethod
    def of(cls, thing: CaptureSession) -> Self:
        """The view of a session, and in it those of its pins."""
        values = {name: getattr(thing, name) for name in cls.__struct_fields__}
        times = {name: shown(value) for name, value in values.items()}
        return cls(**{**times, "pins": list(map(PinView.of, thing.pins))})


class TimelineEventView(View, frozen=True):
    """Something that happened: `data` says what, by `type`."""

    example: ClassVar[Mapping[str, Any]] = {
        "id": "0195798b-4c3d-7e2f-9a1b-0c9d8e7f6a5b",
        "type": "capture.completed",
        "at": "2026-03-09T10:44:33.000000Z",
        "actor": "ada",
        "data": {
            "run_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
            "from": "running",
            "reason": "all points taken",
            "ordinal": 1,
        },
    }

    id: UUID
    type: str
    at: Timestamp
    actor: str
    data: Json

    @classmethod
    def of(cls, thing: RecordedEvent) -> Self:
        """The view of a recorded event."""
        event = thing.event
        return cls(thing.id, event.type, shown(event.at), thing.actor, dict(event.data))


class CaptureSessionQuery(PageQuery, frozen=True):
    """Which sessions."""

    status: tuple[CaptureStatus, ...] = ()


operations = Operations("capture sessions", "Intervals of recording inside runs.")
ONE = one(CaptureSessionView)


@operations.post("/runs/{run_id:uuid}/capture-sessions", CaptureUseCases.create, created(CaptureSessionView))
async def create_capture_session(work: Work, run_id: UUID, body: NewCaptureSession | None = None) -> CaptureSession:
    """Create a capture session, in draft, or running at once.

    A session starts only in a running run with at least one bound sensor, and a run has one running session at most
    (`run_not_running`, `no_bound_sensors`, `session_already_running`).
    """
    return await work.captures.create(run_id, **given(body or NewCaptureSession()))


@operations.get("/runs/{run_id:uuid}/capture-sessions", CaptureUseCases.page, Paged(view=CaptureSessionView))
async def list_capture_sessions(
    work: Work, run_id: UUID, query: CaptureSessionQuery, after: Position | None = None
) -> Page[CaptureSession]:
    """List the capture sessions of a run, newest first."""
    return await work.captures.page(run_id, statuses=query.status, limit=query.limit, after=after)


@operations.get("/capture-sessions/{session_id:uuid}", CaptureUseCases.get, ONE)
async def get_capture_session(work: Work, session_id: UUID) -> CaptureSession:
    """Show a capture session."""
    return await work.captures.get(session_id)


@operations.delete("/capture-sessions/{session_id:uuid}", CaptureUseCases.delete, Nothing())
async def delete_capture_session(work: Work, session_id: UUID, if_version: int | None) -> None:
    """Delete a draft, or hide a failed session until it is restored."""
    await work.captures.delete(session_id, if_version=if_version)


@operations.post("/capture-sessions/{session_id:uuid}/start", CaptureUseCases.start, ONE)
async def start_capture_session(
    work: Work, session_id: UUID, if_version: int | None, body: Transition | None = None
) -> CaptureSession:
    """Start a capture session: draft → running.

    For each bound sensor the profile version published now is pinned: what is recorded is converted by it.
    """
    return await work.captures.start(session_id, if_version=if_version, **given(body or Transition()))


@operations.post("/capture-sessions/{session_id:uuid}/stop", CaptureUseCases.stop, ONE)
async def stop_capture_session(work: Work, session_id: UUID, body: Stop, if_version: int | None) -> CaptureSession:
    """Stop a capture session: running → succeeded or failed.

    Readings that still arrive are taken and counted as late, until it is archived.
    """
    reason = {name: value for name, value in given(body).items() if name == "reason"}
    return await work.captures.stop(session_id, CaptureStatus(body.outcome), if_version=if_version, **reason)


@operations.post("/capture-sessions/{session_id:uuid}/archive", CaptureUseCases.archive, ONE)
async def archive_capture_session(
    work: Work, session_id: UUID, if_version: int | None, body: Transition | None = None
) -> CaptureSession:
    """Archive a capture session, for good."""
    return await work.captures.archive(session_id, if_version=if_version, **given(body or Transition()))


@operations.post("/capture-sessions/{session_id:uuid}/restore", CaptureUseCases.restore, ONE)
async def restore_capture_session(
    work: Work,
    session_id: UUID,
    if_version: int | None,
    body: Transition | None = None,  # noqa: ARG001 - no status changes, so there is nothing to give the reason for
) -> CaptureSession:
    """Bring a deleted capture session back.

    Its status stays as it was; a reason is taken, as for transitions, but kept nowhere.
    """
    return await work.captures.restore(session_id, if_version=if_version)


@operations.get("/capture-sessions/{session_id:uuid}/history", CaptureUseCases.history, Items(view=StatusChangeView))
async def capture_session_history(work: Work, session_id: UUID) -> Sequence[StatusChange]:
    """List a capture session's transitions, oldest first."""
    return await work.captures.history(session_id)


@operations.get("/capture-sessions/{session_id:uuid}/events", CaptureUseCases.events, Paged(view=TimelineEventView))
async def capture_session_events(
    work: Work, session_id: UUID, query: PageQuery, after: Position | None = None
) -> Page[RecordedEvent]:
    """List everything that happened to a capture session, oldest first.

    Its creation, transitions and the profiles pinned at its start, late readings, deletion and restoration. To owners,
    that of a deleted session too.
    """
    return await work.captures.events(session_id, limit=query.limit, after=after)
