"""The audit log in PostgreSQL, which links each record to the one before it as it is inserted."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import columns_of
from experiment_adapters.postgres.statements import Row, Statements
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

_COLUMNS = "id, project_id, at, actor, role, request_id, address, action, target_type, target_id, before, after"
_NAMES = _COLUMNS.split(", ")

# One statement walks one part of a chain. Each link is held against the one before it, which for the first of the part
# is handed in; the last row of the part, broken or not, tells where the next part begins.
_WALK = f"""
WITH part AS (
    SELECT * FROM audit_log WHERE project_id = %s AND strand = %s AND sequence > %s AND sequence <= %s
    ORDER BY sequence LIMIT %s
), linked AS (
    SELECT id, position, sequence, hash, lag(sequence, 1, %s::bigint) OVER by_place + 1 AS expected,
        hash = sha256(lag(hash, 1, %s::bytea) OVER by_place || audit_content(part.*::audit_log)) AS holds,
        row_number() OVER (ORDER BY sequence DESC) = 1 AS is_last
    FROM part WINDOW by_place AS (ORDER BY sequence)
)
SELECT id, position, sequence, hash, expected, holds, (SELECT count(*) FROM part) FROM linked
WHERE is_last OR NOT holds OR sequence <> expected ORDER BY sequence LIMIT {BROKEN_LINKS + 1}
"""

WALKED_AT_ONCE = 10_000
"""How many links one statement looks at: far fewer than a statement has time for, on a busy machine, too."""


class PostgresAuditLog(AuditLog):
    """Keeps commands in `audit_log`, which refuses UPDATE, DELETE and TRUNCATE."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def record(self, *records: AuditRecord) -> None:
        self._statements.write(
            f"INSERT INTO audit_log ({_COLUMNS}) SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[],"
            " %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[],"
            " %s::jsonb[])",
            columns_of(
                (
                    record.id,
                    record.project_id,
                    record.at,
                    record.actor,
                    record.role,
                    record.request_id,
                    record.address,
                    record.action,
                    record.target_type,
                    record.target_id,
                    _json(record.before),
                    _json(record.after),
                )
                for record in records
            ),
        )

    async def page(self, which: AuditFilter, *, limit: int, after: Position | None) -> Page[AuditRecord]:
        conditions = Conditions()
        conditions.within("project_id", which.project_ids)
        conditions.one_of("actor", which.actors)
        conditions.one_of("action", which.actions)
        if which.targets:
            ways: list[str] = []
            parameters: list[Any] = []
            for target in which.targets:
                named = {"target_type": target.type, "target_id": target.id}
                ways.append(" AND ".join(f"{column} = %s" for column, value in named.items() if value is not None))
                parameters += [value for value in named.values() if value is not None]
            conditions.add(f"({' OR '.join(ways)})", *parameters)
        conditions.between("at", which.after, which.before)
        if after is not None:
            conditions.add("(at, id) < (%s, %s)", *after)
        rows = await self._statements.ask(
            f"SELECT {_COLUMNS} FROM audit_log WHERE {' AND '.join(conditions.texts)}"
            " ORDER BY at DESC, id DESC LIMIT %s",
            [*conditions.parameters, limit + 1],
        ).rows()
        return Page.of([AuditRecord(**dict(zip(_NAMES, row, strict=True))) for row in rows], limit, _place)

    async def verify(self, project_id: UUID, anchored: Sequence[ChainHead] = ()) -> Verification:
        broken: list[tuple[int, BrokenLink]] = []
        heads: list[ChainHead] = []
        records = 0
        for strand, length, head_hash, beginning, last in await self._strands(project_id):
            if length is None or (last or 0) > length:
                link = _link(Flaw.UNKNOWN, strand, (length or 0) + 1, None, "was not written by the service")
                broken.append((_END, link))
            if length is not None:
                heads.append(ChainHead(strand=strand, length=length, hash=head_hash))
                walked, found = await self._walk(project_id, heads[-1], beginning)
                records += walked
                broken += found
        for head in anchored:
            if (link := await self._unanchored(project_id, head)) is not None:
                broken.append((_END, link))
        broken.sort(key=lambda place: place[0])
        return Verification(
            project_id=project_id,
            records=records,
            broken=[link for _, link in broken[:BROKEN_LINKS]],
            heads=heads,
        )

    async def _strands(self, project_id: UUID) -> Sequence[Row]:
        """Each strand as it is noted and as it is written, seen at one moment: others go on writing."""
        return await self._statements.ask(_STRANDS, [project_id] * 4).rows()

    async def _walk(
        self, project_id: UUID, head: ChainHead, beginning: bytes
    ) -> tuple[int, list[tuple[int, BrokenLink]]]:
        """How many records a strand has up to its head, and the links that do not hold, by position."""
        records, sequence, link_hash = 0, 0, beginning
        broken: list[tuple[int, BrokenLink]] = []
        while sequence < head.length and len(broken) <= BROKEN_LINKS:
            place = [project_id, head.strand, sequence, head.length, WALKED_AT_ONCE, sequence, link_hash]
            rows = await self._statements.ask(_WALK, place).rows()
            if not rows:
                break
            for record_id, position, sequence, link_hash, expected, holds, _ in rows:  # noqa: B007 - the last one counts
                if sequence != expected:
                    gone = f"{sequence - expected} record(s) are gone from before this one"
                    broken.append((position, _link(Flaw.MISSING, head.strand, expected, record_id, gone)))
                elif not holds:
                    other = "this record, or the hash of the one before it, is not what was written"
                    broken.append((position, _link(Flaw.CHANGED, head.strand, sequence, record_id, other)))
            records += rows[-1][-1]
        if sequence < head.length:
            gone = f"the last {head.length - sequence} record(s) are gone"
            broken.append((_END, _link(Flaw.MISSING, head.strand, sequence + 1, None, gone)))
        elif link_hash != head.hash:
            other = "the last record is not the one whose hash was noted"
            broken.append((_END, _link(Flaw.CHANGED, head.strand, sequence, None, other)))
        return records, broken

    async def _unanchored(self, project_id: UUID, head: ChainHead) -> BrokenLink | None:
        """What is wrong with a head that was anchored outside, if anything is."""
        row = await self._statements.ask(
            "SELECT id, hash FROM audit_log WHERE project_id = %s AND strand = %s AND sequence = %s",
            [project_id, head.strand, head.length],
        ).row()
        if row is None:
            return _link(Flaw.MISSING, head.strand, head.length, None, "the record that was anchored is gone")
        record_id, found = row
        if found == head.hash:
            return None
        return _link(Flaw.CHANGED, head.strand, head.length, record_id, "another record was anchored in this place")


