"""Filters and pages as the database makes them: sorted, absent values last, ties broken by id."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, TypeVar

from experiment_domain.kernel.entity import Entity, Page, Position
from experiment_domain.kernel.values import words_of

E = TypeVar("E", bound=Entity)


def page_of(found: Iterable[E], sort: str, limit: int, after: Position | None) -> Page[E]:
    """The page of `found`, sorted by a field, with `-` for descending, that follows the position `after`."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")

    def position(entity: E) -> Position:
        return getattr(entity, name), entity.id

    def place(where: Position) -> Any:
        value, entity_id = where
        # Absent values are last in either direction: reversed, what compares least is last.
        return ((value is None) is not descending, 0 if value is None else value, entity_id)

    rows = sorted(found, key=lambda entity: place(position(entity)), reverse=descending)
    if after is not None:
        end = place(after)
        rows = [row for row in rows if (place(position(row)) < end if descending else place(position(row)) > end)]
    return Page.of(rows[: limit + 1], limit, position)


def newest_first(found: Iterable[E], limit: int, after: Position | None) -> Page[E]:
    """The page of `found`, sorted by the time of creation, that follows the position `after`."""
    return page_of(found, "-created_at", limit, after)


def one_of(value: Any, wanted: Collection[Any]) -> bool:
    """Whether a value is among the `wanted` ones; where none are wanted, any is."""
    return not wanted or value in wanted


def any_of(values: Collection[Any], wanted: Collection[Any]) -> bool:
    """Whether one of the values is among the `wanted` ones; where none are wanted, always."""
    return not wanted or not set(wanted).isdisjoint(values)


def within(moment: datetime | None, start: datetime | None, end: datetime | None) -> bool:
    """Whether a moment lies in [start, end); an open side holds any, and no moment is in no bounds."""
    if start is None and end is None:
        return True
    return moment is not None and (start is None or moment >= start) and (end is None or moment < end)


def has_words(text: str | None, *texts: str | None) -> bool:
    """Whether each word of the text is the beginning of a word of the texts; blank text asks for nothing."""
    if not (text or "").strip():
        return True
    words, there = words_of(text), words_of(*texts)
    return bool(words) and all(any(other.startswith(word) for other in there) for word in words)
