"""What is written once, in PostgreSQL: status history and first answers."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from experiment_adapters.postgres.mapping import columns_of
from experiment_adapters.postgres.statements import Row, Statements
from experiment_domain.idempotency import (
    KEPT_FOR,
    IdempotencyKey,
    IdempotencyRecords,
    RememberedAnswer,
    still_in_progress,
)
from experiment_domain.kernel.entity import StatusChange, StatusHistory


class PostgresStatusHistory(StatusHistory):
    """Keeps transitions in `status_history`, which refuses UPDATE, DELETE and TRUNCATE."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def record(self, *changes: StatusChange) -> None:
        self._statements.write(
            f"INSERT INTO status_history ({TRANSITION}) SELECT * FROM unnest(%s::text[], %s::uuid[], %s::uuid[],"
            " %s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::text[], %s::text[])",
            columns_of(
                (
                    change.entity_type,
                    change.entity_id,
                    change.project_id,
                    str(change.source),
                    str(change.target),
                    change.at,
                    change.actor,
                    change.role,
                    change.reason,
                )
                for change in changes
            ),
        )

    async def of(self, entity_type: str, entity_id: UUID) -> Sequence[StatusChange]:
        answer = self._statements.ask(
            f"SELECT {TRANSITION} FROM status_history WHERE entity_id = %s AND entity_type = %s ORDER BY position",
            [entity_id, entity_type],
        )
        return [transition(row) for row in await answer.rows()]


TRANSITION = "entity_type, entity_id, project_id, source, target, at, actor, role, reason"


def transition(row: Row) -> StatusChange:
    """The transition of a row with the columns of `status_history`, but for its position."""
    entity_type, entity_id, project_id, source, target, at, actor, role, reason = row
    return StatusChange(
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
