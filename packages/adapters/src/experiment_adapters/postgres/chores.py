"""Chores in PostgreSQL."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from experiment_adapters.postgres.statements import Statements
from experiment_domain.chores import ERROR_LENGTH, Chore, ChoreBook

# Two statements, so that the second sees what the first one adds. The clock itself is asked, not the time at which the
# transaction began: somebody may have been waited for.
_ENROL = (
    "INSERT INTO chores (name, due_at) SELECT name, clock_timestamp() FROM unnest(%s::text[]) AS name"
    " ON CONFLICT (name) DO NOTHING"
)
_CLAIM = """
WITH due AS (
    SELECT name FROM chores WHERE name = ANY(%s) AND due_at <= clock_timestamp()
    ORDER BY due_at, name LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE chores SET attempts = attempts + 1, claimed_by = %s, due_at = clock_timestamp() + %s
FROM due WHERE chores.name = due.name
RETURNING chores.name, attempts
"""
_IS_DUE = """
SELECT EXISTS (
    SELECT FROM unnest(%s::text[]) AS name LEFT JOIN chores USING (name)
    WHERE coalesce(due_at <= clock_timestamp(), true)
)
"""


class PostgresChores(ChoreBook):
    """Keeps in `chores` when each chore is due, and who is at it."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def is_due(self, names: Collection[str]) -> bool:
        return await self._statements.ask(_IS_DUE, [sorted(names)]).value()

    async def claim(self, names: Collection[str], worker: UUID, lasting: timedelta) -> Chore | None:
        wanted = sorted(names)
        self._statements.write(_ENROL, [wanted])
        row = await self._statements.ask(_CLAIM, [wanted, worker, lasting]).row()
        if row is None:
            return None
        name, attempts = row
        return Chore(name=name, attempts=attempts)

    def done(self, name: str, worker: UUID, pause: timedelta) -> None:
        self._statements.write(
            "UPDATE chores SET attempts = 0, error = NULL, claimed_by = NULL, done_at = clock_timestamp(),"
            " due_at = clock_timestamp() + %s WHERE name = %s AND claimed_by = %s",
            [pause, name, worker],
        )

    def failed(self, chore: Chore, worker: UUID, error: str) -> None:
        attempts = 0 if chore.is_last else chore.attempts
        self._statements.write(
            "UPDATE chores SET attempts = %s, error = %s, claimed_by = NULL, due_at = clock_timestamp() + %s"
            " WHERE name = %s AND claimed_by = %s",
            [attempts, error[:ERROR_LENGTH], chore.pause, chore.name, worker],
        )
