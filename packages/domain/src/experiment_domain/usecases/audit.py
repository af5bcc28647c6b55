"""What can be asked of the audit log."""

from collections.abc import Collection, Sequence
from uuid import UUID

from attrs import evolve

from experiment_domain.audit import AuditFilter, AuditRecord, ChainHead, Verification
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.kernel.errors import Invalid
from experiment_domain.usecases.permits import Permit, UseCases, requires


class AuditUseCases(UseCases):
    """The audit log, for owners."""

    @requires(Permission.OWN)
    async def page(
        self, permit: Permit, which: AuditFilter, *, limit: int = 50, after: Position | None = None
    ) -> Page[AuditRecord]:
        """Commands in the projects that the caller owns, newest first; in those that `which` names, if it names any."""
        wanted = await self._owned(permit, which.project_ids)
        if not wanted:
            return Page(())
        return await self.uow.audit.page(evolve(which, project_ids=wanted), limit=limit, after=after)

    @requires(Permission.OWN)
    async def verify(
        self, permit: Permit, project_ids: Collection[UUID] = (), *, anchored: Sequence[ChainHead] = ()
    ) -> Sequence[Verification]:
        """Walk the chains of the projects that the caller owns, or of those named; an anchor is of one project."""
        if anchored and len(project_ids) != 1:
            raise Invalid.at("anchor", "must stand beside the one project_id that it is of")
        wanted = await self._owned(permit, project_ids)
        return [await self.uow.audit.verify(project_id, anchored) for project_id in sorted(wanted)]

    async def _owned(self, permit: Permit, project_ids: Collection[UUID]) -> Collection[UUID]:
        """The projects that are meant. One that is named must be the caller's own."""
        owned = await permit.projects()
        for project_id in project_ids:
            await permit.require(project_id, "project")
        return frozenset(project_ids) or owned
