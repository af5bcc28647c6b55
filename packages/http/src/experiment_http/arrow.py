"""Batches in Arrow's IPC stream format: as much of it as a batch of readings needs, read without trusting a byte.

The format is that of https://arrow.apache.org/docs/format/Columnar.html (metadata versions 4 and 5), its metadata are
FlatBuffers. What native readers do with a hostile stream is theirs to know; here every offset is checked before it is
followed, and nothing is allocated by a number that the stream merely claims.
"""

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn
from uuid import UUID

from attrs import define, field, frozen

from experiment_domain.kernel.errors import Invalid
from experiment_domain.telemetry.batches import (
    BATCH_ID_LENGTH,
    DEFAULT_SIGNAL,
    READINGS,
    SIGNAL_LENGTH,
    SIGNALS,
    Batch,
    Column,
)
from experiment_http.bodies import Buffer
from experiment_http.columns import SentColumn
from experiment_http.problems import Malformed, TooLarge

MESSAGES = 1_000
"""The most messages of one stream: empty ones would cost time and never fill it."""
_CONTINUES = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3
_INT, _FLOAT, _UTF8, _TIMESTAMP, _LARGE_UTF8 = 2, 3, 5, 10, 20
_DOUBLE, _MICROSECOND = 2, 2
_INTEGERS = {(8, True): "b", (8, False): "B", (16, True): "h", (16, False): "H", (32, True): "i", (32, False): "I"}
_INTEGERS |= {(64, True): "q", (64, False): "Q"}


def batch_from_arrow(body: Buffer) -> Batch:
    """The batch that a stream is. Raises `Malformed`, `Invalid` or `TooLarge`."""
    stream = _Stream()
    for header, content in _messages(memoryview(body)):
        stream.take(header, content)
    return stream.batch()


def _refuse(detail: str) -> NoReturn:
    raise Malformed("malformed_body", f"The body is not an Arrow stream that is read here: {detail}.")


