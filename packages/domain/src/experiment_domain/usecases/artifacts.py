"""What can be done with artifacts."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from experiment_domain.artifacts import Artifact, ArtifactStatus, checked_checksum, checked_size
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.usecases.permits import Permit, UseCases, requires

NOUN = "artifact"
ACTIONS = {
    ArtifactStatus.PENDING: "resubmit",
    ArtifactStatus.APPROVED: "approve",
    ArtifactStatus.REJECTED: "reject",
    ArtifactStatus.REVOKED: "revoke",
}


class ArtifactUseCases(UseCases):
    """Artifacts. One is registered with its run held, so that the run is not archived meanwhile."""

    @requires(Permission.EDIT)
    async def register(self, permit: Permit, run_id: UUID, **values: Any) -> Artifact:
        """A new artifact of a run, pending."""
        run = await permit.holds(await self.uow.runs.get(run_id, Lock.SHARE), "run")
        change = Artifact.register(
            artifact_id=self.recorder.ids.new(),
            run=run,
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            **values,
        )
        return await self.recorder.keep(self.uow.artifacts, change, NOUN, "create")

    @requires(Permission.READ)
    async def get(self, permit: Permit, artifact_id: UUID) -> Artifact:
        """One artifact."""
        return await permit.holds(await self.uow.artifacts.get(artifact_id), NOUN)

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        run_id: UUID,
        *,
        approved: bool | None = None,
        statuses: Collection[ArtifactStatus] = (),
        kinds: Collection[str] = (),
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[Artifact]:
        """The artifacts of a run, newest first: only the `approved` ones, or only the others, where that is said."""
        await permit.holds(await self.uow.runs.get(run_id), "run")
        if approved is not None:
            statuses = [
                status for status in statuses or ArtifactStatus if (status is ArtifactStatus.APPROVED) is approved
            ]
            if not statuses:
                return Page(())
        return await self.uow.artifacts.page(run_id, statuses=statuses, kinds=kinds, limit=limit, after=after)

    @requires(Permission.ADMINISTER)
    async def approve(
        self, permit: Permit, artifact_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Artifact:
        """pending → approved."""
        return await self._move(permit, artifact_id, ArtifactStatus.APPROVED, reason, if_version)

    @requires(Permission.ADMINISTER)
    async def reject(
        self, permit: Permit, artifact_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Artifact:
        """pending → rejected."""
        return await self._move(permit, artifact_id, ArtifactStatus.REJECTED, reason, if_version)

    @requires(Permission.ADMINISTER)
    async def revoke(
        self, permit: Permit, artifact_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Artifact:
        """approved → revoked, for good."""
        return await self._move(permit, artifact_id, ArtifactStatus.REVOKED, reason, if_version)

    @requires(Permission.EDIT)
    async def resubmit(
        self, permit: Permit, artifact_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Artifact:
        """rejected → pending."""
        return await self._move(permit, artifact_id, ArtifactStatus.PENDING, reason, if_version)

    @requires(Permission.REPORT)
    async def report(
        self,
        permit: Permit,
        artifact_id: UUID,
        status: ArtifactStatus,
        *,
        reason: str | None = None,
        checksum: str | None = None,
        size: int | None = None,
    ) -> Artifact:
        """The status that the Artifact Service has given. What it approves must be what was registered."""
        if checksum is not None:
            checked_checksum("checksum", checksum)
        if size is not None:
            checked_size("size", size)
        artifact = await self._locked(permit, artifact_id, None)
        if status is ArtifactStatus.APPROVED:
            artifact.check_is(checksum=checksum, size=size)
        return await self._moved(artifact, status, reason)

    @requires(Permission.READ)
    async def history(self, permit: Permit, artifact_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.artifacts.get(artifact_id), NOUN)
        return await self.uow.history.of(NOUN, artifact_id)

    async def _move(
        self,
        permit: Permit,
        artifact_id: UUID,
        target: ArtifactStatus,
        reason: str | None,
        if_version: int | None,
    ) -> Artifact:
        return await self._moved(await self._locked(permit, artifact_id, if_version), target, reason)

    async def _locked(self, permit: Permit, artifact_id: UUID, if_version: int | None) -> Artifact:
        return await permit.holds(await self.uow.artifacts.get(artifact_id, Lock.UPDATE), NOUN, if_version)

    async def _moved(self, artifact: Artifact, target: ArtifactStatus, reason: str | None) -> Artifact:
        change = artifact.move(target, at=self.recorder.now, reason=reason)
        return await self.recorder.keep(self.uow.artifacts, change, NOUN, ACTIONS[target], reason=reason)
