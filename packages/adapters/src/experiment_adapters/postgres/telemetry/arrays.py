"""Arrays in PostgreSQL's binary format, those of timestamps and floats made and read by NumPy in one go.

The format is that of `array_send` in PostgreSQL's source (src/backend/utils/adt/arrayfuncs.c): dimensions, a flag
for nulls, the element type, then per dimension its length and lower bound, then per element its length and bytes,
all big-endian. A timestamptz is microseconds since 2000-01-01 UTC.

Columns of many rows come packed: as the bytes of one row after the other, in the binary format of a type that has no
header. A point is two floats, a line segment four (`point_send` and `lseg_send` in src/backend/utils/adt/geo_ops.c).
"""

from array import array
from collections.abc import Iterator, Sequence
from datetime import datetime
from struct import Struct
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from experiment_domain.telemetry.batches import micros

FLOAT8, FLOAT8_ARRAY = 701, 1022
TIMESTAMPTZ, TIMESTAMPTZ_ARRAY = 1184, 1185
_BOOLEAN, _BYTEA, _BIGINT, _TEXT, _UUID = 16, 17, 20, 25, 2950
EPOCH = 946_684_800_000_000
"""2000-01-01 in microseconds since the Unix epoch."""

_HEADER = 20
_FIVE, _LENGTH = Struct(">5i"), Struct(">i")
_NULL = _LENGTH.pack(-1)
_FLOATS = np.dtype([("length", ">i4"), ("value", ">f8")])
_INTEGERS = np.dtype([("length", ">i4"), ("value", ">i8")])

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class FloatArray(bytes):
    """A `float8[]` without nulls, ready to be sent."""

    __slots__ = ()

    @classmethod
    def of(cls, values: "array[float] | Floats") -> "FloatArray":
        """The values as they are, NaN included."""
        return cls(_packed(np.asarray(values, np.float64), _FLOATS, FLOAT8))

    @classmethod
    def of_columns(cls, rows: Floats) -> "list[FloatArray]":
        """An array of each column of a table. Of short ones, making each by itself takes longest."""
        table = rows.T
        packed = np.empty(table.shape, _FLOATS)
        packed["length"] = 8
        packed["value"] = table
        header = _FIVE.pack(1, 0, FLOAT8, len(rows), 1)
        return [cls(header + column.tobytes()) for column in packed]


class TimestampArray(bytes):
    """A `timestamptz[]` without nulls, ready to be sent."""

    __slots__ = ()

    @classmethod
    def of(cls, timestamps: "array[int] | Integers") -> "TimestampArray":
        """Microseconds since the Unix epoch."""
        return cls(_packed(np.asarray(timestamps, np.int64) - EPOCH, _INTEGERS, TIMESTAMPTZ))


class PackedArray(bytes):
    """A short array of anything, nulls included, ready to be sent. The statement says of which type: `%s::uuid[]`.

    Of the few items that lists have, the driver would look up for each how it is sent.
    """

    __slots__ = ()

    @classmethod
    def of_uuids(cls, values: Sequence[UUID | None]) -> "PackedArray":
        """A `uuid[]`."""
        return cls._of(_UUID, [None if value is None else value.bytes for value in values])

    @classmethod
    def of_texts(cls, values: Sequence[str]) -> "PackedArray":
        """A `text[]`."""
        return cls._of(_TEXT, [value.encode() for value in values])

    @classmethod
    def of_bytes(cls, values: Sequence[bytes]) -> "PackedArray":
        """A `bytea[]`."""
        return cls._of(_BYTEA, values)

    @classmethod
    def of_booleans(cls, values: Sequence[bool]) -> "PackedArray":
        """A `boolean[]`."""
        return cls._of(_BOOLEAN, [b"\1" if value else b"\0" for value in values])

    @classmethod
    def of_integers(cls, values: Sequence[int]) -> "PackedArray":
        """A `bigint[]`."""
        return cls._of(_BIGINT, [value.to_bytes(8, signed=True) for value in values])

    @classmethod
    def of_moments(cls, values: Sequence[datetime | None]) -> "PackedArray":
        """A `timestamptz[]`."""
        stamps = [None if value is None else (micros(value) - EPOCH).to_bytes(8, signed=True) for value in values]
        return cls._of(TIMESTAMPTZ, stamps)

    @classmethod
    def _of(cls, oid: int, items: Sequence[bytes | None]) -> "PackedArray":
        parts = [_FIVE.pack(1, None in items, oid, len(items), 1)]
        for item in items:
            if item is None:
                parts.append(_NULL)
            else:
                parts += (_LENGTH.pack(len(item)), item)
        return cls(b"".join(parts))


