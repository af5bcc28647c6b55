"""The conditions of a filtered list, each of which narrows it."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any


class Conditions:
    """Conditions and their parameters, for the WHERE of one query."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.parameters: list[Any] = []

    def add(self, text: str, *parameters: Any) -> None:
        """One more condition."""
        self.texts.append(text)
        self.parameters.extend(parameters)

    def within(self, column: str, values: Collection[Any]) -> None:
        """The column is one of `values`, and of none it is nothing: this is how lists are kept to what may be seen.

        One value alone is compared directly, so that an index can give the order as well.
        """
        if len(values) == 1:
            self.add(f"{column} = %s", *values)
        else:
            self.add(f"{column} = ANY(%s)", list(values))

    def one_of(self, column: str, values: Collection[Any]) -> None:
        """The column is one of `values`, if any are asked for."""
        if values:
            self.within(column, values)

    def contains(self, column: str, values: Collection[str]) -> None:
        """The array has all of `values`."""
        if values:
            self.add(f"{column} @> %s", list(values))

    def overlaps(self, column: str, values: Collection[str]) -> None:
        """The array has at least one of `values`."""
        if values:
            self.add(f"{column} && %s", list(values))

    def between(self, column: str, after: datetime | None, before: datetime | None) -> None:
        """The time is `after` or later, and earlier than `before`."""
        if after is not None:
            self.add(f"{column} >= %s", after)
        if before is not None:
            self.add(f"{column} < %s", before)

    def prefixed(self, column: str, prefixes: Collection[str]) -> None:
        """The text begins with one of `prefixes`, by ranges that an index can walk."""
        if prefixes:
            ranges = " OR ".join([f"({column} >= %s AND {column} < %s)"] * len(prefixes))
            bounds = [bound for prefix in prefixes for bound in (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))]
            self.add(f"({ranges})", *bounds)

    def words(self, columns: Sequence[str], words: str | None) -> None:
        """Every word stands somewhere in the columns, in whatever case."""
        text = " || ' ' || ".join(f"coalesce({column}, '')" for column in columns)
        for word in (words or "").split():
            pattern = word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
            # Columns sorted by code point know no case beyond ASCII; the database's own collation does.
            self.add(f'({text}) COLLATE "default" ILIKE %s', f"%{pattern}%")
