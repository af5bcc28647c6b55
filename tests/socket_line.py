"""WebSockets to the application under test, without a server between."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from litestar import Litestar

from http_api import API


class Line:
    """A WebSocket to the application, without a server between: what it takes and gives, message by message."""

    def __init__(
        self,
        app: Litestar,
        token: str | None,
        path: str = f"{API}/telemetry/ws",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
    ) -> None:
        sent = {**({} if token is None else {"Authorization": f"Bearer {token}"}), **(headers or {})}
        path, _, query = path.partition("?")
        self.taken = 0
        """How many frames the application has read."""
        self.reads = asyncio.Event()
        """Whether the client reads what is sent to it."""
        self.reads.set()
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._app: Any = app
        self._scope: dict[str, Any] = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "ws",
            "http_version": "1.1",
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
            "subprotocols": list(subprotocols),
            "client": ("192.0.2.1", 4711),
            "server": ("api.example", 80),
        }
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Shake hands; the answer must be that the socket is open."""
        first = await self.shake()
        assert first["type"] == "websocket.accept", first
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def shake(self) -> dict[str, Any]:
        """What the application says to the handshake."""
        self._task = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        self._to.put_nowait({"type": "websocket.connect"})
        return await asyncio.wait_for(self._from.get(), 30)

    async def refused(self, status: int, code: str) -> None:
        """Fail unless the handshake is answered by this problem."""
        start = await self.shake()
        assert start["type"] == "websocket.http.response.start", start
        headers = dict(start["headers"])
        body = (await self._from.get())["body"]
        assert (start["status"], json.loads(body)["code"]) == (status, code), body
        assert headers[b"content-type"] == b"application/problem+json"
        assert int(headers[b"content-length"]) == len(body)
        assert b"x-request-id" in headers
        assert (b"www-authenticate" in headers) is (status == 401)
        await self.ended()

    def send(self, *frames: Any) -> None:
        """Send frames: texts and bytes as they are, everything else as JSON."""
        for frame in frames:
            data = frame if isinstance(frame, (str, bytes)) else json.dumps(frame)
            self._to.put_nowait({"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data})

    async def answer(self) -> Any:
        """The next answer."""
        message = await asyncio.wait_for(self._from.get(), 30)
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def ask(self, *frames: Any) -> Any:
        """The answers to frames; of one, its answer."""
        self.send(*frames)
        answers = [await self.answer() for _ in frames]
        return answers[0] if len(answers) == 1 else answers

    async def closing(self) -> tuple[int, str]:
        """With which code and reason the application closes the socket."""
        message = await asyncio.wait_for(self._from.get(), 30)
        assert message["type"] == "websocket.close", message
        await self.ended()
        return message["code"], message["reason"]

    async def hang_up(self, code: int = 1000) -> None:
        """Go away."""
        self.reads.set()
        self._to.put_nowait({"type": "websocket.disconnect", "code": code})
        await self.ended()

    async def ended(self) -> None:
        """Wait until the application has done with it."""
        assert self._task is not None
        await asyncio.wait_for(self._task, 30)

    async def _receive(self) -> dict[str, Any]:
        message = await self._to.get()
        self.taken += message["type"] == "websocket.receive"
        return message

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await self.reads.wait()
        self._from.put_nowait(message)