def twos(one: str, two: str) -> str:
    """The aggregate of a float each of two expressions, packed."""
    return _packing("point_send", f"point({one}, {two})")


def fours(one: str, two: str, three: str, four: str) -> str:
    """The aggregate of a float each of four expressions, packed: telling each by itself takes twice as long."""
    return _packing("lseg_send", f"lseg(point({one}, {two}), point({three}, {four}))")


def moments(moment: str) -> str:
    """The aggregate of a timestamptz, packed."""
    return _packing("timestamptz_send", moment)


def _packing(send: str, value: str) -> str:
    # An array would be put together first, and then be sent element by element. No value may be null: it would be
    # passed over, and what follows would move up.
    return f"string_agg({send}({value}), NULL)"


def floats_of(packed: bytes, width: int) -> Floats:
    """The columns of packed floats, `width` of each row: as they came, to be copied only once, into where they go."""
    return np.frombuffer(packed, ">f8").reshape(-1, width).T


def moments_of(packed: bytes) -> Integers:
    """Packed moments, in microseconds since the Unix epoch."""
    return np.frombuffer(packed, ">i8").astype(np.int64) + EPOCH


def arrays_of(packed: bytes) -> Iterator[Floats]:
    """Arrays of floats that were sent one after the other: none of them empty, and no element null."""
    place = 0
    while place < len(packed):
        _, _, _, length, _ = _FIVE.unpack_from(packed, place)
        place += _HEADER
        yield np.frombuffer(packed, _FLOATS, length, place)["value"]
        place += length * _FLOATS.itemsize


def shortened(timestamps: Integers) -> Integers:
    """What is kept of the timestamps of a chunk: the first two of more, where all are at the same distance."""
    if len(timestamps) > 2 and (np.diff(timestamps) == timestamps[1] - timestamps[0]).all():
        return timestamps[:2]
    return timestamps


def restored(kept: Integers, count: int) -> Integers:
    """All `count` timestamps of a chunk, of which these are kept."""
    return kept if len(kept) == count else kept[0] + np.arange(count) * (kept[1] - kept[0])


def _packed(values: NDArray[Any], element: np.dtype[Any], oid: int) -> bytes:
    packed = np.empty(len(values), element)
    packed["length"] = 8
    packed["value"] = values
    return _FIVE.pack(1, 0, oid, len(values), 1) + packed.tobytes()


def _elements(data: Buffer, element: np.dtype[Any]) -> NDArray[Any]:
    # An empty array has no dimension, and so a shorter header than all others.
    return np.frombuffer(memoryview(data)[_HEADER:], element)["value"]


class _FloatArrayDumper(Dumper):
    format = Format.BINARY
    oid = FLOAT8_ARRAY

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _TimestampArrayDumper(Dumper):
    format = Format.BINARY
    oid = TIMESTAMPTZ_ARRAY

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _PackedArrayDumper(Dumper):
    format = Format.BINARY
    oid = 0  # as the statement says

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _FloatArrayLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Floats:
        return _elements(data, _FLOATS).astype(np.float64)


class _TimestampArrayLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Integers:
        return _elements(data, _INTEGERS).astype(np.int64) + EPOCH


def register(connection: AsyncConnection[Any]) -> None:
    """Let a connection send and read these arrays. Read with nulls replaced: `array_replace(…, NULL, 'NaN')`."""
    adapters = connection.adapters
    adapters.register_dumper(FloatArray, _FloatArrayDumper)
    adapters.register_dumper(TimestampArray, _TimestampArrayDumper)
    adapters.register_dumper(PackedArray, _PackedArrayDumper)
    adapters.register_loader(FLOAT8_ARRAY, _FloatArrayLoader)
    adapters.register_loader(TIMESTAMPTZ_ARRAY, _TimestampArrayLoader)
