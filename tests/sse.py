"""Server-sent events as a browser understands them, from the application itself."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from attrs import define, field, frozen

PATIENCE = 60.0
"""Seconds in which something must come; on a busy machine it may take a while."""


@frozen
class ServerEvent:
    """An event: its name, its data, and the id that a client comes again with afterwards."""

    name: str
    data: Any
    id: str | None


@define
class Parser:
    """Makes events of bytes (HTML standard, section 9.2.6), for lines that end in a line feed."""

    last_id: str | None = None
    retry: int | None = None
    comments: list[str] = field(factory=list[str])
    _rest: bytes = b""
    _name: str = ""
    _data: list[str] = field(factory=list[str])

    def feed(self, content: bytes) -> Iterator[ServerEvent]:
        """The events that become whole with some more bytes."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            if line:
                self._line(line.decode())
                continue
            if self._data:
                yield ServerEvent(self._name or "message", json.loads("\n".join(self._data)), self.last_id)
            self._name = ""
            self._data.clear()

    def _line(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.comments.append(value)
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id":
                self.last_id = value
            case "retry":
                self.retry = int(value)
            case _:
                raise AssertionError(f"not a field of an event: {line}")


@define
class Stream:
    """A stream that is being read."""

    status: int
    headers: Mapping[str, str]
    parser: Parser
    _parts: "asyncio.Queue[bytes | None]"
    _events: list[ServerEvent] = field(factory=list[ServerEvent])
    _is_over: bool = False

    async def next(self) -> ServerEvent:
        """The next event."""
        async with asyncio.timeout(PATIENCE):
            while not self._events:
                await self._more()
        return self._events.pop(0)

    async def here(self) -> str:
        """The id with which the stream can be resumed, as soon as there is one."""
        async with asyncio.timeout(PATIENCE):
            while self.parser.last_id is None:
                await self._more()
        return self.parser.last_id

    async def comment(self, text: str) -> None:
        """Read until a comment comes, from now on."""
        self.parser.comments.clear()
        async with asyncio.timeout(PATIENCE):
            while text not in self.parser.comments:
                await self._more()

    async def end(self) -> list[ServerEvent]:
        """What comes until the stream is closed."""
        async with asyncio.timeout(PATIENCE):
            while not self._is_over:
                await self._more()
        events, self._events = self._events, []
        return events

    async def _more(self) -> None:
        assert not self._is_over, "the stream is over"
        content = await self._parts.get()
        if content is None:
            self._is_over = True
        else:
            self._events += self.parser.feed(content)


@asynccontextmanager
async def streamed(
    app: Any,
    token: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    held: asyncio.Event | None = None,
    **query: Any,
) -> AsyncGenerator[Stream]:
    """A stream of the application. With `held`, the client reads nothing but its beginning until that is set."""
    parts: asyncio.Queue[bytes | None] = asyncio.Queue()
    started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    left = asyncio.Event()
    is_asked = False

    async def receive() -> Any:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.set_result(message)
            return
        if held is not None and b"data:" in message["body"]:
            await held.wait()
        parts.put_nowait(message["body"])

    sent = {"authorization": f"Bearer {token}", **{name.lower(): value for name, value in (headers or {}).items()}}
    raw_path = f"/api/v1{path}".encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": raw_path.decode(),
        "raw_path": raw_path,
        "query_string": urlencode(query, doseq=True).encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("api.example", 80),
        "root_path": "",
        "state": {},
    }

    async def serve() -> None:
        try:
            await app(scope, receive, send)
        finally:
            parts.put_nowait(None)

    serving = asyncio.create_task(serve())
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([started, serving], return_when=asyncio.FIRST_COMPLETED)
            answer = await started
        names = {name.decode(): value.decode() for name, value in answer["headers"]}
        yield Stream(answer["status"], names, Parser(), parts)
    finally:
        left.set()
        await serving
