"""Entities, what a command changes in them, and the immutable history of their statuses."""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import attrs
from attrs import evolve, frozen

from experiment_domain.kernel.errors import Conflict, VersionMismatch
from experiment_domain.kernel.events import Event
from experiment_domain.kernel.values import same, told


class Lock(StrEnum):
    """How firmly a repository holds what it hands out, until the unit of work ends."""

    NONE = "none"
    SHARE = "share"  # others may read and share it, nobody may change it
    UPDATE = "update"  # nobody else may hold it


@frozen(kw_only=True)
class Entity:
    """What every noun has: identity, the project it belongs to, and a version that grows with each change."""

    id: UUID
    project_id: UUID
    version: int = 1
    created_at: datetime
    updated_at: datetime
    created_by: str

    def expect(self, version: int | None) -> None:
        """Refuse with `VersionMismatch` unless this is the version the caller has read (None: any)."""
        if version is not None and version != self.version:
            raise VersionMismatch(re.sub("(?<!^)(?=[A-Z])", " ", type(self).__name__).lower(), self.version)


E = TypeVar("E", bound=Entity)
E_contra = TypeVar("E_contra", bound=Entity, contravariant=True)
T = TypeVar("T")


@frozen(kw_only=True)
class Change(Generic[E]):
    """What a command made of an entity, and the events that became true by it.

    `before` is None for a new entity, `after` None for a removed one. A command that found nothing to do
    hands back the entity itself on both sides, and nothing is recorded.
    """

    before: E | None
    after: E | None
    events: tuple[Event, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return self.before is self.after

    @property
    def result(self) -> E:
        """The entity after the change, or as it was last."""
        entity = self.after or self.before
        assert entity is not None  # noqa: S101 - one side of a change is always there
        return entity


def unchanged(entity: E) -> Change[E]:
    """The change of a command that found nothing to do."""
    return Change(before=entity, after=entity)


def created(entity: E, *events: Event) -> Change[E]:
    """The change that brings an entity into being."""
    return Change(before=None, after=entity, events=events)


def removed(entity: E, *events: Event) -> Change[E]:
    """The change that removes an entity."""
    return Change(before=entity, after=None, events=events)


def changed(entity: E, at: datetime, values: Mapping[str, Any], *events: Event) -> Change[E]:
    """The change that gives `entity` new values; empty where they are the values it has."""
    if all(same(getattr(entity, name), value) for name, value in values.items()):
        return unchanged(entity)
    after = evolve(entity, **values, version=entity.version + 1, updated_at=at)
    return Change(before=entity, after=after, events=events)


def refuse_archived(noun: str, status: str) -> None:
    """Refuse any change of an archived thing."""
    if status == "archived":
        raise Conflict("archived", f"This {noun} is archived, and archived things are read-only.")


class Repository(Protocol[E]):
    """Keeps the entities of one noun."""

    @abstractmethod
    async def get(self, entity_id: UUID, /, lock: Lock = Lock.NONE) -> E | None:
        """The entity, or None."""

    @abstractmethod
    def add(self, entity: E, /) -> None:
        """Keep a new entity."""

    @abstractmethod
    def save(self, entity: E, /) -> None:
        """Keep a changed entity, whose version is one above the kept one."""

    @abstractmethod
    def save_all(self, changes: Sequence[Change[E]], /) -> None:
        """Keep many changed entities, each as `save` does."""


class Removing(Protocol[E_contra]):
    """A repository whose entities can be removed."""

    @abstractmethod
    def remove(self, entity: E_contra, /) -> None:
        """Remove an entity that nothing refers to."""


@frozen(kw_only=True)
class StatusChange:
    """One row of status history: one transition, by whom and why. Never changed, never removed."""

    entity_type: str
    entity_id: UUID
    project_id: UUID
    source: str
    target: str
    at: datetime
    actor: str
    role: str
    reason: str | None = None


class StatusHistory(Protocol):
    """Where transitions are written, once."""

    @abstractmethod
    def record(self, *changes: StatusChange) -> None:
        """Write transitions with the unit of work, in this order."""

    @abstractmethod
    async def of(self, entity_type: str, entity_id: UUID) -> Sequence[StatusChange]:
        """The transitions of one entity, oldest first."""


Position = tuple[Any, UUID]
"""Where a page ended: the value it was sorted by, and the id that breaks ties."""


@frozen
class Page(Generic[T]):
    """A part of a list. `next` is where the following part begins, None at the end."""

    items: Sequence[T]
    next: Position | None = None

    @classmethod
    def of(cls, found: Sequence[T], limit: int, position: Any) -> "Page[T]":
        """The page of at most `limit` of `found`, which was asked for one more to know whether there are more."""
        if len(found) <= limit:
            return cls(found)
        return cls(found[:limit], position(found[limit - 1]))


def facts(entity: Entity) -> dict[str, Any]:
    """An entity as JSON values, for the audit log.

    Fields marked `secret` are left out, and so are derived ones; a field's `facts` say how it is told.
    """

    def visible(attribute: "attrs.Attribute[Any]", _value: Any) -> bool:
        return attribute.init and not attribute.metadata.get("secret", False)

    def plain(_owner: Any, attribute: Any, value: Any) -> Any:
        if attribute is not None and "facts" in attribute.metadata:
            return attribute.metadata["facts"](value)
        return told(value)

    return attrs.asdict(entity, filter=visible, value_serializer=plain)


def differences(change: Change[Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Before and after of a change as the audit log keeps them: of an edit, only the fields that differ."""
    before = None if change.before is None else facts(change.before)
    after = None if change.after is None else facts(change.after)
    if before is None or after is None:
        return before, after
    names = [name for name in after if not same(before[name], after[name])]
    return {name: before[name] for name in names}, {name: after[name] for name in names}
