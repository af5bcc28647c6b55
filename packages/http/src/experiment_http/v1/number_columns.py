"""Messages in JSON whose columns are numbers alone: read without making an object of each number.

Of a column of a thousand readings two thousand objects would be made, only to be packed into two arrays.
"""

from array import array
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from simdjson import Array, Object, Parser

from experiment_domain.telemetry.batches import DEFAULT_SIGNAL, READINGS
from experiment_http.bodies import ORDINARY, Buffer
from experiment_http.columns import SentColumn

LONG = 1_000
"""Bytes for each array of a body from which it is worth it: smaller ones are decoded faster the other way."""

LEAST_ARRAYS = 3
"""That of the columns, and the two of one column."""

M = TypeVar("M", bound=Struct)


def number_columns(body: Buffer, message: type[M]) -> tuple[M, Sequence[SentColumn]] | None:
    """What a body says beside its columns, as a message without any, and the columns.

    None of every other body, and of one with which anything is the matter: whoever decodes it whole says what.
    """
    # What is made of a body while it is read takes several times its room.
    if not LEAST_ARRAYS * LONG < len(body) <= ORDINARY or not body.startswith(b"{") or b"\\" in body:
        return None
    most = len(body) // LONG
    arrays = _count(body, b"[", most)
    if not LEAST_ARRAYS <= arrays <= most:
        return None
    try:
        return _read(Parser().parse(body), body, arrays, message)
    except (ValueError, TypeError, LookupError, RuntimeError):  # whichever simdjson takes; msgspec's are ValueErrors
        return None


def _read(sent: Any, body: Buffer, arrays: int, message: type[M]) -> tuple[M, Sequence[SentColumn]] | None:
    columns: list[SentColumn] = []
    strings = 1  # the name of the columns
    for column in _of_kind(Array, sent["columns"]):
        names = set(_of_kind(Object, column))
        strings += len(names)
        signal = DEFAULT_SIGNAL
        if "signal" in names:
            signal = _of_kind(str, column["signal"])
            strings += 1
        if names - {"signal"} != {"timestamps", "values"}:
            return None
        columns.append(SentColumn(signal, _array("q", column["timestamps"]), _array("d", column["values"])))
    others = [name for name in sent if name != "columns"]
    if len(others) >= len(message.__struct_fields__):  # each is looked for among all of them
        return None
    beside = {name: sent[name] for name in others}
    strings += sum(2 if isinstance(value, str) else 1 for value in beside.values())
    # Arrays within arrays are read as if they were none; and a name that occurs twice is a string too many.
    if arrays != 1 + 2 * len(columns) or _count(body, b'"', 2 * strings) != 2 * strings:
        return None
    if sum(map(len, columns)) > READINGS or len({column.signal for column in columns}) < len(columns):
        return None
    if any(len(column.timestamps) != len(column.values) for column in columns):
        return None
    return msgspec.convert({**beside, "columns": []}, message), columns


def _count(body: Buffer, character: bytes, most: int) -> int:
    """How often it occurs, or that it does more often than `most`.

    Found one by one, as few as there are among numbers: `bytes.count` of one byte takes several times as long.
    """
    count, at = 0, body.find(character)
    while at >= 0 and count <= most:
        count += 1
        at = body.find(character, at + 1)
    return count


def _array(kind: Literal["q", "d"], numbers: Any) -> "array[Any]":
    """Raises `TypeError` or `ValueError` where some are of another kind, or too large for it."""
    items = array(kind)
    items.frombytes(_of_kind(Array, numbers).as_buffer(of_type="i" if kind == "q" else "d"))
    return items


def _of_kind(kind: type[Any], value: Any) -> Any:
    """The value, if it is of this kind. Raises `TypeError`."""
    if not isinstance(value, kind):
        raise TypeError
    return value
