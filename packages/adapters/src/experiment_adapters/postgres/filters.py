"""The conditions of a filtered list, each of which narrows it."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from experiment_domain.kernel.values import words_of


class Conditions:
    """Conditions and their parameters, for the WHERE of one query."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.parameters: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self.texts)

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

    def objects(self, column: str, alternatives: Collection[Any]) -> None:
        """The JSON object contains one of `alternatives`, each by the index that knows what is in it."""
        if alternatives:
            contained = " OR ".join([f"{column} @> %s"] * len(alternatives))
            self.add(f"({contained})", *map(Jsonb, alternatives))

    def words(self, text: str | None) -> None:
        """Each word of the text is the beginning of a word of the row; a text without any finds nothing."""
        if not (text or "").strip():
            return
        words = words_of(text)
        if words:
            self.add("words @@ %s::tsquery", " & ".join(f"'{word}':*" for word in words))
        else:
            self.add("false")


def lexemes(*texts: str | None) -> str:
    """The words of texts, as their row keeps them. They have no character that a tsvector's text would need escaped."""
    return " ".join(f"'{word}'" for word in words_of(*texts))
