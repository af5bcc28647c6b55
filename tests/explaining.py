"""How PostgreSQL runs what repositories ask it."""

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from experiment_adapters.postgres.statements import Answer, Statements


@define
class Explaining:
    """Statements that have PostgreSQL explain each query before they ask it."""

    statements: Statements
    queries: list[str] = field(factory=list[str])
    prepared: list[bool] = field(factory=list[bool])
    plans: list[Any] = field(factory=list[Any])

    def ask(self, sql: str, parameters: Sequence[Any], *, prepare: bool = True) -> Answer:
        self.queries.append(sql)
        self.prepared.append(prepare)
        self.plans.append(
            self.statements.ask(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters, prepare=False)
        )
        return self.statements.ask(sql, parameters, prepare=prepare)

    async def roots(self) -> list[Any]:
        return [(await plan.value())[0]["Plan"] for plan in self.plans]
