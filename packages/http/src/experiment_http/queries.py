"""Query strings: parsed strictly into structs; a parameter that an operation does not know is refused."""

import re
import types
import typing
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from attrs import frozen
from msgspec import Struct

from experiment_domain.kernel.errors import Invalid
from experiment_http.problems import Malformed
from experiment_http.structs import converted

MOST = 200
"""The most parameters of one query."""
PREFIXED = {"param": "param."}
"""Fields that take parameters of many names, and what these begin with."""
_DECIMAL = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?")
Pairs = list[tuple[str, str]]
Q = TypeVar("Q", bound=Struct)


@frozen
class Field:
    """How the text of one parameter becomes a value."""

    repeats: bool
    is_number: bool
    is_decimal: bool = False


def pairs_of(query_string: bytes) -> Pairs:
    """Names and values as they were sent. Raises `Malformed`, or `Invalid` where one holds a NUL."""
    if not query_string:
        return []
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST,
        )
    except ValueError:  # includes what is not ASCII or not UTF-8
        raise Malformed(
            "malformed_query", f"The query must be at most {MOST} times name=value, in percent-encoded UTF-8."
        ) from None
    for name, value in pairs:
        if "\0" in name or "\0" in value:
            raise Invalid.at(name.replace("\0", "") or "query", "must not contain the character U+0000")
    return pairs


def parsed(pairs: Pairs, kind: type[Q]) -> Q:
    """The query as a struct. Raises `Invalid`, naming the parameter."""
    fields = fields_of(kind)
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in fields and name not in PREFIXED:
            field = fields[name]
            value = _number(text) if field.is_number else _decimal(text) if field.is_decimal else text
            if field.repeats:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise Invalid.at(name, "must not be repeated")
            else:
                values[name] = value
        else:
            _add_prefixed(name, text, fields, values)
    return converted(values, kind, "query")


def nothing_in(pairs: Pairs) -> None:
    """Refuse any parameter."""
    if pairs:
        raise Invalid.at(pairs[0][0] or "query", "is unknown")


def _add_prefixed(name: str, text: str, fields: dict[str, Field], values: dict[str, Any]) -> None:
    for field, prefix in PREFIXED.items():
        if field in fields and name.startswith(prefix) and len(name) > len(prefix):
            values.setdefault(field, []).append((name[len(prefix) :], text))
            return
    raise Invalid.at(name or "query", "is unknown")


@lru_cache
def fields_of(kind: type[Struct]) -> dict[str, Field]:
    """The parameters of a query struct."""
    found: dict[str, Field] = {}
    for field in msgspec.structs.fields(kind):
        alternatives = _alternatives(field.type)
        found[field.encode_name] = Field(
            repeats=any(typing.get_origin(kind) is tuple for kind in alternatives),
            is_number=any(kind is int for kind in alternatives),
            is_decimal=any(kind is float for kind in alternatives),
        )
    for name in PREFIXED:
        if name in found:
            found[name] = Field(repeats=True, is_number=False)
    return found


def _alternatives(kind: Any) -> list[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        return _alternatives(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [found for part in typing.get_args(kind) for found in _alternatives(part)]
    return [kind]


def _decimal(text: str) -> float | str:
    return float(text) if _DECIMAL.fullmatch(text) else text


def _number(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else text
