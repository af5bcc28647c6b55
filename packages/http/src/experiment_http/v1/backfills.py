"""Backfills: readings of a session converted again, by another profile version."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

from attrs import evolve, frozen

from experiment_domain.backfills import Backfill, BackfillStatus
from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.usecases import Work
from experiment_domain.usecases.backfills import BackfillUseCases, Requested
from experiment_http.answers import Answer, EntityView, Items, One, Paged, one
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Timestamp
from experiment_http.v1.values import ENTITY, Request, StatusChangeView, Transition


class NewBackfill(Request, frozen=True):
    """Whose readings are to be converted, and by which profile version: a published one, or one that was."""

    example: ClassVar[Mapping[str, Any]] = {
        "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
        "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
    }

    profile_id: UUID
    sensor_id: UUID


class BackfillView(EntityView, frozen=True):
    """A re-conversion and how far it has come.

    Progress (`chunks_done` of `chunks_total`, `readings_converted`) does not count as a change of `version`.
    """

    location: ClassVar[str] = "/backfills"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        **NewBackfill.example,
        "capture_session_id": "0195798b-2c3d-7e4f-8a5b-6c7d8e9fa0b1",
        "run_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
        "profile_version": 3,
        "status": "running",
        "chunks_total": 3600,
        "chunks_done": 1200,
        "readings_converted": 1200000,
        "attempts": 0,
        "error": None,
        "queued_at": "2026-03-09T10:14:33.000000Z",
        "started_at": "2026-03-09T10:14:34.000000Z",
        "finished_at": None,
    }

    capture_session_id: UUID
    run_id: UUID
    sensor_id: UUID
    profile_id: UUID
    profile_version: int
    status: BackfillStatus
    chunks_total: int
    chunks_done: int
    readings_converted: int
    attempts: int
    error: str | None
    queued_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None


class BackfillQuery(PageQuery, frozen=True):
    """Which backfills."""

    status: tuple[BackfillStatus, ...] = ()


@frozen(kw_only=True)
class RequestedForm(One):
    """A backfill that was made for a request, or with 200 the one that does already what was asked for."""

    def answer(self, result: Requested, cursor: Callable[[Any], str]) -> Answer:
        """The view of the backfill."""
        answer = super().answer(result.backfill, cursor)
        return answer if result.is_new or self.found is None else evolve(answer, status=self.found)


operations = Operations("backfills", "Readings of capture sessions converted again, by other profile versions.")
ONE = one(BackfillView)


@operations.post(
    "/capture-sessions/{session_id:uuid}/backfills",
    BackfillUseCases.request,
    RequestedForm(view=BackfillView, status=201, found=200, has_etag=True, has_location=True),
)
async def request_backfill(work: Work, session_id: UUID, body: NewBackfill) -> Requested:
    """Convert a sensor's readings in a session again, by another profile version.

    The session is over and not archived (`session_running`, `session_not_started`, `archived`), and active until the
    backfill ends. The profile is one of the sensor's, and no draft (`profile_is_draft`). A worker makes the new layer
    piece by piece; it becomes current in one step when it is whole, and the layers before it are still read by their
    `profile_id`. Asked for what is queued, running, or done and still current, this answers with that backfill.
    """
    return await work.backfills.request(session_id, profile_id=body.profile_id, sensor_id=body.sensor_id)


@operations.get("/capture-sessions/{session_id:uuid}/backfills", BackfillUseCases.page, Paged(view=BackfillView))
async def list_backfills(
    work: Work, session_id: UUID, query: BackfillQuery, after: Position | None = None
) -> Page[Backfill]:
    """List the backfills of a capture session, newest first."""
    return await work.backfills.page(session_id, statuses=query.status, limit=query.limit, after=after)


@operations.get("/backfills/{backfill_id:uuid}", BackfillUseCases.get, one(BackfillView, revalidates=False))
async def get_backfill(work: Work, backfill_id: UUID) -> Backfill:
    """Show a backfill and its progress."""
    return await work.backfills.get(backfill_id)


@operations.post("/backfills/{backfill_id:uuid}/cancel", BackfillUseCases.cancel, ONE)
async def cancel_backfill(
    work: Work, backfill_id: UUID, if_version: int | None, body: Transition | None = None
) -> Backfill:
    """Cancel a backfill: queued or running → cancelled.

    The current layer stays as it is, and nobody reads what was converted so far.
    """
    return await work.backfills.cancel(backfill_id, if_version=if_version, **given(body or Transition()))


@operations.post("/backfills/{backfill_id:uuid}/retry", BackfillUseCases.retry, ONE)
async def retry_backfill(
    work: Work, backfill_id: UUID, if_version: int | None, body: Transition | None = None
) -> Backfill:
    """Try a backfill again: failed → queued. It goes on where it was."""
    return await work.backfills.retry(backfill_id, if_version=if_version, **given(body or Transition()))


@operations.get("/backfills/{backfill_id:uuid}/history", BackfillUseCases.history, Items(view=StatusChangeView))
async def backfill_history(work: Work, backfill_id: UUID) -> Sequence[StatusChange]:
    """List a backfill's transitions, oldest first."""
    return await work.backfills.history(backfill_id)
