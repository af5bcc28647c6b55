"""Filtered pages of a long list: first a short walk in the order that is asked for, then a search by the filters.

A walk finds a page of what is frequent at once; but what is rare, or comes late in this order, after everything else.
A search finds what is rare at once, but sorts all there is of what is frequent. Nobody knows beforehand which of the
two a filter needs: the database assumes that filters have nothing to do with each other, nor with the order.
"""

from collections.abc import Collection
from typing import Any, TypeVar
from uuid import UUID

from attrs import frozen

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import Order, Table
from experiment_adapters.postgres.statements import Row, Statements
from experiment_domain.kernel.entity import Entity, Page, Position

E = TypeVar("E", bound=Entity)

NEAR = 1_000
NEAR_PER_ROW = 20
"""A walk is given up after `NEAR` rows and `NEAR_PER_ROW` for each row that is wanted."""


@frozen
class Search:
    """What is asked of a list: `walked` are the conditions that the indexes which give the order know of, `filters` all
    others.
    """

    project_ids: Collection[UUID]
    walked: Conditions
    filters: Conditions


async def search_page(
    statements: Statements,
    table: Table[E],
    search: Search,
    *,
    order: Order,
    limit: int,
    after: Position | None,
) -> Page[E]:
    """A page by keyset, of the rows of some projects."""
    wanted = limit + 1
    rows = await _ask(statements, _walk(table, search, order, wanted, after))
    if len(rows) < wanted and search.filters:
        rows = await _ask(statements, _found(table, search, order, wanted, after))
    elif len(rows) < wanted and order.nullable and (after is None or after[0] is not None):
        rows += await _ask(statements, _walk(table, search, order, wanted - len(rows), None, absent=True))
    return Page.of([table.entity(row) for row in rows], limit, order.position)


async def _ask(statements: Statements, query: tuple[str, list[Any]]) -> list[Row]:
    # Planned for its values, each time: which way is short depends on how frequent they are.
    return await statements.ask(*query, prepare=False).rows()


def _walk(
    table: Table[Any], search: Search, order: Order, wanted: int, after: Position | None, *, absent: bool = False
) -> tuple[str, list[Any]]:
    """The first rows in the order of the list: with filters, of so many as may be looked at.

    Rows without a value to sort by are walked by themselves (`absent`): no index continues from one kind to the other.
    """
    further, values = order.beyond(after, absent=absent)
    here = [*search.walked.texts, *further]
    parameters = [*search.walked.parameters, *values]
    way = order.within()
    projects = list(search.project_ids)
    most = NEAR + NEAR_PER_ROW * wanted if search.filters else wanted
    if len(projects) == 1:
        where = " AND ".join(["project_id = %s", *here])
        walk = f"SELECT id, {order.column} FROM {table.name} WHERE {where} ORDER BY {way} LIMIT %s"
        parameters = [*projects, *parameters, most]
    else:
        # Each project by itself, since an index gives the order within one: with many, not as far into each.
        each = max(2 * wanted, most // max(len(projects), 1)) if search.filters else wanted
        where = " AND ".join([f"{table.name}.project_id = projects.id", *here])
        walk = (
            f"SELECT {table.name}.* FROM unnest(%s::uuid[]) AS projects (id) CROSS JOIN LATERAL"
            f" (SELECT id, {order.column} FROM {table.name} WHERE {where} ORDER BY {way} LIMIT %s) AS {table.name}"
            f" ORDER BY {way} LIMIT %s"
        )
        parameters = [projects, *parameters, each, each]
    where = " AND ".join(search.filters.texts) or "true"
    query = (
        f"SELECT {table.columns} FROM ({walk}) AS walk JOIN {table.name} USING (id) WHERE {where}"
        f" ORDER BY walk.{order.column} {order.way}, walk.id {order.way} LIMIT %s"
    )
    return query, [*parameters, *search.filters.parameters, wanted]


def _found(
    table: Table[Any], search: Search, order: Order, wanted: int, after: Position | None
) -> tuple[str, list[Any]]:
    """All rows that fit, and of these the first: what finds them knows of no order, and is not led astray by it."""
    conditions = Conditions()
    conditions.within("project_id", search.project_ids)
    further, values, by = order.clauses(after)
    where = " AND ".join([*conditions.texts, *search.walked.texts, *search.filters.texts, *further])
    query = (
        f"WITH found AS MATERIALIZED (SELECT id, {order.column} FROM {table.name} WHERE {where})"
        f" SELECT {table.columns} FROM {table.name}"
        f" WHERE id IN (SELECT id FROM found ORDER BY {by} LIMIT %s) ORDER BY {by}"
    )
    parameters = [*conditions.parameters, *search.walked.parameters, *search.filters.parameters, *values]
    return query, [*parameters, wanted]
