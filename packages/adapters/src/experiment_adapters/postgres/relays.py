"""How far relays have come, in PostgreSQL."""

from experiment_adapters.postgres.statements import Statements
from experiment_domain.relays import RelayPlaces

# Two relays that both begin find no row to wait for: the second one's insert does, and then conflicts.
_ADVANCE = """
WITH advanced AS (
    INSERT INTO relays AS kept (sink, place, relayed_at) VALUES (%s, %s, clock_timestamp())
    ON CONFLICT (sink) DO UPDATE SET place = excluded.place, relayed_at = excluded.relayed_at WHERE kept.place = %s
    RETURNING 1
)
SELECT expect_one(count(*)) FROM advanced
"""


class PostgresRelays(RelayPlaces):
    """Keeps a place for each sink in `relays`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def of(self, sink: str) -> str | None:
        row = await self._statements.ask("SELECT place FROM relays WHERE sink = %s", [sink]).row()
        return None if row is None else row[0]

    def advance(self, sink: str, before: str | None, place: str) -> None:
        self._statements.write(_ADVANCE, [sink, place, before])
