"""Bodies: read with a bound on their size, packed or not, and parsed strictly."""

import asyncio
import zlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from attrs import field, frozen
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
from litestar.types import Receive
from msgspec import Struct
from msgspec.structs import fields

from experiment_http import strict_json
from experiment_http.problems import Malformed, TooLarge, TooSlow, UnsupportedMediaType
from experiment_http.structs import converted

ORDINARY = 1 << 20
"""The most bytes of an ordinary body."""
MEMBERS = 1_000
"""The most gzip members or zstd frames of one body: empty ones would cost time and never fill it."""
STEP = 1 << 18
"""So many bytes are unpacked at a time."""
WINDOW_LOG = 23
"""The largest zstd window, 8 MiB, which RFC 8878 recommends to every decoder; all but the ultra levels fit."""

JSON = "application/json"
MESSAGE_PACK = "application/vnd.msgpack"
ARROW = "application/vnd.apache.arrow.stream"

S = TypeVar("S", bound=Struct)
Buffer = bytes | bytearray


@frozen(kw_only=True)
class BodyKind:
    """What an operation takes as its body: `schema` documents it, `decode` reads it in JSON, `others` in others."""

    schema: Any
    decode: Callable[["Buffer"], Any]
    others: Mapping[str, Callable[["Buffer"], Any]] = field(factory=dict[str, Callable[["Buffer"], Any]])
    required: bool = True
    limit: int = ORDINARY
    packed: bool = False

    def decoder(self, content_type: bytes) -> Callable[["Buffer"], Any]:
        """What reads a body of this type. Raises `UnsupportedMediaType`."""
        if content_type == b"application/json":
            return self.decode
        essence, *parameters = (part.strip().lower() for part in content_type.split(b";"))
        if essence == b"application/json":
            charsets = [part[8:].strip(b'"') for part in parameters if part.startswith(b"charset=")]
            if all(charset in (b"utf-8", b"utf8") for charset in charsets):
                return self.decode
        elif other := self.others.get(essence.decode("latin-1")):
            return other
        types = " or ".join([f"{JSON}, in UTF-8", *self.others])
        raise UnsupportedMediaType(f"The body must be of type {types}.")


def json_body(struct: type[S], *, required: bool = True) -> BodyKind:
    """A body of strict JSON that fits a request struct."""
    return BodyKind(schema=struct, decode=lambda body: converted(strict_json.parse(body), struct), required=required)


async def _anybody() -> None:
    """Let everybody in."""


async def read(
    receive: Receive,
    headers: Mapping[bytes, bytes],
    kind: BodyKind,
    timeout: float,  # noqa: ASYNC109 - TimeoutError becomes a refusal here
    let_in: Callable[[], Awaitable[None]] = _anybody,
) -> Buffer:
    """The unpacked body. `let_in` is asked before more than an ordinary one is unpacked, held for long, or parsed.

    Raises `TooLarge`, `TooSlow` where it is not whole within `timeout` seconds, `UnsupportedMediaType`, `Malformed`,
    and what `let_in` raises.
    """
    unpacker = _unpacker(headers.get(b"content-encoding"), kind)
    is_let_in = False

    async def take(chunk: bytes) -> None:
        nonlocal is_let_in
        unpacker.feed(chunk)
        if unpacker.held > ORDINARY and not is_let_in:
            await let_in()
            is_let_in = True
            unpacker.go_on()

    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 15 or int(length) > kind.limit):
        raise TooLarge.than(kind.limit)
    message: Any = await receive()
    if message["type"] == "http.request" and _is_whole(message, headers):
        await take(message.get("body", b""))
    else:
        try:
            async with asyncio.timeout(timeout):
                await _read_on(receive, message, take, kind.limit)
        except TimeoutError:
            raise TooSlow(timeout) from None
    body = unpacker.end()
    if body:
        kind.decoder(headers.get(b"content-type", b""))
    elif kind.required:
        raise Malformed("body_required", f"This operation needs a body{_least(kind.schema)}.")
    return body


def _is_whole(message: Any, headers: Mapping[bytes, bytes]) -> bool:
    """Whether nothing follows: of a body whose length is known the server need not be asked for its end."""
    if not message.get("more_body"):
        return True
    arrived = b"%d" % len(message.get("body", b""))
    return b"transfer-encoding" not in headers and headers.get(b"content-length") == arrived


def _least(schema: Any) -> str:
    """What a body has at least, where one struct says so."""
    if not (isinstance(schema, type) and issubclass(schema, Struct)):
        return ""
    names = [one.encode_name for one in fields(schema) if one.required]
    return f" with {', '.join(names)}" if names else ""


