"""What the repositories of all nouns have in common: the rows of one kind of entity."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.entity import Change, Entity, Lock

E = TypeVar("E", bound=Entity)


class MemoryRepository(Generic[E]):
    """Keeps entities among the `rows` of the store; `noun` is what refusals call one."""

    rows: ClassVar["attrgetter[dict[UUID, Any]]"]
    noun: ClassVar[str]

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def get(self, entity_id: UUID, /, lock: Lock = Lock.NONE) -> E | None:
        self._transaction.settle()
        return self.rows(self._store).get(entity_id)

    def save(self, entity: E, /) -> None:
        self._transaction.save(self.rows(self._store), entity, self.noun)

    def save_all(self, changes: Sequence[Change[E]], /) -> None:
        for change in changes:
            self.save(change.result)
