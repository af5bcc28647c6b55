"""What every command does with a change: keep it, and record history, audit and events with it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast
from uuid import UUID

from experiment_domain.audit import KINDS, AuditRecord
from experiment_domain.events import EVENT_TYPES
from experiment_domain.kernel.access import Caller, Grants, Role, System
from experiment_domain.kernel.clock import Clock
from experiment_domain.kernel.entity import Change, Entity, Removing, Repository, StatusChange, differences
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.kernel.ids import Ids
from experiment_domain.runs import Run
from experiment_domain.unit_of_work import UnitOfWork

E = TypeVar("E", bound=Entity)


class Recorder:
    """Keeps changes in one unit of work on behalf of one caller."""

    def __init__(self, uow: UnitOfWork, caller: Caller, clock: Clock, ids: Ids) -> None:
        self.uow = uow
        self.caller = caller
        self.ids = ids
        self.clock = clock
        self._alive: set[UUID] = set()
        self._grants: Grants | None = None
        self._now: datetime | None = None

    @property
    def now(self) -> datetime:
        """The moment of this unit of work: everything in it happens at once.

        It is the moment at which it is first asked for. Ask with everything locked that is to change: else somebody
        who was waited for comes before in the history and after by the clock.
        """
        if self._now is None:
            self._now = self.clock.now()
        return self._now

    async def grants(self) -> Grants:
        """The caller's roles."""
        if self._grants is None:
            self._grants = await self.uow.grants(self.clock.now())
        return self._grants

    async def grant(self, project_id: UUID, role: Role) -> None:
        """Let the rest of this unit of work know of a role that it gave to its own caller."""
        self._grants = (await self.grants()).with_role(project_id, role)

    def sign_of_life(self, run_id: UUID) -> None:
        """Note that a run is alive. It is kept at the very end, when nothing is waited for any more."""
        self._alive.add(run_id)

    def finish(self) -> None:
        """Keep what was noted on the way; the commit follows."""
        if self._alive:
            self.uow.vigils.renew(self._alive)

    async def keep(
        self,
        repository: Repository[E],
        change: Change[E],
        noun: str,
        action: str,
        *,
        reason: str | None = None,
    ) -> E:
        """Keep a change with its history, audit record and events; nothing where it is empty."""
        entity = change.result
        if change.is_empty:
            return entity
        if change.before is None:
            repository.add(entity)
        elif change.after is None:
            cast("Removing[E]", repository).remove(entity)
        else:
            repository.save(entity)
        await self._record([change], noun, action, reason)
        return entity

    async def keep_all(
        self,
        repository: Repository[E],
        changes: Iterable[Change[E]],
        noun: str,
        action: str,
        *,
        reason: str | None = None,
    ) -> None:
        """Keep many changes of entities that were there before, each as `keep` does, in as few statements as one."""
        edits = [change for change in changes if not change.is_empty]
        if edits:
            repository.save_all(edits)
            await self._record(edits, noun, action, reason)

    async def note_all(
        self,
        repository: Repository[E],
        changes: Iterable[Change[E]],
        noun: str,
        *,
        reason: str | None = None,
        reasons: Mapping[UUID, str | None] | None = None,
    ) -> None:
        """Keep what became of many entities by no command of their own: history and events, and no audit records.

        `reasons` holds a reason for each of them, by its id, where they differ.
        """
        edits = [change for change in changes if not change.is_empty]
        if not edits:
            return
        repository.save_all(edits)
        grants = await self.grants()
        moves = [
            self._transition(grants, change, noun, reason if reasons is None else reasons[change.result.id])
            for change in edits
            if _is_transition(change)
        ]
        if moves:
            self.uow.history.record(*moves)
        await self.emit(*(event for change in edits for event in change.events))

    async def emit(self, *events: Event, actor: str | None = None) -> None:
        """Record events, by the caller: `actor` saves asking for the roles of one whose name is known already."""
        if events:
            for event in events:
                if event.type not in EVENT_TYPES or not EVENT_TYPES[event.type].is_recorded:
                    raise RuntimeError(f"{event.type} is not among the types of events")
            actor = actor or (await self.grants()).actor
            self.uow.events.record(*(RecordedEvent(id=self.ids.new(), event=event, actor=actor) for event in events))

    async def bound(self, run: Run, sensor_id: UUID) -> None:
        """Record that a sensor was bound to a run, which is alive."""
        self.sign_of_life(run.id)
        await self.emit(run.binding(sensor_id, at=self.now))
        await self.audit("run", str(run.id), run.project_id, "bind", after={"sensor_id": str(sensor_id)})

    async def unbound(self, run: Run, sensor_id: UUID) -> None:
        """Record that a sensor was unbound from a run, which is alive."""
        self.sign_of_life(run.id)
        await self.emit(run.unbinding(sensor_id, at=self.now))
        await self.audit("run", str(run.id), run.project_id, "unbind", before={"sensor_id": str(sensor_id)})

    async def audit(
        self,
        noun: str,
        target_id: str,
        project_id: UUID,
        action: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one command into the audit log."""
        grants = await self.grants()
        self.uow.audit.record(self._audit_record(grants, noun, target_id, project_id, action, before, after))

    async def _record(self, changes: Sequence[Change[Any]], noun: str, action: str, reason: str | None) -> None:
        grants = await self.grants()
        moves = [self._transition(grants, change, noun, reason) for change in changes if _is_transition(change)]
        if moves:
            self.uow.history.record(*moves)
        self.uow.audit.record(
            *(
                self._audit_record(
                    grants, noun, str(change.result.id), change.result.project_id, action, *differences(change)
                )
                for change in changes
            )
        )
        if not isinstance(self.caller.principal, System):
            self._alive.update(run_id for change in changes if (run_id := _run_of(noun, change)) is not None)
        await self.emit(*(event for change in changes for event in change.events))

    def _audit_record(
        self,
        grants: Grants,
        noun: str,
        target_id: str,
        project_id: UUID,
        action: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
    ) -> AuditRecord:
        if noun not in KINDS:
            raise RuntimeError(f"{noun} is not among the kinds that can be looked for in the audit log")
        return AuditRecord(
            id=self.ids.new(),
            project_id=project_id,
            at=self.now,
            actor=grants.actor,
            role=str(grants.role_in(project_id) or ""),
            request_id=self.caller.request_id,
            address=self.caller.address,
            action=action,
            target_type=noun,
            target_id=target_id,
            before=before,
            after=after,
        )

    def _transition(self, grants: Grants, change: Change[Any], noun: str, reason: str | None) -> StatusChange:
        entity = change.result
        return StatusChange(
            entity_type=noun,
            entity_id=entity.id,
            project_id=entity.project_id,
            source=getattr(change.before, "status"),  # noqa: B009 - not every entity has one; those that move do
            target=entity.status,
            at=self.now,
            actor=grants.actor,
            role=str(grants.role_in(entity.project_id) or ""),
            reason=reason,
        )


def _is_transition(change: Change[Any]) -> bool:
    source = getattr(change.before, "status", None)
    target = getattr(change.after, "status", None)
    return source is not None and target is not None and source != target


def _run_of(noun: str, change: Change[Any]) -> UUID | None:
    """The run that is changed, or that what is changed belongs to."""
    return change.result.id if noun == "run" else getattr(change.result, "run_id", None)
