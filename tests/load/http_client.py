"""A lean HTTP/1.1 client on asyncio: one request at a time per kept connection, and nothing is retried."""

import asyncio
import json
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE)
TIMEOUT = 30.0


class ConnectionBroken(Exception):  # noqa: N818 - what happened, in the words of the report
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """One kept connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionBroken(str(exc or "closed by the server")))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._parse()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a whole request."""
        if not self.is_open or self._transport is None:
            raise ConnectionBroken("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._answer, TIMEOUT)
        except TimeoutError:
            self.close()
            raise

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def _parse(self) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # an answer to nothing
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head, rest = bytes(self._buffer[:end]), self._buffer[end + 4 :]
        status = int(head[9:12])
        if length := _LENGTH.search(head):
            if len(rest) < int(length[1]):
                return
            body = bytes(rest)
        elif _CHUNKED.search(head):
            unpacked = _unchunked(bytes(rest))
            if unpacked is None:
                return
            body = unpacked
        else:
            body = b""
        self._buffer.clear()
        if _CLOSE.search(head):
            self.close()
        self._answer.set_result((status, body))


def _unchunked(data: bytes) -> bytes | None:
    """The body, None while it is not whole."""
    body, at = bytearray(), 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return bytes(body) if data.endswith(b"\r\n\r\n") else None
        body += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
        if at > len(data):
            return None


class Pool:
    """Connections to one place: an idle one, or a new one, up to `most`."""

    def __init__(self, host: str, port: int, most: int) -> None:
        self.host = host
        self.port = port
        self._idle: deque[Connection] = deque()
        self._free = asyncio.Semaphore(most)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        async with self._free:
            while self._idle:
                connection = self._idle.pop()
                if connection.is_open:
                    break
            else:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
            try:
                return await connection.ask(request)
            finally:
                if connection.is_open:
                    self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Api:
    """Requests of one bearer, as bytes; and calls for what surrounds a measurement."""

    def __init__(self, pool: Pool, token: str) -> None:
        self._pool = pool
        self._head = f"Host: {pool.host}:{pool.port}\r\nAuthorization: Bearer {token}\r\n"

    def bearing(self, token: str) -> "Api":
        """The same with another token."""
        return Api(self._pool, token)

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
            lines += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        elif method != "GET":
            lines += "Content-Length: 0\r\n"
        return f"{method} /api/v1{path} HTTP/1.1\r\n{self._head}{lines}\r\n".encode() + content

    async def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        status, answer = await self._pool.ask(self.request(method, path, body, headers))
        if not 200 <= status < 300:
            raise AssertionError(f"{method} {path}: {status} {answer[:500].decode(errors='replace')}")
        return json.loads(answer) if answer else None

    async def items(self, path: str, most: int) -> list[Any]:
        """Up to `most` items of a list, page by page."""
        found: list[Any] = []
        cursor = ""
        sign = "&" if "?" in path else "?"
        while len(found) < most:
            page = await self.call("GET", f"{path}{sign}limit=500{cursor}")
            found += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        return found[:most]
