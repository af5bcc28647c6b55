"""What can be done with exports: by people, who ask for them, and by the service, which writes their files."""

from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from attrs import frozen

from experiment_domain.exports.files import ExportFiles, ExportPolicy, NoExportFiles
from experiment_domain.exports.jobs import (
    CLAIM_LASTS,
    SETTLES_AFTER,
    Export,
    ExportPart,
    ExportStatus,
    FileFormat,
)
from experiment_domain.exports.scopes import ExportScope
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.export_walks import ExportWalk, Reading, sessions_of
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.recording import Recorder

NOUN = "export"
TIDIED_AT_ONCE = 100
"""How many exports one transaction puts away."""


@frozen(kw_only=True)
class ExportFile:
    """An export whose file is whole, and the parts that it is made of, in order."""

    export: Export
    parts: Sequence[ExportPart]


class ExportUseCases(UseCases):
    """Exports. `read` is done with the rights of whoever asked for the export; the rest of the work is the service's.

    See `exporting.work_off_exports`.
    """

    def __init__(self, recorder: Recorder, files: ExportFiles, policy: ExportPolicy) -> None:
        super().__init__(recorder)
        self._files = files
        self._policy = policy

    @requires(Permission.READ)
    async def request(
        self,
        permit: Permit,
        *,
        project_id: UUID,
        scope: ExportScope,
        format: FileFormat,  # noqa: A002 - that is what it is
        layer: Layer,
    ) -> Export:
        """Have the readings of a scope written into a file."""
        await permit.require(project_id, "project")
        reader = await permit.user()
        # Of several that are asked for at once, each counts the ones before.
        await permit.holds(await self.uow.projects.get(project_id, Lock.UPDATE), "project")
        await self._check_layer(permit, project_id, layer)
        if isinstance(self._files, NoExportFiles):
            raise self._files.nowhere()
        scope.check()
        await self._check_named(project_id, scope)
        under_way = await self.uow.exports.under_way(project_id, reader.id)
        if under_way >= self._policy.per_user:
            raise Conflict(
                "too_many_exports", f"{under_way} exports of yours are under way in this project: wait for their end."
            )
        change = Export.request(
            export_id=self.recorder.ids.new(),
            project_id=project_id,
            scope=scope,
            format=format,
            layer=layer,
            reader=reader,
            at=self.recorder.now,
        )
        return await self.recorder.keep(self.uow.exports, change, NOUN, "export")

    @requires(Permission.READ)
    async def get(self, permit: Permit, export_id: UUID) -> Export:
        """One export, with its progress."""
        return await permit.holds(await self.uow.exports.get(export_id), NOUN)

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        project_ids: Collection[UUID] = (),
        *,
        statuses: Collection[ExportStatus] = (),
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[Export]:
        """Exports of the projects that the caller may read, or of those among them that are named, newest first."""
        readable = await permit.projects()
        wanted = readable & frozenset(project_ids) if project_ids else readable
        if not wanted:
            return Page(())
        return await self.uow.exports.page(wanted, statuses=statuses, limit=limit, after=after)

    @requires(Permission.READ)
    async def cancel(
        self, permit: Permit, export_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Export:
        """queued or running → cancelled, by whoever asked for it, or by an editor."""
        export = await permit.holds(await self.uow.exports.get(export_id, Lock.UPDATE), NOUN, if_version)
        grants = await permit.grants()
        if export.created_by != grants.actor:
            grants.require(Permission.EDIT, export.project_id, NOUN)
        change = export.cancel(at=self.recorder.now)
        return await self.recorder.keep(self.uow.exports, change, NOUN, "cancel", reason=reason)

    @requires(Permission.READ)
    async def history(self, permit: Permit, export_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.exports.get(export_id), NOUN)
        return await self.uow.history.of(NOUN, export_id)

    @requires(Permission.READ)
    async def download(self, permit: Permit, export_id: UUID) -> ExportFile:
        """Where its file is. Raw values are for those whom the project's policy lets read them now."""
        export = await self._downloadable(permit, export_id)
        return ExportFile(export=export, parts=await self.uow.exports.parts(export_id))

    @requires(Permission.READ)
    async def check_download(self, permit: Permit, export_id: UUID) -> None:
        """Refuse whom `download` would refuse by now: somebody who is in the middle of it."""
        await self._downloadable(permit, export_id)

    @requires(Permission.READ)
    async def read(self, permit: Permit, export: Export, *, readings: int, is_over: Callable[[], bool]) -> Reading:
        """The next `readings` of an export, or fewer where that takes long, as its reader.

        Raises `NotFound` where the reader has no access to the project any more, `Forbidden` where its policy does not
        let them read raw values any more.
        """
        await permit.require(export.project_id, "project")
        await self._check_layer(permit, export.project_id, export.layer)
        reading = await ExportWalk(self.uow, export).read(readings, is_over)
        if export.readings_written + reading.count > self._policy.readings:
            raise Invalid(f"The scope has more than {self._policy.readings:,} readings: narrow it.", code="too_much")
        return reading

    @requires(Permission.WORK)
    async def claim(self, permit: Permit, worker: UUID) -> Export | None:
        """The export that waits longest, for `worker` alone; None where there is nothing to do.

        One that many workers have vanished over is handed out once more, as failed.
        """
        permit.service()
        claim = await self.uow.exports.claim(worker, CLAIM_LASTS)
        if claim is None:
            return None
        export = claim.export
        if export.status is ExportStatus.QUEUED:
            return await self.recorder.keep(self.uow.exports, export.take_up(at=self.recorder.now), NOUN, "start")
        if not claim.was_lost:
            return export
        change = export.take_over(at=self.recorder.now)
        if change.result.status is ExportStatus.FAILED:
            self.uow.exports.release(export.id)
            reason = change.result.error
            return await self.recorder.keep(self.uow.exports, change, NOUN, "fail", reason=reason)
        return await self.recorder.keep(self.uow.exports, change, NOUN, "take_over")

    @requires(Permission.WORK)
    async def plan(self, permit: Permit, export_id: UUID, worker: UUID) -> Export | None:
        """Decide which sessions are read: those that are there now. None where the claim was lost.

        Raises `Invalid` where they are too many.
        """
        permit.service()
        export = await self.uow.exports.claimed(export_id, worker)
        if export is None or export.sessions is not None:
            return export
        planned = export.plan(await sessions_of(self.uow, export))
        self.uow.exports.plan(planned)
        self.uow.exports.renew(planned, worker, CLAIM_LASTS)
        return planned

    @requires(Permission.WORK)
    async def advance(
        self, permit: Permit, export_id: UUID, worker: UUID, reading: Reading, part: ExportPart | None
    ) -> Export | None:
        """Note what was read, and the part that was written of it, if anything. None where the claim was lost."""
        permit.service()
        export = await self.uow.exports.claimed(export_id, worker)
        if export is None:
            return None
        export = export.advance(
            sessions_done=reading.sessions_done,
            place=reading.place,
            readings=reading.count,
            size=0 if part is None else part.size,
        )
        if part is not None:
            self.uow.exports.add_part(export_id, part)
        self.uow.exports.renew(export, worker, CLAIM_LASTS)
        return export

    @requires(Permission.WORK)
    async def notes(self, permit: Permit, export_id: UUID) -> Sequence[bytes]:
        """What the end of a file has to know of its parts."""
        permit.service()
        return await self.uow.exports.notes(export_id)

    @requires(Permission.WORK)
    async def finish(self, permit: Permit, export_id: UUID, worker: UUID, part: ExportPart | None) -> Export | None:
        """running → succeeded, with the part at the end of its file, if there is one. None where the claim was lost."""
        permit.service()
        export = await self.uow.exports.claimed(export_id, worker)
        if export is None:
            return None
        if part is not None:
            self.uow.exports.add_part(export_id, part)
            export = export.advance(sessions_done=export.sessions_done, place=None, readings=0, size=part.size)
        self.uow.exports.renew(export, worker, CLAIM_LASTS)
        change = export.succeed(kept_for=self._policy.kept_for, at=self.recorder.now)
        kept = await self.recorder.keep(self.uow.exports, change, NOUN, "finish")
        self.uow.exports.release(export_id)
        return kept

    @requires(Permission.WORK)
    async def fail(self, permit: Permit, export_id: UUID, worker: UUID, error: str) -> Export | None:
        """running → failed: it is not to be had. None where the claim was lost."""
        permit.service()
        export = await self.uow.exports.claimed(export_id, worker)
        if export is None:
            return None
        change = export.fail(error, at=self.recorder.now)
        kept = await self.recorder.keep(self.uow.exports, change, NOUN, "fail", reason=change.result.error)
        self.uow.exports.release(export_id)
        return kept

    @requires(Permission.WORK)
    async def stumble(self, permit: Permit, export_id: UUID, worker: UUID, error: str) -> Export | None:
        """Note that a step failed: it is tried again after a pause, or has failed. None where the claim was lost."""
        permit.service()
        export = await self.uow.exports.claimed(export_id, worker)
        if export is None:
            return None
        change = export.stumble(error, at=self.recorder.now)
        after = change.result
        action = "fail" if after.status is ExportStatus.FAILED else "requeue"
        kept = await self.recorder.keep(self.uow.exports, change, NOUN, action, reason=after.error)
        self.uow.exports.release(export_id, after.pause)
        return kept

    @requires(Permission.WORK)
    async def leave(self, permit: Permit, export_id: UUID, worker: UUID) -> None:
        """Give a claim back, for another worker to go on at once."""
        permit.service()
        if await self.uow.exports.claimed(export_id, worker) is not None:
            self.uow.exports.release(export_id)

    @requires(Permission.WORK)
    async def expire(self, permit: Permit) -> int:
        """succeeded → expired, of those that have been kept long enough; how many."""
        permit.service()
        now = self.recorder.now
        outdated = await self.uow.exports.outdated(now, most=TIDIED_AT_ONCE)
        for export in outdated:
            await self.recorder.keep(self.uow.exports, export.expire(at=now), NOUN, "expire")
        return len(outdated)

    @requires(Permission.WORK)
    async def untidy(self, permit: Permit) -> Sequence[ExportFile]:
        """Exports that are over, of which there may be more than the parts that are to be kept."""
        permit.service()
        found = await self.uow.exports.untidy(self.recorder.now - SETTLES_AFTER, most=TIDIED_AT_ONCE)
        kept: list[ExportFile] = []
        for export in found:
            has_file = export.status is ExportStatus.SUCCEEDED
            kept.append(ExportFile(export=export, parts=await self.uow.exports.parts(export.id) if has_file else ()))
        return kept

    @requires(Permission.WORK)
    async def tidied(self, permit: Permit, export: Export) -> None:
        """Note that there is nothing but those parts."""
        permit.service()
        self.uow.exports.tidied(export)

    async def _downloadable(self, permit: Permit, export_id: UUID) -> Export:
        export = await permit.holds(await self.uow.exports.get(export_id), NOUN)
        await self._check_layer(permit, export.project_id, export.layer)
        export.check_downloadable(self.recorder.clock.now())
        return export

    async def _check_layer(self, permit: Permit, project_id: UUID, layer: Layer) -> None:
        """Refuse raw values to whom the project's policy does not let read them."""
        if layer is not Layer.RAW:
            return
        project = await self.uow.projects.get(project_id)
        if project is None or not project.may_read_raw((await permit.grants()).role_in(project_id)):
            raise Forbidden("This project's policy does not let you read raw values.", "raw_not_allowed")

    async def _check_named(self, project_id: UUID, scope: ExportScope) -> None:
        """Refuse runs and sessions that are named and not of this project: a typing error would make an empty file."""
        if scope.run_ids:
            runs = await self.uow.runs.several(scope.run_ids)
            if any(run_id not in runs or runs[run_id].project_id != project_id for run_id in scope.run_ids):
                raise NotFound("run in this project")
        for session_id in scope.capture_session_ids:
            session = await self.uow.captures.get(session_id)
            if session is None or session.project_id != project_id:
                raise NotFound("capture session in this project")
