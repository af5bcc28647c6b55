"""What has happened, in its order."""

from collections.abc import Collection
from uuid import UUID

from experiment_domain.events import check_event_types
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.events import EventPart
from experiment_domain.usecases.permits import Permit, UseCases, requires

AT_ONCE = 500
"""How many events are read at once for those who follow them."""


class EventUseCases(UseCases):
    """Events, for who may read the projects that they happened in. None of them holds readings."""

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        project_ids: Collection[UUID] = (),
        *,
        types: Collection[str] = (),
        limit: int = 50,
        after: str | None = None,
    ) -> EventPart:
        """Events behind a place, or from the beginning, of the caller's projects, or of those that are named."""
        check_event_types("types", types)
        readable = await self._readable(permit, project_ids)
        return await self.uow.events.since(after, limit=limit, project_ids=readable, types=types)

    @requires(Permission.READ)
    async def watch(
        self, permit: Permit, project_ids: Collection[UUID] = (), *, types: Collection[str] = ()
    ) -> frozenset[UUID]:
        """The projects whose events, of these types, the caller may follow now, of those that are named, or of all."""
        check_event_types("types", types)
        return await self._readable(permit, project_ids)

    @requires(Permission.WORK)
    async def latest(self, permit: Permit) -> str:
        """The place behind everything that has happened by now."""
        permit.service()
        return await self.uow.events.latest()

    @requires(Permission.WORK)
    async def since(self, permit: Permit, place: str, *, until: str | None = None) -> EventPart:
        """The events of all projects behind a place."""
        permit.service()
        return await self.uow.events.since(place, limit=AT_ONCE, until=until)

    async def _readable(self, permit: Permit, project_ids: Collection[UUID]) -> frozenset[UUID]:
        readable = await permit.projects()
        for project_id in project_ids:
            await permit.require(project_id, "project")
        return frozenset(project_ids) or readable
