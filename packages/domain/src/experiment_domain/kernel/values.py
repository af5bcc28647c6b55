"""What text, tags and JSON values the domain accepts. Paths in refusals are those of the request's fields."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from experiment_domain.kernel.errors import Invalid

NAME_LENGTH = 200
TEXT_LENGTH = 10_000
TAG_LENGTH = 100
TAGS = 100
JSON_DEPTH = 20
JSON_SIZE = 65_536
JSON_INTEGER = 2**63
WORD_LENGTH = 100

_WORD = re.compile(r"[^\W_]+")


def same(one: object, other: object) -> bool:
    """Whether two values are the same to a person: equal, and of one kind. To Python, 1 and True are equal."""
    alike = type(one) is type(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        ones, others = cast("Mapping[Any, Any]", one), cast("Mapping[Any, Any]", other)
        return ones.keys() == others.keys() and all(same(value, others[key]) for key, value in ones.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        items, rest = cast("Sequence[Any]", one), cast("Sequence[Any]", other)
        return len(items) == len(rest) and all(map(same, items, rest))
    return alike and one == other


def told(value: Any) -> Any:
    """A value as it is told in JSON: times and ids as texts, sets and tuples as lists, whatever else as it is."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, tuple):
        return list(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def checked_text(path: str, value: str, *, longest: int = TEXT_LENGTH, shortest: int = 0, lines: bool = True) -> str:
    """Text of `shortest` to `longest` characters; line breaks and tabs only where `lines` are allowed."""
    if not shortest <= len(value) <= longest:
        raise Invalid.at(path, f"must have {shortest} to {longest:,} characters, has {len(value):,}")
    for character in value:
        if (character < " " or "\x7f" <= character <= "\x9f") and not (lines and character in "\n\r\t"):
            raise Invalid.at(path, f"must not contain the control character U+{ord(character):04X}")
        if "\ud800" <= character <= "\udfff":
            raise Invalid.at(path, "must not contain a lone surrogate")
    return value


def checked_name(path: str, value: str, *, longest: int = NAME_LENGTH) -> str:
    """A name: one line, not blank, without white space at its ends."""
    checked_text(path, value, longest=longest, shortest=1, lines=False)
    if value.strip() != value:
        raise Invalid.at(path, "must not begin or end with white space")
    return value


def checked_names(path: str, values: Iterable[str], *, most: int = TAGS) -> tuple[str, ...]:
    """A set of short names in the order first given, such as tags or participants."""
    names = tuple(dict.fromkeys(values))
    if len(names) > most:
        raise Invalid.at(path, f"must have at most {most} entries, has {len(names)}")
    for index, name in enumerate(names):
        checked_name(f"{path}[{index}]", name, longest=TAG_LENGTH)
    return names


def checked_ids(path: str, values: Sequence[UUID], *, most: int) -> Sequence[UUID]:
    """A list of ids: not empty, none twice."""
    if not 1 <= len(values) <= most:
        raise Invalid.at(path, f"must have 1 to {most} entries, has {len(values):,}")
    first: dict[UUID, int] = {}
    for index, value in enumerate(values):
        if first.setdefault(value, index) != index:
            raise Invalid.at(f"{path}[{index}]", f"is the same as {path}[{first[value]}]")
    return values


def words_of(*texts: str | None) -> tuple[str, ...]:
    """The distinct words of texts, as they are searched for: letters and digits, however they are written.

    Of a longer word, the first `WORD_LENGTH` characters count.
    """
    text = unicodedata.normalize("NFKC", " ".join(filter(None, texts)))
    # Folding case can undo the normal form. A mark that no letter has taken up would part a word in two.
    text = unicodedata.normalize("NFKC", text.casefold())
    if not text.isascii():
        text = "".join(character for character in text if not unicodedata.combining(character))
    return tuple(dict.fromkeys(word[:WORD_LENGTH] for word in _WORD.findall(text)))


def checked_seconds(path: str, value: float | None, *, longest: float = 366 * 86_400.0) -> float | None:
    """A duration in seconds, more than none."""
    if value is not None and not 0 < value <= longest:
        raise Invalid.at(path, f"must be more than 0 and at most {longest:,.0f} seconds")
    return value


def checked_json(path: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object that every adapter can hold: bounded depth and size, finite numbers, sane text."""
    budget = [JSON_SIZE]
    _check_json(path, value, JSON_DEPTH, budget)
    return dict(value)


def _check_json(path: str, value: Any, depth: int, budget: list[int]) -> None:
    budget[0] -= len(value) + 2 if isinstance(value, str) else 4
    field = path.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0]
    if budget[0] < 0:
        raise Invalid.at(field, f"must not be larger than {JSON_SIZE:,} characters")
    if depth < 0:
        raise Invalid.at(field, f"must not be nested deeper than {JSON_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        checked_text(path, value, longest=JSON_SIZE)
    elif isinstance(value, int):
        if not -JSON_INTEGER <= value < JSON_INTEGER:
            raise Invalid.at(path, "must be an integer of 64 bits or a float")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid.at(path, "must be a finite number")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str):
                raise Invalid.at(path, "must have text as keys")
            checked_text(path, key, longest=NAME_LENGTH, shortest=1, lines=False)
            budget[0] -= len(key)
            _check_json(f"{path}.{key}", item, depth - 1, budget)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            _check_json(f"{path}[{index}]", item, depth - 1, budget)
    else:
        raise Invalid.at(path, "must be a JSON value")
