"""Tables on their way out: columns as CSV or as an Arrow stream, part by part, of which one at a time is in memory."""

import asyncio
import csv
import io
from abc import abstractmethod
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import Any, Protocol

import nanoarrow
import numpy as np
from attrs import field, frozen
from litestar.types import Receive, Scope, Send
from msgspec import Struct
from nanoarrow.ipc import StreamWriter

from experiment_http import times
from experiment_http.answers import JSON, Form, View
from experiment_http.bodies import ARROW
from experiment_http.pieces import client_left, send_more

CSV = "text/csv"
KINDS = (JSON, CSV, ARROW)
"""The media types of a table, the usual one first."""

Part = Sequence["array[Any]"]
"""Rows that follow each other: a column each, all of one length."""


class Kind(StrEnum):
    """What the values of a column are."""

    TIME = "time"
    """Microseconds since the Unix epoch."""
    COUNT = "count"
    NUMBER = "number"
    """Floats, of which NaN stands for no value."""


@frozen(kw_only=True)
class Table:
    """The columns of a table, by name, and what an Arrow stream says of the whole of it."""

    columns: Mapping[str, Kind]
    facts: Mapping[str, str] = field(factory=dict[str, str])


class Writer(Protocol):
    """Writes a table: `begun`, then each part, then `ended`."""

    content_type: str

    @abstractmethod
    def begun(self) -> bytes:
        """What comes before the first part."""

    @abstractmethod
    def part(self, part: Part) -> bytes:
        """The rows of a part."""

    @abstractmethod
    def ended(self) -> bytes:
        """What comes after the last part."""


class CsvWriter(Writer):
    """RFC 4180 but for its line ends, which are plain; a column without a value is empty."""

    content_type = "text/csv; charset=utf-8; header=present"

    def __init__(self, table: Table) -> None:
        self._table = table

    def begun(self) -> bytes:
        """The names of the columns."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(self._table.columns)
        return line.getvalue().encode()

    def part(self, part: Part) -> bytes:
        """A line for each row."""
        texts = [_TEXTS[kind](column) for kind, column in zip(self._table.columns.values(), part, strict=True)]
        return "".join([f"{line}\n" for line in map(",".join, zip(*texts, strict=True))]).encode()

    def ended(self) -> bytes:
        """Nothing."""
        return b""


def _times(column: "array[int]") -> list[str]:
    return times.texts(column.tolist())


def _counts(column: "array[int]") -> list[str]:
    return list(map(str, column))


def _numbers(column: "array[float]") -> list[str]:
    # `repr` gives the shortest text that reads back as the same number; NaN stands for no value.
    return ["" if value != value else repr(value) for value in column]  # noqa: PLR0124


_TEXTS: Mapping[Kind, Callable[["array[Any]"], list[str]]] = {
    Kind.TIME: _times,
    Kind.COUNT: _counts,
    Kind.NUMBER: _numbers,
}


class ArrowWriter(Writer):
    """Arrow's IPC stream format: a record batch for each part, null for no value."""

    content_type = ARROW

    def __init__(self, table: Table) -> None:
        children = {name: _TYPES[kind] for name, kind in table.columns.items()}
        schema = nanoarrow.c_schema(nanoarrow.struct(children, nullable=False))
        self._schema = schema.modify(metadata=dict(table.facts))
        self._written = io.BytesIO()
        self._stream = StreamWriter.from_writable(self._written)

    def begun(self) -> bytes:
        """Nothing: the schema comes with the first part."""
        return b""

    def part(self, part: Part) -> bytes:
        """A record batch."""
        columns = [self._column(place, column) for place, column in enumerate(part)]
        rows = nanoarrow.c_array_from_buffers(self._schema, len(part[0]), [None], null_count=0, children=columns)
        self._stream.write_array(rows)
        return self._taken()

    def ended(self) -> bytes:
        """The mark that there is no more."""
        self._stream.close()
        return self._taken()

    def _column(self, place: int, column: "array[Any]") -> Any:
        valid, nulls = None, 0
        if column.typecode == "d":
            missing = np.isnan(np.frombuffer(column))
            nulls = int(np.count_nonzero(missing))
            valid = np.packbits(~missing, bitorder="little") if nulls else None
        return nanoarrow.c_array_from_buffers(self._schema.child(place), len(column), [valid, column], null_count=nulls)

    def _taken(self) -> bytes:
        written = self._written.getvalue()
        self._written.seek(0)
        self._written.truncate()
        return written


_TYPES: Mapping[Kind, Any] = {
    Kind.TIME: nanoarrow.timestamp("us", timezone="UTC", nullable=False),
    Kind.COUNT: nanoarrow.int64(nullable=False),
    Kind.NUMBER: nanoarrow.float64(),
}
_WRITERS: Mapping[str, Callable[[Table], Writer]] = {CSV: CsvWriter, ARROW: ArrowWriter}


async def nothing_more() -> AsyncGenerator[Part]:
    """The parts that follow where there are none."""
    return
    yield


@frozen(kw_only=True)
class TableStream:
    """A table as CSV or Arrow: `first` is there already, what follows is read as it is sent.

    An ASGI application of its own. `link` leads to the page that follows.
    """

    table: Table
    media_type: str
    first: Part
    rest: AsyncGenerator[Part] = field(factory=nothing_more)
    link: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the scope says nothing new
        """Send it, for as long as somebody is there to read it."""
        left = asyncio.ensure_future(client_left(receive))
        try:
            async with aclosing(self.rest):
                await self._send(send, left)
        finally:
            left.cancel()

    async def _send(self, send: Send, left: "asyncio.Future[None]") -> None:
        writer = _WRITERS[self.media_type](self.table)
        headers = [
            (b"content-type", writer.content_type.encode()),
            (b"cache-control", b"private, no-cache"),
            (b"vary", b"Accept"),
        ]
        if self.link is not None:
            headers.append((b"link", self.link.encode("latin-1")))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # What is there already goes out before more is read: of a HEAD request, nothing more is.
        await send_more(send, writer.begun() + writer.part(self.first))
        async for part in self.rest:
            if left.done():
                return
            await send_more(send, writer.part(part))
        await send({"type": "http.response.body", "body": writer.ended(), "more_body": False})


@frozen(kw_only=True)
class TableForm(Form[Any]):
    """A table as JSON, which may be one of several views, as CSV or as Arrow; the handler makes the answer itself."""

    of: Sequence[type[View]]
    media_types: Sequence[str] = KINDS

    def views(self) -> Sequence[type[Struct]]:
        """The views in JSON."""
        return self.of

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Those of the views in JSON."""
        schemas = [refer(view) for view in self.of]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def example(self) -> Any:
        """That of the first view in JSON."""
        return self.of[0].example
