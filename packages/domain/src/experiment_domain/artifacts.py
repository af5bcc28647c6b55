"""Artifacts: links of a run to files and models held elsewhere, each with an approval status."""

import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.events import (
    ArtifactApproved,
    ArtifactMoved,
    ArtifactRegistered,
    ArtifactRejected,
    ArtifactResubmitted,
    ArtifactRevoked,
)
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Page,
    Position,
    Repository,
    changed,
    created,
    refuse_archived,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.kernel.values import checked_json, checked_name, checked_text
from experiment_domain.runs import Run

KIND_LENGTH = 100
URI_LENGTH = 2_000
CHECKSUM_LENGTH = 200
LARGEST = 2**63 - 1
"""The most bytes that a size can tell."""
ALGORITHMS = frozenset({"md5", "sha1", "sha256", "sha512"})
"""Algorithms of checksums whose values are hexadecimal, in capitals or not."""
EXECUTED = frozenset({"javascript", "data", "vbscript"})
"""Schemes whose links run in the browser of whoever opens them."""
_URI = re.compile("([A-Za-z][A-Za-z0-9+.-]*):.+", re.DOTALL)


class ArtifactStatus(StrEnum):
    """The statuses of an artifact."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    REVOKED = "revoked"


ARTIFACT = Lifecycle(
    "artifact",
    ArtifactStatus.PENDING,
    {
        ArtifactStatus.PENDING: (ArtifactStatus.APPROVED, ArtifactStatus.REJECTED),
        ArtifactStatus.APPROVED: (ArtifactStatus.REVOKED,),
        ArtifactStatus.REJECTED: (ArtifactStatus.PENDING,),
    },
)

_EVENTS: Mapping[ArtifactStatus, type[ArtifactMoved]] = {
    ArtifactStatus.PENDING: ArtifactResubmitted,
    ArtifactStatus.APPROVED: ArtifactApproved,
    ArtifactStatus.REJECTED: ArtifactRejected,
    ArtifactStatus.REVOKED: ArtifactRevoked,
}


def checked_uri(path: str, value: str) -> str:
    """An absolute URI: a scheme that nothing runs by, and no white space. Whether anything is there is not asked."""
    _checked_token(path, value, URI_LENGTH)
    found = _URI.fullmatch(value)
    if found is None:
        raise Invalid.at(path, "must be absolute: a scheme, a colon, and what it leads to")
    if found[1].lower() in EXECUTED:
        raise Invalid.at(path, f"must not have the scheme {found[1].lower()}, which runs code in a browser")
    return value


def checked_checksum(path: str, value: str) -> str:
    """A checksum: one token, best written `algorithm:value`."""
    _checked_token(path, value, CHECKSUM_LENGTH)
    algorithm, colon, digest = value.partition(":")
    if colon and algorithm.lower() in ALGORITHMS and not digest:
        raise Invalid.at(path, f"must have a value after {algorithm}:")
    return value


def checked_size(path: str, value: int) -> int:
    """A size in bytes."""
    if not 0 <= value <= LARGEST:
        raise Invalid.at(path, f"must be 0 to {LARGEST:,} bytes")
    return value


def same_checksum(one: str, other: str) -> bool:
    """Whether two checksums are the same: hexadecimal values of known algorithms are so in capitals, too."""
    return _comparable(one) == _comparable(other)


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    if "name" in fields:
        checked_name("name", fields["name"])
    if "uri" in fields:
        checked_uri("uri", fields["uri"])
    if fields.get("kind") is not None:
        checked_name("kind", fields["kind"], longest=KIND_LENGTH)
    if fields.get("checksum") is not None:
        checked_checksum("checksum", fields["checksum"])
    if fields.get("size") is not None:
        checked_size("size", fields["size"])
    if "metadata" in fields:
        fields["metadata"] = checked_json("metadata", fields["metadata"])
    return fields


@frozen(kw_only=True)
class Artifact(Entity):
    """A link to a file or model held elsewhere. What it says never changes; only its status does.

    `size` is in bytes. `checksum` and `size` are what the registrant claims; the service fetches nothing.
    """

    run_id: UUID
    name: str
    uri: str
    kind: str | None = None
    checksum: str | None = None
    size: int | None = None
    metadata: Mapping[str, Any] = field(factory=dict[str, Any])
    status: ArtifactStatus = ArtifactStatus.PENDING

    @classmethod
    def register(cls, *, artifact_id: UUID, run: Run, at: datetime, by: str, **values: Any) -> Change["Artifact"]:
        """A new artifact of `run`, pending. Archived runs refuse."""
        refuse_archived("run", run.status)
        artifact = cls(
            id=artifact_id,
            project_id=run.project_id,
            run_id=run.id,
            created_at=at,
            updated_at=at,
            created_by=by,
            **checked_fields(values),
        )
        return created(artifact, artifact.event(ArtifactRegistered(run_id=run.id, name=artifact.name), at))

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this artifact."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    def move(self, target: ArtifactStatus, *, at: datetime, reason: str | None = None) -> Change["Artifact"]:
        """→ approved, rejected, revoked, or pending again; whatever the run's status is."""
        if not ARTIFACT.moves(self.status, target):
            return unchanged(self)
        said = _EVENTS[target](run_id=self.run_id, name=self.name, from_=self.status, reason=reason)
        return changed(self, at, {"status": target}, self.event(said, at))

    def check_is(self, *, checksum: str | None, size: int | None) -> None:
        """Refuse where something else than what was registered is to be approved; what is not told may be anything."""
        if None not in (checksum, self.checksum) and not same_checksum(str(checksum), str(self.checksum)):
            raise Conflict("checksum_mismatch", "This artifact was registered with another checksum.")
        if None not in (size, self.size) and size != self.size:
            raise Conflict("size_mismatch", f"This artifact was registered with a size of {self.size:,} bytes.")


class ArtifactRepository(Repository[Artifact], Protocol):
    """Keeps artifacts."""

    @abstractmethod
    async def page(
        self,
        run_id: UUID,
        *,
        statuses: Collection[ArtifactStatus] = (),
        kinds: Collection[str] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Artifact]:
        """The artifacts of a run, newest first."""

    @abstractmethod
    async def approved_of(self, run_id: UUID, limit: int) -> Sequence[Artifact]:
        """The approved artifacts of a run, newest first, `limit` at most."""

    @abstractmethod
    async def any_in(self, run_id: UUID) -> bool:
        """Whether a run has artifacts."""


def _checked_token(path: str, value: str, longest: int) -> None:
    checked_text(path, value, longest=longest, shortest=1, lines=False)
    if any(character.isspace() for character in value):
        raise Invalid.at(path, "must not contain white space")


def _comparable(checksum: str) -> str:
    algorithm = checksum.partition(":")[0].lower()
    return checksum.lower() if algorithm in ALGORITHMS else checksum
