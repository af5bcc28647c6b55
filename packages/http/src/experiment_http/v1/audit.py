"""The audit log: who did what, and whether anybody has tampered with it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from msgspec import Meta, Struct

from experiment_domain.audit import (
    ANCHOR_LENGTH,
    AuditFilter,
    AuditRecord,
    AuditTarget,
    BrokenLink,
    Flaw,
    Verification,
    anchored_heads,
)
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.usecases import Work
from experiment_domain.usecases.audit import AuditUseCases
from experiment_http.answers import Answer, One, Paged, View
from experiment_http.callers import name_of
from experiment_http.operations import Call, Operations
from experiment_http.pagination import PageQuery
from experiment_http.times import Moment, Timestamp
from experiment_http.v1.values import Json

Named = Annotated[str, Meta(min_length=1, max_length=300)]


class AuditRecordView(View, frozen=True):
    """Who did what to what, in which role, from where, and what it was before and after. Of an edit: what differs."""

    example: ClassVar[Mapping[str, Any]] = {
        "id": "0195798b-4c3d-7e2f-9a1b-0c9d8e7f6a5b",
        "project_id": "01957989-14c8-7bb2-8f0d-6a0c1d7e4f52",
        "at": "2026-03-09T10:14:33.000000Z",
        "actor": "ada",
        "role": "editor",
        "request_id": "0195798b-4c3c-7aaa-8bbb-1c2d3e4f5a6b",
        "address": "192.0.2.7",
        "action": "start",
        "target_type": "run",
        "target_id": "0195798a-8d28-7a55-9c3e-3f1a4a6c9d21",
        "before": {"status": "draft", "started_at": None},
        "after": {"status": "running", "started_at": "2026-03-09T10:14:33.000000Z"},
    }

    id: UUID
    project_id: UUID
    at: Timestamp
    actor: str
    role: str
    request_id: str | None
    address: str | None
    action: str
    target_type: str
    target_id: str
    before: Json | None
    after: Json | None


class AuditQuery(PageQuery, frozen=True):
    """Which records: every parameter narrows; several values of one are alternatives."""

    project_id: tuple[UUID, ...] = ()
    actor: tuple[Named, ...] = ()
    action: tuple[Named, ...] = ()
    target: tuple[
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=300,
                description="A kind of thing (`run`), one of a kind (`run/<id>`), or an id of whatever kind.",
            ),
        ],
        ...,
    ] = ()
    after: Annotated[Moment, Meta(description="Then or later.")] | None = None
    before: Annotated[Moment, Meta(description="Earlier than then.")] | None = None

    def filter(self) -> AuditFilter:
        """The same in the words of the domain."""
        return AuditFilter(
            project_ids=self.project_id,
            actors=self.actor,
            actions=self.action,
            targets=list(map(AuditTarget.parsed, self.target)),
            after=self.after,
            before=self.before,
        )


class BrokenLinkView(View, frozen=True):
    """A link that does not hold.

    `sequence` is its place in its strand of the chain; `record_id` the record there, or the one after a gap.
    """

    flaw: Flaw
    strand: int
    sequence: int
    record_id: UUID | None
    detail: str


class VerificationView(View, frozen=True):
    """What walking a project's chain found.

    `broken` names up to 100 broken links, the first written first. `anchor` says where the chain ends now: kept outside
    the database and handed in again, it proves that nothing before it was taken away or written anew.
    """

    project_id: UUID
    ok: bool
    records: int
    broken: list[BrokenLinkView]
    anchor: str

    @classmethod
    def of(cls, thing: Verification) -> Self:
        """The view of a verification."""
        broken = list(map(BrokenLinkView.of, thing.broken))
        return cls(thing.project_id, thing.is_intact, thing.records, broken, thing.anchor)


class VerificationsView(View, frozen=True):
    """Whether every chain is intact, and what was found in each; `first_broken` is the first broken link of all."""

    example: ClassVar[Mapping[str, Any]] = {
        "ok": False,
        "records": 1042,
        "first_broken": {
            "flaw": "changed",
            "strand": 1,
            "sequence": 17,
            "record_id": "0195798b-4c3d-7e2f-9a1b-0c9d8e7f6a5b",
            "detail": "this record, or the hash of the one before it, is not what was written",
        },
        "items": [
            {
                "project_id": "01957989-14c8-7bb2-8f0d-6a0c1d7e4f52",
                "ok": False,
                "records": 1042,
                "broken": [
                    {
                        "flaw": "changed",
                        "strand": 1,
                        "sequence": 17,
                        "record_id": "0195798b-4c3d-7e2f-9a1b-0c9d8e7f6a5b",
                        "detail": "this record, or the hash of the one before it, is not what was written",
                    }
                ],
                "anchor": "1:1042:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            }
        ],
    }

    ok: bool
    records: int
    first_broken: BrokenLinkView | None
    items: list[VerificationView]

    @classmethod
    def of(cls, thing: Sequence[Verification]) -> Self:
        """The view of several verifications."""
        links: list[BrokenLink] = [link for verification in thing for link in verification.broken]
        return cls(
            ok=not links,
            records=sum(verification.records for verification in thing),
            first_broken=BrokenLinkView.of(links[0]) if links else None,
            items=list(map(VerificationView.of, thing)),
        )


class VerificationQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which chains: those of the projects that are named, or of all that the caller owns."""

    project_id: tuple[UUID, ...] = ()
    anchor: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=ANCHOR_LENGTH,
                description="An `anchor` that an earlier verification of the one project has answered.",
            ),
        ]
        | None
    ) = None


VERIFIED = One(view=VerificationsView)
operations = Operations("audit", "The audit log, for the owners of projects.")


@operations.get("/audit", AuditUseCases.page, Paged(view=AuditRecordView), refuses=(403, 404))
async def list_audit_records(work: Work, query: AuditQuery, after: Position | None = None) -> Page[AuditRecord]:
    """List the commands given in the projects that the caller owns, newest first.

    A project that is named must be the caller's own.
    """
    return await work.audit.page(query.filter(), limit=query.limit, after=after)


@operations.get("/audit/verify", AuditUseCases.verify, VERIFIED, refuses=(403, 404))
async def verify_audit_log(call: Call, query: VerificationQuery) -> Answer:
    """Walk the hash chain of each project's audit log, and name the links that do not hold.

    A long chain takes seconds. Who asks for several at once gets one after the other.
    """
    anchored = anchored_heads(query.anchor or "")
    turn = call.api.verifying.turn(name_of(call.caller.principal))
    async with turn, call.api.services.read(call.caller) as work:
        return VERIFIED.answer(await work.audit.verify(query.project_id, anchored=anchored), call.cursor)
