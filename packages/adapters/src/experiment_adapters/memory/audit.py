"""The audit log in memory: added to, and never anything else; a chain of one strand per project."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

from experiment_adapters.memory.paging import one_of, within
from experiment_adapters.memory.store import LinkedRecord, Store, Transaction
from experiment_domain.audit import (
    BROKEN_LINKS,
    AuditFilter,
    AuditLog,
    AuditRecord,
    BrokenLink,
    ChainHead,
    Flaw,
    Verification,
)
from experiment_domain.kernel.entity import Page, Position

STRAND = 1


class MemoryAuditLog(AuditLog):
    """The commands of all projects, in the order in which they were given."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    def record(self, *records: AuditRecord) -> None:
        for record in records:
            head = self._head(record.project_id)
            link = LinkedRecord(record=record, sequence=head.length + 1, hash=_hash(head.hash, record))
            self._transaction.append(self._store.audit, link)
            self._transaction.put(
                self._store.audit_heads,
                record.project_id,
                ChainHead(strand=STRAND, length=link.sequence, hash=link.hash),
            )

    async def page(self, which: AuditFilter, *, limit: int, after: Position | None) -> Page[AuditRecord]:
        self._transaction.settle()
        found = sorted(
            (link.record for link in self._store.audit if _matches(which, link.record)), key=_place, reverse=True
        )
        rows = [record for record in found if after is None or _place(record) < after]
        return Page.of(rows[: limit + 1], limit, _place)

    async def verify(self, project_id: UUID, anchored: Sequence[ChainHead] = ()) -> Verification:
        self._transaction.settle()
        links = [link for link in self._store.audit if link.record.project_id == project_id]
        head = self._head(project_id)
        broken: list[BrokenLink] = []
        last, last_hash = 0, _beginning(project_id)
        for link in sorted(links, key=lambda link: link.sequence):
            if link.sequence != last + 1:
                gone = f"{link.sequence - last - 1} record(s) are gone from before this one"
                broken.append(_link(Flaw.MISSING, last + 1, link.record.id, gone))
            elif link.hash != _hash(last_hash, link.record):
                other = "this record, or the hash of the one before it, is not what was written"
                broken.append(_link(Flaw.CHANGED, link.sequence, link.record.id, other))
            last, last_hash = link.sequence, link.hash
        if last < head.length:
            broken.append(_link(Flaw.MISSING, last + 1, None, f"the last {head.length - last} record(s) are gone"))
        elif last_hash != head.hash:
            broken.append(_link(Flaw.CHANGED, last, None, "the last record is not the one whose hash was noted"))
        by_place = {link.sequence: link for link in links}
        for known in anchored:
            link = by_place.get(known.length) if known.strand == STRAND else None
            if link is None:
                gone = "the record that was anchored is gone"
                broken.append(
                    BrokenLink(
                        flaw=Flaw.MISSING, strand=known.strand, sequence=known.length, record_id=None, detail=gone
                    )
                )
            elif link.hash != known.hash:
                other = "another record was anchored in this place"
                broken.append(_link(Flaw.CHANGED, known.length, link.record.id, other))
        return Verification(
            project_id=project_id,
            records=len(links),
            broken=broken[:BROKEN_LINKS],
            heads=[head] if head.length else [],
        )

    def _head(self, project_id: UUID) -> ChainHead:
        beginning = ChainHead(strand=STRAND, length=0, hash=_beginning(project_id))
        return self._store.audit_heads.get(project_id, beginning)


def _matches(which: AuditFilter, record: AuditRecord) -> bool:
    return (
        record.project_id in which.project_ids
        and one_of(record.actor, which.actors)
        and one_of(record.action, which.actions)
        and (
            not which.targets
            or any(
                target.type in (None, record.target_type) and target.id in (None, record.target_id)
                for target in which.targets
            )
        )
        and within(record.at, which.after, which.before)
    )


def _place(record: AuditRecord) -> Position:
    return record.at, record.id


def _beginning(project_id: UUID) -> bytes:
    return hashlib.sha256(f"{project_id}/{STRAND}".encode()).digest()


def _hash(before: bytes, record: AuditRecord) -> bytes:
    return hashlib.sha256(before + repr(record).encode("utf-8", "surrogatepass")).digest()


def _link(flaw: Flaw, sequence: int, record_id: UUID | None, detail: str) -> BrokenLink:
    return BrokenLink(flaw=flaw, strand=STRAND, sequence=sequence, record_id=record_id, detail=detail)
