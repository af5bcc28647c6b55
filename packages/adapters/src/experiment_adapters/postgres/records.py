"""What is written once, in PostgreSQL: status history, audit log, outbox and first answers."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from psycopg.types.json import Jsonb

from experiment_adapters.postgres.statements import Statements
from experiment_domain.audit import AuditLog, AuditRecord
from experiment_domain.idempotency import (
    KEPT_FOR,
    IdempotencyKey,
    IdempotencyRecords,
    RememberedAnswer,
    still_in_progress,
)
from experiment_domain.kernel.entity import StatusChange, StatusHistory
from experiment_domain.kernel.events import Event, EventSink


class PostgresStatusHistory(StatusHistory):
    """Keeps transitions in `status_history`, which refuses UPDATE, DELETE and TRUNCATE."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def record(self, change: StatusChange) -> None:
        self._statements.write(
            "INSERT INTO status_history (entity_type, entity_id, project_id, source, target, at, actor, role, reason)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                change.entity_type,
                change.entity_id,
                change.project_id,
                str(change.source),
                str(change.target),
                change.at,
                change.actor,
                change.role,
                change.reason,
            ],
        )

    async def of(self, entity_type: str, entity_id: UUID) -> Sequence[StatusChange]:
        answer = self._statements.ask(
            "SELECT project_id, source, target, at, actor, role, reason FROM status_history"
            " WHERE entity_id = %s AND entity_type = %s ORDER BY position",
            [entity_id, entity_type],
        )
        return [
            StatusChange(
                entity_type=entity_type,
                entity_id=entity_id,
                project_id=project_id,
                source=source,
                target=target,
                at=at,
                actor=actor,
                role=role,
                reason=reason,
            )
            for project_id, source, target, at, actor, role, reason in await answer.rows()
        ]


class PostgresAuditLog(AuditLog):
    """Keeps commands in `audit_log`, which refuses UPDATE, DELETE and TRUNCATE."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def record(self, record: AuditRecord) -> None:
        self._statements.write(
            "INSERT INTO audit_log (id, project_id, at, actor, role, request_id, address, action,"
            " target_type, target_id, before, after) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
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
                None if record.before is None else Jsonb(record.before),
                None if record.after is None else Jsonb(record.after),
            ],
        )

    async def of(self, project_id: UUID) -> Sequence[AuditRecord]:
        answer = self._statements.ask(
            "SELECT id, at, actor, role, request_id, address, action, target_type, target_id, before, after"
            " FROM audit_log WHERE project_id = %s ORDER BY position",
            [project_id],
        )
        names = ("id", "at", "actor", "role", "request_id", "address", "action", "target_type", "target_id")
        return [
            AuditRecord(project_id=project_id, before=before, after=after, **dict(zip(names, row, strict=True)))
            for *row, before, after in await answer.rows()
        ]


class PostgresOutbox(EventSink):
    """Keeps events in `outbox`, for a relay to read in the order of commits."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def record(self, event_id: UUID, event: Event) -> None:
        self._statements.write(
            "INSERT INTO outbox (id, project_id, subject, type, at, data) VALUES (%s, %s, %s, %s, %s, %s)",
            [event_id, event.project_id, event.subject, event.type, event.at, Jsonb(dict(event.data))],
        )


class PostgresIdempotency(IdempotencyRecords):
    """Keeps first answers in `idempotency_records`; an advisory lock says that one is being worked on."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def claim(self, key: IdempotencyKey, now: datetime) -> RememberedAnswer | None:
        # Two statements, so that the second sees what was committed before the lock was given.
        lock = self._statements.ask("SELECT pg_try_advisory_xact_lock(%s)", [_lock_key(key)])
        found = self._statements.ask(
            "SELECT fingerprint, content, answered_at FROM idempotency_records WHERE principal = %s AND key = %s"
            " AND answered_at > %s",
            [key.principal, key.key, now - KEPT_FOR],
        )
        row = await found.row()
        if row is not None:
            fingerprint, content, answered_at = row
            return RememberedAnswer(fingerprint=fingerprint, content=content, answered_at=answered_at)
        if not await lock.value():
            raise still_in_progress()
        return None

    def remember(self, key: IdempotencyKey, answer: RememberedAnswer) -> None:
        self._statements.write(
            "INSERT INTO idempotency_records (principal, key, fingerprint, content, answered_at)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (principal, key) DO UPDATE"
            " SET fingerprint = excluded.fingerprint, content = excluded.content, answered_at = excluded.answered_at",
            [key.principal, key.key, answer.fingerprint, answer.content, answer.answered_at],
        )

    async def purge(self, before: datetime) -> int:
        self._statements.check_writes()
        return await self._statements.ask(
            "WITH purged AS (DELETE FROM idempotency_records WHERE answered_at < %s RETURNING 1)"
            " SELECT count(*) FROM purged",
            [before],
        ).value()


def _lock_key(key: IdempotencyKey) -> int:
    digest = blake2b(f"{key.principal}\0{key.key}".encode(), digest_size=8, person=b"idempotency")
    return int.from_bytes(digest.digest(), signed=True)
