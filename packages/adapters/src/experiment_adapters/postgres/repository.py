"""What the repositories of all nouns have in common: one table each."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from experiment_adapters.postgres.mapping import Table
from experiment_adapters.postgres.statements import Statements
from experiment_domain.kernel.entity import Change, Entity, Lock

E = TypeVar("E", bound=Entity)


class PostgresRepository(Generic[E]):
    """Keeps entities in `table`."""

    table: ClassVar[Table[Any]]

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def get(self, entity_id: UUID, /, lock: Lock = Lock.NONE) -> E | None:
        return await self.table.one(self._statements.ask(self.table.select("id = %s", lock), [entity_id]))

    def add(self, entity: E, /) -> None:
        self.table.add(self._statements, entity)

    def save(self, entity: E, /) -> None:
        self.table.save(self._statements, entity)

    def save_all(self, changes: Sequence[Change[E]], /) -> None:
        self.table.save_all(self._statements, changes)
