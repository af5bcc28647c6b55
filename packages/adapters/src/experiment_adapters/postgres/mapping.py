"""Entities as rows: one declaration per noun gives its SELECT, INSERT and UPDATE."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar
from uuid import UUID

import attrs
from attrs import frozen
from psycopg.types.json import Jsonb

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.statements import Answer, Row, Statements
from experiment_domain.kernel.entity import Entity, Lock, Page, Position

E = TypeVar("E", bound=Entity)

LOCKS = {Lock.NONE: "", Lock.SHARE: " FOR SHARE", Lock.UPDATE: " FOR NO KEY UPDATE"}
"""How a repository's locks are written. Neither stands against foreign keys that refer to the row."""


@frozen
class Codec:
    """How a value becomes a column's and back."""

    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


AS_IS = Codec(_same, _same)
JSON = Codec(Jsonb, _same)
NAMES = Codec(list, tuple)


def enum(kind: Callable[[str], Any]) -> Codec:
    """A column of text that holds the values of an enumeration."""
    return Codec(str, kind)


class Table(Generic[E]):
    """A table whose columns are the fields of an entity, by name.

    `codecs` say where a column differs in kind from its field, `without` which fields have no column, and
    `others` which columns have no field: how to write them, and, where it is not their name, how to read them.
    """

    def __init__(
        self,
        entity: type[E],
        name: str,
        codecs: Mapping[str, Codec],
        *,
        without: Sequence[str] = (),
        others: Mapping[str, Callable[[E], Any]] = MappingProxyType({}),
        read: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._entity = entity
        fields: list[str] = [field.name for field in attrs.fields(entity) if field.name not in without]  # pyright: ignore[reportArgumentType]
        self._fields = [(field, codecs.get(field, AS_IS)) for field in fields]
        self.width = len(fields)
        """How many columns are fields: those without one come after them."""
        columns = [*fields, *others]
        self._getters: list[Callable[[E], Any]] = [
            *(_getter(field, codec) for field, codec in self._fields),
            *others.values(),
        ]
        fixed = ("id", "project_id", "created_at", "created_by")
        changing = [column not in fixed for column in columns]
        self._changing = [getter for getter, changes in zip(self._getters, changing, strict=True) if changes]
        assignments = ", ".join(f"{column} = %s" for column, changes in zip(columns, changing, strict=True) if changes)
        self.columns = ", ".join(read.get(column, f"{name}.{column}") for column in columns)
        self._insert = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
        self._update = (
            f"WITH saved AS (UPDATE {name} SET {assignments} WHERE id = %s AND version = %s RETURNING 1) "
            "SELECT expect_one(count(*)) FROM saved"
        )
        self._delete = (
            f"WITH removed AS (DELETE FROM {name} WHERE id = %s RETURNING 1) SELECT expect_one(count(*)) FROM removed"
        )

    def select(self, where: str, lock: Lock = Lock.NONE) -> str:
        """The query for entities, by a condition."""
        return f"SELECT {self.columns} FROM {self.name} WHERE {where}{LOCKS[lock]}"

    def entity(self, row: Row, **others: Any) -> E:
        """The entity of a row, which begins with this table's columns; `others` are the fields without one."""
        values = {
            field: codec.load(value)
            for (field, codec), value in zip(self._fields, row, strict=False)
            if value is not None
        }
        return self._entity(**values, **others)

    def add(self, statements: Statements, entity: E) -> None:
        """Queue the INSERT."""
        statements.write(self._insert, [get(entity) for get in self._getters])

    def save(self, statements: Statements, entity: E) -> None:
        """Queue the UPDATE, which fails unless the kept version is the one before."""
        values = [get(entity) for get in self._changing]
        statements.write(self._update, [*values, entity.id, entity.version - 1])

    def remove(self, statements: Statements, entity_id: UUID) -> None:
        """Queue the DELETE."""
        statements.write(self._delete, [entity_id])

    async def one(self, answer: Answer) -> E | None:
        """The entity of an answer, or None."""
        row = await answer.row()
        return None if row is None else self.entity(row)


def _getter(field: str, codec: Codec) -> Callable[[Any], Any]:
    def get(entity: Any) -> Any:
        value = getattr(entity, field)
        return None if value is None else codec.dump(value)

    return get


@frozen
class Order:
    """The order of a list, and the keyset that continues it. Absent values come last in both directions."""

    column: str
    descending: bool
    nullable: bool

    @classmethod
    def by(cls, sort: str, *, nullable: Sequence[str] = ("started_at", "finished_at")) -> "Order":
        """The order that `sort` names: a column, with `-` for descending."""
        column = sort.removeprefix("-")
        return cls(column, sort.startswith("-"), column in nullable)

    def position(self, entity: Any) -> Position:
        """Where a page ends that ends with `entity`."""
        return getattr(entity, self.column), entity.id

    def clauses(self, after: Position | None) -> tuple[list[str], list[Any], str]:
        """Conditions, their parameters, and ORDER BY."""
        way, beyond = ("DESC", "<") if self.descending else ("ASC", ">")
        order = f"{self.column} {way}{' NULLS LAST' if self.nullable else ''}, id {way}"
        if after is None:
            return [], [], order
        value, entity_id = after
        if value is None:
            return [f"{self.column} IS NULL AND id {beyond} %s"], [entity_id], order
        condition = f"({self.column}, id) {beyond} (%s, %s)"
        if self.nullable:
            condition = f"({condition} OR {self.column} IS NULL)"
        return [condition], [value, entity_id], order


def page_query(
    table: Table[E],
    conditions: Conditions,
    *,
    order: Order,
    limit: int,
    after: Position | None,
) -> tuple[str, list[Any]]:
    """The query for a page by keyset, which asks for one more than `limit` to know whether there are more."""
    further, values, by = order.clauses(after)
    where = " AND ".join([*conditions.texts, *further]) or "true"
    return f"{table.select(where)} ORDER BY {by} LIMIT %s", [*conditions.parameters, *values, limit + 1]


async def page(
    statements: Statements,
    table: Table[E],
    conditions: Conditions,
    *,
    order: Order,
    limit: int,
    after: Position | None,
) -> Page[E]:
    """A page by keyset."""
    query = page_query(table, conditions, order=order, limit=limit, after=after)
    rows = await statements.ask(*query).rows()
    return Page.of([table.entity(row) for row in rows], limit, order.position)
