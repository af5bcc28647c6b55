"""A receiver of webhooks on a real socket, which answers as it is told to, or worse."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from attrs import define, field, frozen


@frozen(kw_only=True)
class Received:
    """One request, as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """A proper answer."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


async def hang(writer: asyncio.StreamWriter) -> None:
    """Nothing, for as long as the sender waits."""
    await asyncio.sleep(3_600)


async def trickle(writer: asyncio.StreamWriter) -> None:
    """The head of an answer, byte by byte."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Padding: x\r\n" * 10_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def trickle_body(writer: asyncio.StreamWriter) -> None:
    """200 at once, and then a body without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def megabyte(writer: asyncio.StreamWriter) -> None:
    """A body that nobody wants to keep."""
    await status(500, b"x" * 1_000_000)(writer)


async def endless_head(writer: asyncio.StreamWriter) -> None:
    """Headers without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Padding: " + b"x" * 4_000 + b"\r\n")
        await writer.drain()


async def reset(writer: asyncio.StreamWriter) -> None:
    """The end of the connection, once everything was received."""
    writer.transport.abort()


async def garbage(writer: asyncio.StreamWriter) -> None:
    """No HTTP."""
    writer.write(b"\x00\xffSSH-2.0-whatever\r\n\r\n")
    await writer.drain()


@define
class Receiver:
    """Answers at paths by what is set for them, everything else with 204; `connections` counts all that were made."""

    answers: dict[str, Answer | list[Answer]] = field(factory=dict)
    received: list[Received] = field(factory=list)
    connections: int = 0
    port: int = 0
    _open: set[asyncio.Task[None]] = field(factory=set)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def at(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path == path]

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator["Receiver"]:
        """Listen on this machine; `options` are those of the server."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024, **options)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    @contextmanager
    def in_thread(self) -> Iterator["Receiver"]:
        """The same in a thread of its own."""
        ready, loop = threading.Event(), asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve() -> None:
            async with self.serving():
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = first.split(" ")[1]
        self.received.append(Received(path=path, headers=headers, body=body, at=asyncio.get_running_loop().time()))
        planned = self.answers.get(path, status(204))
        if isinstance(planned, list):
            planned = planned.pop(0) if planned else status(204)
        await planned(writer)
