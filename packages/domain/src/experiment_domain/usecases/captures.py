"""What can be done with capture sessions."""

from collections.abc import Collection, Sequence
from uuid import UUID

from experiment_domain.backfills import check_none_active
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange, refuse_archived
from experiment_domain.kernel.errors import Invalid, NotFound
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.runs import Run, RunStatus
from experiment_domain.usecases.permits import Permit, UseCases, requires

OUTCOMES = (CaptureStatus.SUCCEEDED, CaptureStatus.FAILED)
LEFT_AT_ONCE = 100
"""How many sessions that were left running are looked for at once."""
RUN_OVER = "its run is over"
"""Why a session that was left running has failed."""


class CaptureUseCases(UseCases):
    """Capture sessions. Whatever changes one locks its run first, so that locks nest one way."""

    @requires(Permission.EDIT)
    async def create(
        self, permit: Permit, run_id: UUID, *, notes: str | None = None, start: bool = False
    ) -> CaptureSession:
        """A new session, in draft, or running at once."""
        run = await permit.holds(await self.uow.runs.get(run_id, Lock.UPDATE), "run")
        change = CaptureSession.create(
            session_id=self.recorder.ids.new(),
            run=run,
            ordinal=await self.uow.captures.next_ordinal(run_id),
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            notes=notes,
        )
        session = await self.recorder.keep(self.uow.captures, change, "capture_session", "create")
        return await self._start(run, session, None) if start else session

    @requires(Permission.READ)
    async def get(self, permit: Permit, session_id: UUID) -> CaptureSession:
        """One session."""
        return await permit.holds(await self.uow.captures.get(session_id), "capture session")

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        run_id: UUID,
        *,
        statuses: Collection[CaptureStatus] = (),
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[CaptureSession]:
        """The sessions of a run, newest first."""
        await permit.holds(await self.uow.runs.get(run_id), "run")
        return await self.uow.captures.page(run_id, statuses=statuses, limit=limit, after=after)

    @requires(Permission.EDIT)
    async def start(
        self, permit: Permit, session_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> CaptureSession:
        """draft → running; pins the published profile version of each bound sensor."""
        run, session = await self._locked(permit, session_id, if_version)
        return await self._start(run, session, reason)

    @requires(Permission.EDIT)
    async def stop(
        self,
        permit: Permit,
        session_id: UUID,
        outcome: CaptureStatus,
        *,
        reason: str | None = None,
        if_version: int | None = None,
    ) -> CaptureSession:
        """running → succeeded or failed."""
        if outcome not in OUTCOMES:
            raise Invalid.at("outcome", "must be succeeded or failed")
        _, session = await self._locked(permit, session_id, if_version)
        change = session.stop(outcome, at=self.recorder.now, reason=reason)
        return await self.recorder.keep(self.uow.captures, change, "capture_session", "stop", reason=reason)

    @requires(Permission.WORK)
    async def left_running(self, permit: Permit, *, most: int = LEFT_AT_ONCE) -> Sequence[UUID]:
        """Running sessions whose runs are over: no command leaves one behind, but hands and restored copies can."""
        permit.service()
        return await self.uow.captures.left_running(most)

    @requires(Permission.WORK)
    async def close_left(self, permit: Permit, session_id: UUID) -> CaptureSession | None:
        """running → failed, and archived where its run is; None where it or its run is not like that any more."""
        permit.service()
        found = await self.uow.captures.get(session_id)
        run = None if found is None else await self.uow.runs.get(found.run_id, Lock.UPDATE)
        session = await self.uow.captures.get(session_id, Lock.UPDATE)
        if run is None or session is None or not run.is_over or not session.is_running:
            return None
        change = session.stop(CaptureStatus.FAILED, at=self.recorder.now, reason=RUN_OVER)
        session = await self.recorder.keep(self.uow.captures, change, "capture_session", "stop", reason=RUN_OVER)
        if run.status is RunStatus.ARCHIVED and not await self.uow.backfills.active_of(session_id):
            change = session.archive(at=self.recorder.now, reason=RUN_OVER)
            session = await self.recorder.keep(self.uow.captures, change, "capture_session", "archive", reason=RUN_OVER)
        return session

    @requires(Permission.OWN)
    async def archive(
        self, permit: Permit, session_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> CaptureSession:
        """draft, succeeded or failed → archived, for good."""
        _, session = await self._locked(permit, session_id, if_version)
        check_none_active(await self.uow.backfills.active_of(session_id))
        change = session.archive(at=self.recorder.now, reason=reason)
        return await self.recorder.keep(self.uow.captures, change, "capture_session", "archive", reason=reason)

    @requires(Permission.OWN)
    async def delete(self, permit: Permit, session_id: UUID, *, if_version: int | None = None) -> None:
        """Remove a draft; hide a failed session until it is restored."""
        _, session = await self._locked(permit, session_id, if_version)
        check_none_active(await self.uow.backfills.active_of(session_id))
        change = session.delete(at=self.recorder.now)
        await self.recorder.keep(self.uow.captures, change, "capture_session", "delete")

    @requires(Permission.OWN)
    async def restore(self, permit: Permit, session_id: UUID, *, if_version: int | None = None) -> CaptureSession:
        """Bring a deleted session back, unless its run was archived meanwhile."""
        run, session = await self._locked(permit, session_id, if_version, deleted=True)
        refuse_archived("run", run.status)
        change = session.restore(at=self.recorder.now)
        return await self.recorder.keep(self.uow.captures, change, "capture_session", "restore")

    @requires(Permission.READ)
    async def history(self, permit: Permit, session_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first; owners see those of a deleted session too."""
        await self._shown(permit, session_id)
        return await self.uow.history.of("capture_session", session_id)

    @requires(Permission.READ)
    async def events(
        self, permit: Permit, session_id: UUID, *, limit: int = 50, after: Position | None = None
    ) -> Page[RecordedEvent]:
        """Everything that happened to it, oldest first; owners see what happened to a deleted session too."""
        session = await self._shown(permit, session_id)
        found = await self.uow.events.of(session.subject, limit=limit + 1, after=after)
        return Page[RecordedEvent].of(found, limit, _place)

    async def _shown(self, permit: Permit, session_id: UUID) -> CaptureSession:
        """The session, for who may read it. A deleted one is gone for all but those who can bring it back."""
        session = await permit.holds(await self.uow.captures.get(session_id, deleted=True), "capture session")
        if session.deleted_at is not None and not (await permit.grants()).allows(Permission.OWN, session.project_id):
            raise NotFound("capture session")
        return session

    async def _locked(
        self, permit: Permit, session_id: UUID, if_version: int | None, *, deleted: bool = False
    ) -> tuple[Run, CaptureSession]:
        found = await permit.holds(await self.uow.captures.get(session_id, deleted=deleted), "capture session")
        run = await permit.holds(await self.uow.runs.get(found.run_id, Lock.UPDATE), "run")
        session = await permit.holds(
            await self.uow.captures.get(session_id, Lock.UPDATE, deleted=deleted),
            "capture session",
            if_version,
        )
        return run, session

    async def _start(self, run: Run, session: CaptureSession, reason: str | None) -> CaptureSession:
        change = session.start(
            run=run,
            pins=await self.uow.captures.pins_for(run.id),
            running_sessions=await self.uow.captures.running_in(run.id),
            at=self.recorder.now,
            reason=reason,
        )
        return await self.recorder.keep(self.uow.captures, change, "capture_session", "start", reason=reason)


def _place(recorded: RecordedEvent) -> Position:
    return recorded.event.at, recorded.id
