"""Compaction in memory: there is nothing to compact where readings are kept one by one."""

from collections.abc import Sequence
from datetime import datetime

from experiment_domain.telemetry.compaction import Compaction, Pile


class MemoryCompaction(Compaction):
    """Finds nothing to do."""

    async def piles(self, *, before: datetime, settled: datetime, least: int, limit: int) -> Sequence[Pile]:  # noqa: ARG002
        return []

    async def hold(self, pile: Pile) -> Pile:
        return pile

    async def merge(self, pile: Pile) -> int:  # noqa: ARG002
        return 0

    async def put_away(self, pile: Pile, *, before: datetime, most: int) -> int:  # noqa: ARG002
        return 0
