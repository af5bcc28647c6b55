"""Reading on from where one was: what has become visible since, in whatever order it was written and committed.

A place is a snapshot, which knows exactly which transactions it has seen: what is new is what they did not write. While
news between two snapshots are read in parts, the place holds the later one as well, and the position reached so far.
Positions come from a sequence. They are not in the order of commits, but of two rows of which the second could only be
written when the first was committed, the first has the lower position, and is never seen later.
"""

from collections.abc import Sequence
from typing import Any, Self

from attrs import evolve, frozen

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.statements import Row, Statements

_NOTHING = "1:1:"
"""A snapshot before the first transaction."""

# The snapshot is that of this very statement: of the rows it finds, all are seen in it, and none that it does not find.
_NEWEST = """
SELECT pg_snapshot_xmax(%s::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot()), pg_current_snapshot()::text, row.*
FROM (VALUES (true)) AS always LEFT JOIN LATERAL ({rows}) AS row ON true ORDER BY row.position
"""


@frozen(kw_only=True)
class Window:
    """What one snapshot has not seen, and, where `until` says so, a later one has; of it, what is above a position."""

    seen: str
    until: str | None = None
    position: int = 0

    @classmethod
    def parsed(cls, place: str | None) -> Self:
        """The window behind a place, or from the beginning."""
        if place is None:
            return cls(seen=_NOTHING)
        seen, *rest = place.split(" ")
        return cls(seen=seen, until=rest[0], position=int(rest[1])) if rest else cls(seen=seen)

    def up_to(self, place: str | None) -> "Window":
        """The same, up to a place that once was the latest one; one that is read in parts already ends before that."""
        return self if place is None or self.until is not None else evolve(self, until=place.partition(" ")[0])

    def ends_before(self, place: str | None, now: str) -> bool:
        """Whether there may be more behind this window: up to that place, or up to `now`.

        While a window is read in parts, more becomes visible, of which nobody is told again.
        """
        return self.end(now) != (now if place is None else place.partition(" ")[0])

    def narrow(self, conditions: Conditions) -> None:
        """Keep a query to the rows of this window: their table has the columns `transaction_id` and `position`."""
        # The first one is for an index: what came before the oldest transaction that was not over has been seen.
        conditions.add("transaction_id >= pg_snapshot_xmin(%s::pg_snapshot)", self.seen)
        conditions.add("NOT pg_visible_in_snapshot(transaction_id, %s::pg_snapshot)", self.seen)
        if self.until is not None:
            conditions.add("pg_visible_in_snapshot(transaction_id, %s::pg_snapshot)", self.until)
        if self.position:
            conditions.add("position > %s", self.position)

    @property
    def order(self) -> str:
        """By what its rows are to be ordered: their positions, so written that a long table costs nothing.

        Where the window begins at a position, or with the first row, an index leads straight to it. Otherwise its rows
        lie somewhere behind, and the planner, who cannot tell how few they are, must be kept from walking there along
        that index: only what came since is looked at then, and sorted.
        """
        return "position" if self.position or self.seen == _NOTHING else "position + 0"

    def behind(self, positions: Sequence[int], now: str, *, more: bool) -> list[str]:
        """The places behind rows of this window, which were read in the snapshot `now`: all, or there are more."""
        places = [f"{self.seen} {self.until or now} {position}" for position in positions]
        return places if more else [*places[:-1], self.end(now)][: len(places)]

    def end(self, now: str) -> str:
        """The place behind all of this window."""
        return self.until or now


async def newest(
    statements: Statements, window: Window, rows: str, parameters: Sequence[Any]
) -> tuple[str | None, Sequence[Row]]:
    """The present snapshot, and what a query finds whose first column is `position`.

    The snapshot is None where the window begins beyond it. Planned anew each time: how much lies in a window decides by
    which index it is found.
    """
    answer = statements.ask(_NEWEST.format(rows=rows), [window.seen, *parameters], prepare=False)
    found = await answer.rows()
    is_known, now, position, *_ = found[0]
    if not is_known:
        return None, ()
    return now, () if position is None else [row[2:] for row in found]


async def snapshot(statements: Statements) -> str:
    """The present snapshot."""
    return await statements.ask("SELECT pg_current_snapshot()::text", ()).value()
