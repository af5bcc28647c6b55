"""Backfills in PostgreSQL, and which worker works on which."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import NAMES, Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.backfills import PROGRESS, Backfill, BackfillRepository, BackfillStatus, Claim
from experiment_domain.kernel.entity import Page, Position

BACKFILLS = Table(Backfill, "backfills", {"status": enum(BackfillStatus), "place": NAMES})

# Claims are told by the clock itself, not by the time at which their transaction began. Of one that was taken while
# this waited for its row, the conditions no longer hold, and the next one is tried.
_CLAIM = f"""
WITH due AS (
    SELECT id, claimed_by FROM backfills AS waiting
    WHERE status IN ('queued', 'running') AND coalesce(claimed_until <= clock_timestamp(), true)
        AND NOT EXISTS (
            SELECT FROM backfills AS earlier
            WHERE earlier.capture_session_id = waiting.capture_session_id AND earlier.sensor_id = waiting.sensor_id
                AND earlier.status IN ('queued', 'running')
                AND (earlier.queued_at, earlier.id) < (waiting.queued_at, waiting.id)
        )
    ORDER BY coalesce(claimed_until, queued_at), id LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE backfills SET claimed_by = %s, claimed_until = clock_timestamp() + %s
FROM due WHERE backfills.id = due.id
RETURNING {BACKFILLS.columns}, due.claimed_by IS NOT NULL
"""
_RENEW = (
    f"UPDATE backfills SET {', '.join(f'{name} = %s' for name in PROGRESS)}, claimed_until = clock_timestamp() + %s"
    " WHERE id = %s AND claimed_by = %s"
)


class PostgresBackfills(PostgresRepository[Backfill], BackfillRepository):
    """Keeps backfills in `backfills`."""

    table = BACKFILLS

    async def page(
        self,
        session_id: UUID,
        *,
        statuses: Collection[BackfillStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Backfill]:
        conditions = Conditions()
        conditions.within("capture_session_id", [session_id])
        conditions.one_of("status", [str(status) for status in statuses])
        order = Order.by("-created_at")
        return await page(self._statements, BACKFILLS, conditions, order=order, limit=limit, after=after)

    async def latest(self, session_id: UUID, sensor_id: UUID, profile_id: UUID) -> Backfill | None:
        where = (
            "capture_session_id = %s AND sensor_id = %s AND profile_id = %s"
            " ORDER BY status IN ('queued', 'running') DESC, created_at DESC, id DESC LIMIT 1"
        )
        return await BACKFILLS.one(
            self._statements.ask(BACKFILLS.select(where), [session_id, sensor_id, profile_id]),
        )

    async def active_of(self, session_id: UUID) -> Sequence[UUID]:
        answer = self._statements.ask(
            "SELECT id FROM backfills WHERE capture_session_id = %s AND status IN ('queued', 'running') ORDER BY id",
            [session_id],
        )
        return [backfill_id for (backfill_id,) in await answer.rows()]

    async def claim(self, worker: UUID, lasting: timedelta) -> Claim | None:
        self._statements.check_writes()
        row = await self._statements.ask(_CLAIM, [worker, lasting]).row()
        return None if row is None else Claim(backfill=BACKFILLS.entity(row), was_lost=row[-1])

    async def claimed(self, backfill_id: UUID, worker: UUID) -> Backfill | None:
        where = "id = %s AND claimed_by = %s AND status = 'running' FOR NO KEY UPDATE"
        return await BACKFILLS.one(self._statements.ask(BACKFILLS.select(where), [backfill_id, worker]))

    def renew(self, backfill: Backfill, worker: UUID, lasting: timedelta) -> None:
        place = None if backfill.place is None else list(backfill.place)
        progress = [place if name == "place" else getattr(backfill, name) for name in PROGRESS]
        self._statements.write(_RENEW, [*progress, lasting, backfill.id, worker])

    def release(self, backfill_id: UUID, pause: timedelta = timedelta()) -> None:
        self._statements.write(
            "UPDATE backfills SET claimed_by = NULL, claimed_until = clock_timestamp() + %s WHERE id = %s",
            [pause, backfill_id],
        )
