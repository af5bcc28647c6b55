"""The audit log: every command of a person, a sensor or the system itself. Append-only, a hash chain per project."""

import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, Self
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.entity import Page, Position
from experiment_domain.kernel.errors import Invalid


@frozen(kw_only=True)
class AuditRecord:
    """Who did what to what, in which role, from where, and what it was before and after."""

    id: UUID
    project_id: UUID
    at: datetime
    actor: str
    role: str
    request_id: str | None
    address: str | None
    action: str
    target_type: str
    target_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@frozen
class AuditTarget:
    """What commands were about: a kind of thing, one thing, or, where the kind leaves it open, one thing of a kind."""

    type: str | None
    id: str | None

    @classmethod
    def parsed(cls, text: str) -> Self:
        """`run` is a kind, `run/<id>` one of it, and anything else an id, of whatever kind."""
        kind, slash, thing = text.partition("/")
        if _KIND.fullmatch(kind) and (slash or kind in KINDS):
            return cls(kind, thing or None)
        return cls(None, text)


KINDS = frozenset(
    {
        "project",
        "member",
        "experiment",
        "run",
        "capture_session",
        "sensor",
        "conversion_profile",
        "backfill",
        "export",
        "artifact",
        "webhook_subscription",
        "webhook_delivery",
    }
)
"""What commands are about: nothing else is recorded."""
_KIND = re.compile("[a-z_]+")


@frozen(kw_only=True)
class AuditFilter:
    """Which records: every field narrows; several values of one field are alternatives. `after` is inclusive."""

    project_ids: Collection[UUID]
    actors: Collection[str] = ()
    actions: Collection[str] = ()
    targets: Collection[AuditTarget] = ()
    after: datetime | None = None
    before: datetime | None = None


@frozen(kw_only=True)
class ChainHead:
    """Where a strand of a project's chain ends: how many records it has, and the hash of the last of them."""

    strand: int
    length: int
    hash: bytes


class Flaw(StrEnum):
    """What can be wrong with a link."""

    CHANGED = "changed"  # its hash is not that of what it says and of the link before
    MISSING = "missing"  # records are gone from between two others, or from the end
    UNKNOWN = "unknown"  # records of a strand that was never begun, or beyond its end


@frozen(kw_only=True)
class BrokenLink:
    """A link that does not hold: the place in its strand, and the record there, or after the gap, if there is one."""

    flaw: Flaw
    strand: int
    sequence: int
    record_id: UUID | None
    detail: str


@frozen(kw_only=True)
class Verification:
    """What walking a project's chain found. `broken` is in the order in which records were written."""

    project_id: UUID
    records: int
    broken: Sequence[BrokenLink]
    heads: Sequence[ChainHead]

    @property
    def is_intact(self) -> bool:
        """Whether every link holds."""
        return not self.broken

    @property
    def anchor(self) -> str:
        """The heads as text, to be kept outside the database and handed to a later verification."""
        return ",".join(f"{head.strand}:{head.length}:{head.hash.hex()}" for head in self.heads)


BROKEN_LINKS = 100
"""How many broken links a verification names at most."""
ANCHOR_LENGTH = 20_000


def anchored_heads(anchor: str) -> Sequence[ChainHead]:
    """The heads that an anchor holds. Raises `Invalid`."""
    heads: list[ChainHead] = []
    for part in filter(None, anchor.split(",")):
        found = _HEAD.fullmatch(part)
        if found is None or len(anchor) > ANCHOR_LENGTH:
            raise Invalid.at("anchor", "must be one that a verification has answered")
        heads.append(ChainHead(strand=int(found[1]), length=int(found[2]), hash=bytes.fromhex(found[3])))
    return heads


_HEAD = re.compile("([0-9]{1,18}):([0-9]{1,18}):([0-9a-f]{64})")


class AuditLog(Protocol):
    """Where commands are written, once, each linked to the one before it."""

    @abstractmethod
    def record(self, *records: AuditRecord) -> None:
        """Write commands with the unit of work."""

    @abstractmethod
    async def page(self, which: AuditFilter, *, limit: int, after: Position | None) -> Page[AuditRecord]:
        """A part of the log, newest first."""

    @abstractmethod
    async def verify(self, project_id: UUID, anchored: Sequence[ChainHead] = ()) -> Verification:
        """Walk the chain of a project; `anchored` heads of an earlier walk must still be part of it."""
