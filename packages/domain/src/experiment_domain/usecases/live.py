"""What can be followed live: the readings of a session as they come in."""

from uuid import UUID

from attrs import frozen

from experiment_domain.captures import CaptureStatus, recording_is_over
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.errors import Forbidden
from experiment_domain.telemetry.live import LivePart
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.permits import Permit, UseCases, requires

CHUNKS = 200
READINGS = 50_000
"""How much is read at once; one chunk alone may have more readings."""


@frozen(kw_only=True)
class Watched:
    """What the caller may see of a session that is being followed."""

    status: CaptureStatus
    may_read_raw: bool

    @property
    def is_over(self) -> bool:
        """Whether nothing comes in any more but what is late."""
        return recording_is_over(self.status)


class LiveUseCases(UseCases):
    """Readings as they come in. Who follows them is checked by `watch`; what is new is read once for all of them."""

    @requires(Permission.READ)
    async def watch(self, permit: Permit, session_id: UUID, *, layer: Layer | None) -> Watched:
        """Refuse unless the caller may follow a layer of a session just now."""
        session = await permit.holds(await self.uow.captures.get(session_id), "capture session")
        project = await self.uow.projects.get(session.project_id)
        role = (await permit.grants()).role_in(session.project_id)
        may_read_raw = project is not None and project.may_read_raw(role)
        if layer is Layer.RAW and not may_read_raw:
            raise Forbidden("This project's policy does not let you read raw values.", "raw_not_allowed")
        return Watched(status=session.status, may_read_raw=may_read_raw)

    @requires(Permission.WORK)
    async def latest(self, permit: Permit, session_id: UUID) -> str:
        """The place behind everything that a session has received by now."""
        permit.service()
        return await self.uow.live.latest(session_id)

    @requires(Permission.WORK)
    async def since(
        self, permit: Permit, session_id: UUID, place: str, *, layer: Layer | None, until: str | None = None
    ) -> tuple[LivePart, CaptureStatus | None]:
        """What a session has received behind a place, and what its status was before that was read; None: gone."""
        permit.service()
        session = await self.uow.captures.get(session_id)
        part = await self.uow.live.since(session_id, place, layer=layer, chunks=CHUNKS, readings=READINGS, until=until)
        return part, None if session is None else session.status