async def _read_on(receive: Receive, message: Any, take: Callable[[bytes], Awaitable[None]], limit: int) -> None:
    arrived = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Malformed("body_incomplete", "The caller went away before the body was whole.")
        chunk = message.get("body", b"")
        arrived += len(chunk)
        if arrived > limit:
            raise TooLarge.than(limit)
        await take(chunk)
        if not message.get("more_body"):
            return
        message = await receive()


def _unpacker(encoding: bytes | None, kind: BodyKind) -> "Unpacker":
    if encoding is None:
        return Plain(kind.limit)
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return Plain(kind.limit)
    if not kind.packed or name not in (b"gzip", b"zstd"):
        accepted = "gzip or zstd" if kind.packed else "no Content-Encoding"
        raise UnsupportedMediaType(f"This operation takes bodies with {accepted}.")
    return Gzip(kind.limit) if name == b"gzip" else Zstd(kind.limit)


class Unpacker(Protocol):
    """Takes a body as it arrives; what it holds never grows beyond a limit.

    Packed, a few bytes may be very many: no more than an ordinary body is unpacked before it is told to go on.
    """

    @property
    @abstractmethod
    def held(self) -> int:
        """How many bytes it holds."""

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take what has arrived. Raises `TooLarge`, or `Malformed` where it cannot be unpacked."""

    @abstractmethod
    def go_on(self) -> None:
        """Unpack what has been left. Raises as `feed` does."""

    @abstractmethod
    def end(self) -> Buffer:
        """The whole body. Raises `Malformed` where something is missing."""


class Plain(Unpacker):
    """A body that is not packed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def held(self) -> int:
        """All that has arrived."""
        return self._size

    def feed(self, data: bytes) -> None:
        """Keep what has arrived."""
        self._size += len(data)
        if self._size > self._limit:
            raise TooLarge.than(self._limit)
        self._chunks.append(data)

    def go_on(self) -> None:
        """Nothing has been left."""

    def end(self) -> Buffer:
        """The chunks as one."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


class Packed(Unpacker):
    """A body packed in one or more members, one after the other."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bound = min(ORDINARY, limit)  # until it is told to go on
        self._body = bytearray()
        self._left = b""  # of what has arrived, still packed
        self._members = 0
        self._open = False

    @property
    def held(self) -> int:
        """What has been unpacked."""
        return len(self._body)

    def feed(self, data: bytes) -> None:
        """Unpack what has arrived, step by step, and never further than one byte beyond the bound."""
        data = self._left + data
        while (data or self._is_pending()) and len(self._body) <= self._bound:
            if not self._open:
                self._members += 1
                if self._members > MEMBERS:
                    raise Malformed("malformed_encoding", f"The body is packed in more than {MEMBERS} members.")
                self._begin()
                self._open = True
            try:
                room = min(STEP, self._bound + 1 - len(self._body))
                unpacked, ended, data = self._unpack(data, room)
            except (zlib.error, ZstdError) as error:
                raise Malformed("malformed_encoding", f"The body cannot be unpacked: {error}.") from None
            self._open = not ended
            self._body += unpacked
        self._left = data
        if len(self._body) > self._limit:
            raise TooLarge.than(self._limit)

    def go_on(self) -> None:
        """Unpack what has been left, up to the limit."""
        self._bound = self._limit
        self.feed(b"")

    def end(self) -> Buffer:
        """What was unpacked."""
        if self._open:
            raise Malformed("malformed_encoding", "The packed body ends too early.")
        return self._body  # as it is: a copy would be as large again

    def _is_pending(self) -> bool:
        """Whether packed bytes that were taken are waiting for room."""
        return False

    @abstractmethod
    def _begin(self) -> None:
        """Begin a member."""

    @abstractmethod
    def _unpack(self, data: bytes, room: int) -> tuple[bytes, bool, bytes]:
        """At most `room` unpacked bytes, whether the member has ended, and the packed bytes after them."""


class Gzip(Packed):
    """RFC 1952."""

    def _begin(self) -> None:
        self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def _unpack(self, data: bytes, room: int) -> tuple[bytes, bool, bytes]:
        unpacked = self._member.decompress(data, room)
        return unpacked, self._member.eof, self._member.unused_data or self._member.unconsumed_tail


class Zstd(Packed):
    """RFC 8878."""

    def _begin(self) -> None:
        self._frame = ZstdDecompressor(options={DecompressionParameter.window_log_max: WINDOW_LOG})

    def _is_pending(self) -> bool:
        return self._open and not self._frame.needs_input

    def _unpack(self, data: bytes, room: int) -> tuple[bytes, bool, bytes]:
        unpacked = self._frame.decompress(data, room)
        return unpacked, self._frame.eof, self._frame.unused_data if self._frame.eof else b""
