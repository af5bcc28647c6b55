"""How much work waits, in PostgreSQL."""

from collections.abc import Mapping

from experiment_adapters.postgres.statements import Statements
from experiment_domain.backlog import MOST_COUNTED, Backlog, Waiting

# The conditions are those by which work is claimed, and their indexes.
_UNCLAIMED = "coalesce(claimed_until <= clock_timestamp(), true)"
_ROWS = {
    "backfills": f"SELECT claimed_by FROM backfills WHERE status IN ('queued', 'running') AND {_UNCLAIMED}",
    "chores": "SELECT claimed_by FROM chores WHERE due_at <= clock_timestamp()",
    "exports": f"SELECT claimed_by FROM exports WHERE status IN ('queued', 'running') AND {_UNCLAIMED}",
    "webhooks": "SELECT claimed_by FROM webhook_subscriptions AS endpoint CROSS JOIN LATERAL (SELECT claimed_by"
    " FROM webhook_deliveries WHERE subscription_id = endpoint.id AND status = 'pending'"
    f" AND due_at <= clock_timestamp() AND {_UNCLAIMED}) AS delivery WHERE endpoint.status = 'active'",
}
_WAITING = " UNION ALL ".join(
    f"SELECT '{kind}', count(*), count(claimed_by) FROM ({rows} LIMIT {MOST_COUNTED}) AS {kind}"
    for kind, rows in _ROWS.items()
)


class PostgresBacklog(Backlog):
    """Counts the rows of work themselves."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def waiting(self) -> Mapping[str, Waiting]:
        rows = await self._statements.ask(_WAITING, ()).rows()
        return {kind: Waiting(count=count, left_behind=left_behind) for kind, count, left_behind in rows}
