"""Entities as rows: one declaration per noun gives its SELECT, INSERT and UPDATE."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar
from uuid import UUID

import attrs
from attrs import frozen
from psycopg.types.json import Jsonb

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.statements import Answer, Row, Statements
from experiment_domain.kernel.entity import Change, Entity, Lock, Page, Position
from experiment_domain.kernel.values import same

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
    `others` which columns have no field: how to write them, and, where it is not their name, how to read them. What is
    `written` is for the database to search by, and never read.
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
        written: Mapping[str, Callable[[E], Any]] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._entity = entity
        fields: list[str] = [field.name for field in attrs.fields(entity) if field.name not in without]  # pyright: ignore[reportArgumentType]
        self._fields = [(field, codecs.get(field, AS_IS)) for field in fields]
        self.width = len(fields)
        """How many columns are fields: those without one come after them."""
        self._columns = columns = [*fields, *others, *written]
        self._getters: list[Callable[[E], Any]] = [
            *(_getter(field, codec) for field, codec in self._fields),
            *others.values(),
            *written.values(),
        ]
        changing = [column not in _FIXED for column in columns]
        self._changing = [getter for getter, changes in zip(self._getters, changing, strict=True) if changes]
        assignments = ", ".join(f"{column} = %s" for column, changes in zip(columns, changing, strict=True) if changes)
        self.columns = ", ".join(read.get(column, f"{name}.{column}") for column in [*fields, *others])
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

    def save_all(self, statements: Statements, changes: Sequence[Change[E]]) -> None:
        """Queue one UPDATE of all changed entities, which fails unless each kept version is the one before.

        Only the columns that differ travel, as JSON: the one way to send arrays and objects of many rows at once.
        """
        names = ["version", "updated_at"]
        for place, column in enumerate(self._columns):
            get = self._getters[place]
            if column not in (*names, *_FIXED) and any(_differs(get, change) for change in changes):
                names.append(column)
        assignments = ", ".join(f"{name} = new.{name}" for name in names)
        places = [self._columns.index(name) for name in names]
        rows = [
            {
                "id": change.result.id,
                **{self._columns[place]: _plain(self._getters[place](change.result)) for place in places},
            }
            for change in changes
        ]
        statements.write(
            f"WITH saved AS (UPDATE {self.name} SET {assignments}"
            f" FROM jsonb_populate_recordset(NULL::{self.name}, %s) AS new"
            f" WHERE {self.name}.id = new.id AND {self.name}.version = new.version - 1 RETURNING 1)"
            " SELECT expect_rows(count(*), %s) FROM saved",
            [Jsonb(rows), len(rows)],
        )

    def remove(self, statements: Statements, entity_id: UUID) -> None:
        """Queue the DELETE."""
        statements.write(self._delete, [entity_id])

    async def one(self, answer: Answer) -> E | None:
        """The entity of an answer, or None."""
        row = await answer.row()
        return None if row is None else self.entity(row)


_FIXED = ("id", "project_id", "created_at", "created_by")
"""The columns that never change."""


def _differs(get: Callable[[Any], Any], change: Change[Any]) -> bool:
    return not same(_plain(get(change.before)), _plain(get(change.after)))


def _plain(value: Any) -> Any:
    return value.obj if isinstance(value, Jsonb) else value


def columns_of(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows as columns, for one INSERT of `unnest`ed arrays, however many there are."""
    return [list(column) for column in zip(*rows, strict=True)]


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

    @property
    def way(self) -> str:
        """ASC or DESC."""
        return "DESC" if self.descending else "ASC"

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

    def beyond(self, after: Position | None, *, absent: bool = False) -> tuple[list[str], list[Any]]:
        """Conditions and their parameters, for one part of the list: the rows with a value to sort by, or the others.

        It is the part in which `after` lies, the first one where the list begins, or that of the `absent` values.
        """
        absent = absent or (after is not None and after[0] is None)
        kind = [f"{self.column} IS {'' if absent else 'NOT '}NULL"] if self.nullable else []
        if after is None:
            return kind, []
        sign = "<" if self.descending else ">"
        value, entity_id = after
        if absent:
            return [*kind, f"id {sign} %s"], [entity_id]
        return [*kind, f"({self.column}, id) {sign} (%s, %s)"], [value, entity_id]

    def within(self) -> str:
        """ORDER BY within one such part, as any index on the column has it, forwards or backwards."""
        return f"{self.column} {self.way}, id {self.way}"


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
    prepare: bool = True,
) -> Page[E]:
    """A page by keyset; not prepared where it is filtered, so that it is planned for what it is filtered by."""
    query = page_query(table, conditions, order=order, limit=limit, after=after)
    rows = await statements.ask(*query, prepare=prepare).rows()
    return Page.of([table.entity(row) for row in rows], limit, order.position)