@frozen
class _Table:
    """A table of a FlatBuffer, by its place; every access is checked."""

    data: memoryview
    at: int

    @classmethod
    def root(cls, data: memoryview) -> "_Table":
        return cls(data, _number(data, 0, 4))

    def place(self, slot: int) -> int | None:
        """Where a field of the table stands, None where it has its default."""
        vtable = self.at - _number(self.data, self.at, 4, signed=True)
        if 4 + 2 * slot >= _number(self.data, vtable, 2):
            return None
        offset = _number(self.data, vtable + 4 + 2 * slot, 2)
        return self.at + offset if offset else None

    def integer(self, slot: int, size: int, default: int = 0) -> int:
        place = self.place(slot)
        return default if place is None else _number(self.data, place, size, signed=size > 1)

    def table(self, slot: int) -> "_Table | None":
        place = self._followed(slot)
        return None if place is None else _Table(self.data, place)

    def text(self, slot: int) -> str:
        place = self._followed(slot)
        if place is None:
            return ""
        length = _number(self.data, place, 4)
        return _text(_part(self.data, place + 4, length))

    def tables(self, slot: int, most: int) -> "list[_Table]":
        """A vector of tables."""
        start, count = self._vector(slot, 4)
        if count > most:
            _refuse(f"it has more than {most} entries in a list of its metadata")
        places = range(start, start + 4 * count, 4)
        return [_Table(self.data, place + _number(self.data, place, 4)) for place in places]

    def pairs(self, slot: int, most: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        start, count = self._vector(slot, 16)
        if count > most:
            _refuse(f"it has more than {most} entries in a list of its metadata")
        places = range(start, start + 16 * count, 16)
        return [
            (_number(self.data, place, 8, signed=True), _number(self.data, place + 8, 8, signed=True))
            for place in places
        ]

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        place = self._followed(slot)
        if place is None:
            return 0, 0
        count = _number(self.data, place, 4)
        _part(self.data, place + 4, size * count)
        return place + 4, count

    def _followed(self, slot: int) -> int | None:
        place = self.place(slot)
        return None if place is None else place + _number(self.data, place, 4)


def _part(data: memoryview, start: int, length: int) -> memoryview:
    if start < 0 or length < 0 or start + length > len(data):
        _refuse("it points outside of itself")
    return data[start : start + length]


def _number(data: memoryview, start: int, size: int, *, signed: bool = False) -> int:
    return int.from_bytes(_part(data, start, size), "little", signed=signed)


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        _refuse("a text in it is not UTF-8")


def _messages(data: memoryview) -> Iterator[tuple[_Table, memoryview]]:
    """The messages: metadata and content of each. The stream must say itself where it ends."""
    at = 0
    for _ in range(MESSAGES):
        if at == len(data):
            _refuse("it does not say that it has ended")
        if _number(data, at, 4) != _CONTINUES:
            _refuse("a message does not begin as one")
        length = _number(data, at + 4, 4)
        at += 8
        if length == 0:
            if at != len(data):
                _refuse("something follows its end")
            return
        message = _Table.root(_part(data, at, length))
        at += length
        content = _part(data, at, message.integer(3, 8))
        at += len(content)
        yield message, content
    _refuse(f"it has more than {MESSAGES:,} messages")


@frozen(kw_only=True)
class _Field:
    """A column of the schema: the type code of its values in `array`, or of its offsets where it holds texts."""

    name: str
    code: str
    is_text: bool = False
    dictionary: int | None = None
    index_code: str = "i"

    @property
    def buffers(self) -> int:
        """How many buffers a part of the column has: which are null, offsets of texts, and values."""
        return 3 if self.is_text and self.dictionary is None else 2


@define
class _Stream:
    """What has been read of a stream so far."""

    fields: list[_Field] = field(factory=list[_Field])
    metadata: Mapping[str, str] = field(factory=dict[str, str])
    timestamps: "array[int]" = field(factory=lambda: array("q"))
    values: "array[float]" = field(factory=lambda: array("d"))
    signals: list[str] = field(factory=list[str])
    dictionaries: dict[int, list[str]] = field(factory=dict[int, list[str]])
    has_schema: bool = False

    def take(self, message: _Table, content: memoryview) -> None:
        """Take the next message."""
        if message.integer(0, 2) not in (3, 4):
            _refuse("its metadata are of another version")
        kind, header = message.integer(1, 1), message.table(2)
        if header is None or (kind == _SCHEMA) is self.has_schema:
            _refuse("it must have one schema, before everything else")
        if kind == _SCHEMA:
            self._take_schema(header)
        elif kind == _DICTIONARY:
            self._take_dictionary(header, content)
        elif kind == _RECORDS:
            self._take_records(header, content)
        else:
            _refuse("it has a message that is neither schema, nor dictionary, nor record batch")

    def batch(self) -> Batch:
        """All of it as a batch."""
        if not self.has_schema:
            _refuse("it has no schema")
        return Batch(
            columns=self._columns(),
            capture_session_id=_session_id(self.metadata.get("capture_session_id")),
            batch_id=self._batch_id(),
        )

    def _take_schema(self, schema: _Table) -> None:
        if schema.integer(0, 2) != 0:
            _refuse("it is big-endian")
        for pair in schema.tables(2, 100):
            name = pair.text(0)
            if name in self.metadata:
                _refuse(f"its metadata name {name[:100]!r} twice")
            self.metadata = {**self.metadata, name: pair.text(1)}
        self.fields = [_field_of(described) for described in schema.tables(1, 3)]
        names = [one.name for one in self.fields]
        for name in ("timestamp", "value"):
            if name not in names:
                raise Invalid.at(name, "is required")
        if len(set(names)) != len(names):
            raise Invalid.at("schema", "must not have two columns of one name")
        self.has_schema = True

    def _take_dictionary(self, header: _Table, content: memoryview) -> None:
        number, data = header.integer(0, 8), header.table(1)
        owner = next((one for one in self.fields if one.dictionary == number), None)
        if owner is None or data is None:
            _refuse("it has a dictionary that no column refers to")
        held = self.dictionaries.get(number, []) if header.integer(2, 1) else []
        length, parts = _parts_of(data, content, [3], SIGNALS - len(held))
        self.dictionaries[number] = [*held, *_texts(parts[0], owner.code, length)]

    def _take_records(self, header: _Table, content: memoryview) -> None:
        room = READINGS - len(self.timestamps)
        length, parts = _parts_of(header, content, [one.buffers for one in self.fields], room)
        for described, buffers in zip(self.fields, parts, strict=True):
            if described.name == "timestamp":
                self.timestamps += _values(buffers[1], "q", length)
            elif described.name == "value":
                self.values += _values(buffers[1], "d", length)
            elif described.dictionary is None:
                self.signals += _texts(buffers, described.code, length)
            elif length:
                known = self.dictionaries.get(described.dictionary, [])
                places = _values(buffers[1], described.index_code, length)
                if min(places) < 0 or max(places) >= len(known):
                    _refuse("a signal is not in the dictionary")
                self.signals += [known[place] for place in places]

    def _columns(self) -> list[Column]:
        if len(self.fields) == 2:
            return [SentColumn(DEFAULT_SIGNAL, self.timestamps, self.values)]
        places: dict[str, list[int]] = {}
        for place, signal in enumerate(self.signals):
            places.setdefault(signal, []).append(place)
        if len(places) == 1:
            return [SentColumn(self.signals[0], self.timestamps, self.values)]
        return [
            SentColumn(
                signal,
                array("q", [self.timestamps[place] for place in held]),
                array("d", [self.values[place] for place in held]),
                held,
            )
            for signal, held in places.items()
        ]

    def _batch_id(self) -> str | None:
        batch_id = self.metadata.get("batch_id")
        if batch_id is not None and len(batch_id) > BATCH_ID_LENGTH:
            raise Invalid.at("batch_id", f"must have at most {BATCH_ID_LENGTH} characters")
        return batch_id


def _field_of(described: _Table) -> _Field:
    name, kind, of = described.text(0), described.integer(2, 1), described.table(3)
    if of is None:
        _refuse("a column has no type")
    encoding = described.table(4)
    if name == "signal":
        if kind not in (_UTF8, _LARGE_UTF8):
            raise Invalid.at(name, "must be of type utf8 or large_utf8, or a dictionary of one of them")
        code = "i" if kind == _UTF8 else "q"
        if encoding is None:
            return _Field(name=name, code=code, is_text=True)
        index = encoding.table(1)
        width = (32, True) if index is None else (index.integer(0, 4), bool(index.integer(1, 1)))
        if width not in _INTEGERS:
            _refuse("the indexes of a dictionary are no integers")
        number = encoding.integer(0, 8)
        return _Field(name=name, code=code, is_text=True, dictionary=number, index_code=_INTEGERS[width])
    if encoding is not None:
        raise Invalid.at(name[:SIGNAL_LENGTH], "must not be a dictionary")
    if name == "value":
        if (kind, of.integer(0, 2)) != (_FLOAT, _DOUBLE):
            raise Invalid.at(name, "must be of type float64")
        return _Field(name=name, code="d")
    if name == "timestamp":
        is_moment = kind == _TIMESTAMP and of.integer(0, 2) == _MICROSECOND and of.text(1) != ""
        is_number = kind == _INT and (of.integer(0, 4), bool(of.integer(1, 1))) == (64, True)
        if not is_moment and not is_number:
            raise Invalid.at(name, "must be of type timestamp[us] with a time zone, or int64")
        return _Field(name=name, code="q")
    raise Invalid.at(name[:SIGNAL_LENGTH] or "schema", "is unknown: the columns are timestamp, value and signal")


def _parts_of(
    header: _Table, content: memoryview, counts: Sequence[int], room: int
) -> tuple[int, list[list[memoryview]]]:
    """How many rows a record batch has, and the buffers of each of its columns."""
    length = header.integer(0, 8)
    if length < 0:
        _refuse("a record batch has fewer than no rows")
    if length > room:
        raise TooLarge(
            "too_many_readings", f"A batch has at most {READINGS:,} readings, and a dictionary {SIGNALS} signals."
        )
    if header.place(3) is not None:
        raise Invalid.at("body", "must not have compressed buffers: it can be packed as a whole, by Content-Encoding")
    nodes = header.pairs(1, len(counts))
    buffers = header.pairs(2, sum(counts))
    if len(nodes) != len(counts) or len(buffers) != sum(counts):
        _refuse("a record batch does not have the columns of the schema")
    for rows, nulls in nodes:
        if rows != length:
            _refuse("the columns of a record batch are of different lengths")
        if nulls:
            raise Invalid.at("readings", "must not hold nulls")
    remaining = iter([_part(content, start, size) for start, size in buffers])
    return length, [[next(remaining) for _ in range(count)] for count in counts]


def _values(buffer: memoryview, code: str, length: int) -> "array[Any]":
    values: array[Any] = array(code)
    values.frombytes(_part(buffer, 0, length * values.itemsize))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _texts(buffers: Sequence[memoryview], code: str, length: int) -> Iterator[str]:
    if not length:
        return
    offsets = _values(buffers[1], code, length + 1)
    known: dict[bytes, str] = {}
    for start, end in pairwise(offsets):
        if end - start > 4 * SIGNAL_LENGTH:
            raise Invalid.at("signal", f"must have at most {SIGNAL_LENGTH} characters")
        written = bytes(_part(buffers[2], start, end - start))
        text = known.get(written)
        if text is None:
            text = known[written] = _text(memoryview(written))
        yield text


def _session_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise Invalid.at("capture_session_id", "must be a UUID") from None