_STRANDS = """
WITH RECURSIVE written AS (
    SELECT (SELECT min(strand) FROM audit_log WHERE project_id = %s) AS strand
    UNION ALL
    SELECT (SELECT min(audit_log.strand) FROM audit_log WHERE project_id = %s AND audit_log.strand > written.strand)
    FROM written WHERE written.strand IS NOT NULL
), noted AS (
    SELECT strand, length, hash, audit_beginning(project_id, strand) AS beginning
    FROM audit_strands WHERE project_id = %s
)
SELECT strand, noted.length, noted.hash, noted.beginning, (
    SELECT max(sequence) FROM audit_log WHERE project_id = %s AND audit_log.strand = strands.strand
)
FROM (SELECT strand FROM written WHERE strand IS NOT NULL UNION SELECT strand FROM noted) AS strands
LEFT JOIN noted USING (strand) ORDER BY strand
"""

_END = 2**63
"""The position of what is missing at the end: after everything that is there."""


def _place(record: AuditRecord) -> Position:
    return record.at, record.id


def _link(flaw: Flaw, strand: int, sequence: int, record_id: UUID | None, detail: str) -> BrokenLink:
    return BrokenLink(flaw=flaw, strand=strand, sequence=sequence, record_id=record_id, detail=detail)


def _json(value: Mapping[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(value)
