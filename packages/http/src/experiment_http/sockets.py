"""WebSockets on which messages come in: read only as fast as they are dealt with, and answered in order."""

import asyncio
import time
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import Any, Protocol

import msgspec
import structlog
from attrs import define, field, frozen
from litestar import Litestar
from litestar.types import Receive, Send

from experiment_domain.kernel.access import Caller, Permission
from experiment_domain.kernel.errors import Conflict, Forbidden, NotFound, Refusal, Unauthenticated
from experiment_http import problems, queries
from experiment_http.callers import principal_of
from experiment_http.causes import cause_of
from experiment_http.operations import Api, headers_of
from experiment_http.origins import check_origin
from experiment_http.request_ids import client_address, request_id
from experiment_http.settings import HttpSettings

FRAMES_AHEAD = 64
"""So many frames are read at most before the first of them is answered."""
BYTES_AHEAD = 1 << 20
"""With more bytes than these in hand, no further frame is read."""
LARGEST = 16 << 20
"""The most bytes of a frame. The server reads frames of as many, and messages of several of them up to 64 MiB."""
LONGEST_REASON = 123
"""The most bytes of the reason that a close frame has room for."""
UNREADABLE = "the frame is larger than 16 MiB, no UTF-8, or not as RFC 6455 has it"
FINISHING = 8.0
"""Seconds in which what was read is dealt with when the service stops."""
SUBPROTOCOL = "telemetry"
TOKEN_PROTOCOL = "bearer."  # noqa: S105 - what stands before a token

log = structlog.get_logger("experiment_http.sockets")
Data = str | bytes


class Code(IntEnum):
    """Why a socket is closed: RFC 6455, and beyond 4000 our own."""

    MALFORMED = 1007
    TOO_LARGE = 1009
    FAILURE = 1011
    RESTART = 1012
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    IDLE = 4408


@frozen
class Closing:
    """That a socket is to be closed, and why. Without a code, the client has gone by itself."""

    code: Code | None = None
    reason: str = ""

    @classmethod
    def on(cls, refusal: Refusal) -> "Closing":
        """The closing that follows from a refusal that every further frame would meet too."""
        is_unknown = isinstance(refusal, Unauthenticated)
        return cls(Code.UNAUTHENTICATED if is_unknown else Code.FORBIDDEN, refusal.code)


@frozen
class Reply:
    """What is sent in answer to a frame, and whether the socket is closed after it."""

    content: Mapping[str, Any] | msgspec.Struct
    closing: Closing | None = None


class Conversation(Protocol):
    """What happens on a socket: who may be on it, and what becomes of frames."""

    @abstractmethod
    async def check(self) -> None:
        """Refuse unless the caller may send just now."""

    @abstractmethod
    async def replies(self, frames: Sequence[Data]) -> Sequence[Reply]:
        """Deal with the first of the frames, one or more of them: a reply to each of these."""


@frozen(kw_only=True)
class Socket:
    """A path on which messages come in, declared as operations are."""

    path: str
    use_case: Callable[..., Any]
    begin: Callable[[Api, Caller], Conversation]

    def __attrs_post_init__(self) -> None:
        if not isinstance(getattr(self.use_case, "permission", None), Permission):
            raise TypeError(f"{self.path} has no use case that declares a permission")

    async def serve(self, api: Api, sockets: "OpenSockets", scope: Any, receive: Receive, send: Any) -> None:
        """One connection, from its handshake to its end."""
        headers, path = headers_of(scope), scope["path"]
        identity = request_id(headers.get(b"x-request-id"), api.services.ids)
        with structlog.contextvars.bound_contextvars(request_id=identity):
            client = scope.get("client")
            address = client_address(
                client[0] if client else None, headers.get(b"x-forwarded-for"), api.settings.trusted_proxies
            )
            try:
                check_origin(headers, "sockets")
                queries.nothing_in(queries.pairs_of(scope["query_string"]))
                principal = await principal_of(_with_token(headers, scope), api.authenticator)
                conversation = self.begin(api, Caller(principal=principal, request_id=identity, address=address))
                await conversation.check()
            except Refusal as refusal:
                await _refuse(path, refusal, identity, send)
                return
            except Exception as error:
                log.exception("socket_failed", path=path, exc_info=error)
                await send({"type": "websocket.close", "code": int(Code.FAILURE), "reason": ""})
                return
            chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
            accepting = [(b"x-request-id", identity.encode())]
            await send({"type": "websocket.accept", "subprotocol": chosen, "headers": accepting})
            connection = Connection(conversation, receive, send, api.settings)
            begun = time.perf_counter()
            closing = await sockets.run(connection)
            log.info(
                "socket",
                path=path,
                code=None if closing.code is None else int(closing.code),
                frames=connection.answered,
                seconds=round(time.perf_counter() - begun, 6),
                client=address,
            )


class Connection:
    """One open socket: a task reads frames up to a bound, a second deals with them, a third looks after the caller."""

    def __init__(self, conversation: Conversation, receive: Receive, send: Any, settings: HttpSettings) -> None:
        self.answered = 0
        self._conversation = conversation
        self._receive = receive
        self._send = send
        self._settings = settings
        self._inbox = Inbox()
        self._reading: asyncio.Task[None] | None = None
        self._last_frame = time.monotonic()
        self._sending: asyncio.Timeout | None = None

    async def run(self) -> Closing:
        """Serve the client until one of the two has enough."""
        self._reading = asyncio.create_task(self._read())
        looking = asyncio.create_task(self._look_after())
        try:
            closing = await self._deal()
        except Exception as error:
            log.exception("socket_failed", **cause_of(error))
            closing = Closing(Code.FAILURE)
        finally:
            for task in (self._reading, looking):
                task.cancel()
            await asyncio.gather(self._reading, looking, return_exceptions=True)
        if closing.code is not None:
            reason = closing.reason.encode()[:LONGEST_REASON].decode(errors="ignore")
            with suppress(OSError, RuntimeError, TimeoutError):
                async with asyncio.timeout(FINISHING):
                    await self._send({"type": "websocket.close", "code": int(closing.code), "reason": reason})
        return closing

    def finish(self) -> None:
        """Read no more, deal with what was read, and close: the service stops."""
        self._end(Closing(Code.RESTART, "restart"))

    def _end(self, closing: Closing, *, at_once: bool = False) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._inbox.end(closing, at_once=at_once)
        if at_once and self._sending is not None:
            self._sending.reschedule(0)  # a client that does not read its answers is not waited for

    async def _read(self) -> None:
        while True:
            await self._inbox.room()
            message: Any = await self._receive()
            if message["type"] != "websocket.receive":
                # The server says 1005 also of a frame that it could not read, and then still sends a close frame.
                self._inbox.end(Closing(Code.TOO_LARGE, UNREADABLE) if message.get("code") == 1005 else Closing())
                return
            self._last_frame = time.monotonic()
            text = message.get("text")
            self._inbox.put(message.get("bytes") or b"" if text is None else text)

    async def _deal(self) -> Closing:
        while frames := await self._inbox.frames():
            replies = await self._conversation.replies(frames)
            for reply in replies:
                closing = await self._answer(reply)
                self._inbox.done()
                if closing is not None:
                    return closing
        return self._inbox.closing

    async def _answer(self, reply: Reply) -> Closing | None:
        """Send a reply; with which the socket is to be closed after it, if it is."""
        text = msgspec.json.encode(reply.content).decode()
        try:
            async with asyncio.timeout(self._settings.socket_send_timeout) as self._sending:
                await self._send({"type": "websocket.send", "text": text})
        except TimeoutError:
            return self._inbox.closing if self._inbox.is_over else Closing(Code.IDLE, "answers are not read")
        except (OSError, RuntimeError):
            self._end(Closing())  # the client has gone: what it has sent is dealt with all the same
        finally:
            self._sending = None
        self.answered += 1
        return reply.closing

    async def _look_after(self) -> None:
        """Close the socket of a caller that may send no longer, or that has sent nothing for long."""
        while True:
            await asyncio.sleep(self._settings.socket_check_every)
            if time.monotonic() - self._last_frame > self._settings.socket_idle_timeout:
                self._end(Closing(Code.IDLE, "idle"))
                return
            try:
                await self._conversation.check()
            except (Unauthenticated, Forbidden, Conflict) as refusal:
                self._end(Closing.on(refusal), at_once=True)
                return
            except Refusal:
                continue  # the database is away: the next frame will say so


class Inbox:
    """Frames that were read and not yet dealt with, up to a bound."""

    def __init__(self) -> None:
        self.closing = Closing()
        self.is_ended = False
        self.is_over = False
        self._frames: deque[Data] = deque()
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_news = asyncio.Event()
        self._has_room.set()

    async def room(self) -> None:
        """Wait until another frame may be read."""
        await self._has_room.wait()

    def put(self, frame: Data) -> None:
        """Add a frame."""
        self._frames.append(frame)
        self._bytes += len(frame)
        self._notice()

    async def frames(self) -> Sequence[Data]:
        """The frames in hand, at least one; none where there will be none any more."""
        while not self._frames and not self.is_ended:
            self._has_news.clear()
            await self._has_news.wait()
        return () if self.is_over else self._frames

    def done(self) -> None:
        """The first frame has been dealt with."""
        self._bytes -= len(self._frames.popleft())
        self._notice()

    def end(self, closing: Closing, *, at_once: bool = False) -> None:
        """Nothing more will come; with `at_once` what is in hand does not count either. The first end counts."""
        if not self.is_ended or (at_once and not self.is_over):
            self.closing = closing
        self.is_ended = True
        self.is_over = self.is_over or at_once
        self._notice()

    def _notice(self) -> None:
        self._has_news.set()
        if len(self._frames) < FRAMES_AHEAD and self._bytes < BYTES_AHEAD:
            self._has_room.set()
        else:
            self._has_room.clear()


@define
class OpenSockets:
    """The sockets of this process: found by their paths, and closed before it ends."""

    _api: Api
    _known: Mapping[str, Socket]
    _tasks: dict[asyncio.Task[Closing], Connection] = field(factory=dict[asyncio.Task[Closing], Connection])
    _is_closed: bool = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection. The framework is not asked: it lets nobody answer a frame that could not be read."""
        message: Any = await receive()
        if message["type"] != "websocket.connect":
            return
        socket = self._known.get(scope["path"])
        if socket is None:
            identity = request_id(headers_of(scope).get(b"x-request-id"), self._api.services.ids)
            await _refuse(scope["path"], NotFound("socket"), identity, send)
        else:
            await socket.serve(self._api, self, scope, receive, send)

    async def run(self, connection: Connection) -> Closing:
        """Serve a connection."""
        task = asyncio.create_task(connection.run())
        self._tasks[task] = connection
        if self._is_closed:
            connection.finish()
        try:
            return await task
        finally:
            task.cancel()
            del self._tasks[task]

    async def finish(self) -> None:
        """Let all sockets deal with what they have read, and close them."""
        self._is_closed = True
        for connection in self._tasks.values():
            connection.finish()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISHING)

    @asynccontextmanager
    async def lasting(self, _app: Litestar) -> AsyncGenerator[None]:
        """Keep sockets open until the block ends."""
        self._is_closed = False
        try:
            yield
        finally:
            await self.finish()


def refused(refusal: Refusal) -> dict[str, Any]:
    """What a reply says of a refusal."""
    status = problems.status_of(refusal)
    errors = getattr(refusal, "errors", None)
    more = {"errors": errors} if errors else {}
    return {**refusal.facts, **more, "code": refusal.code, "status": int(status), "detail": refusal.detail}


def _with_token(headers: Mapping[bytes, bytes], scope: Any) -> Mapping[bytes, bytes]:
    """The headers, with the token that a browser can only send as a subprotocol."""
    if b"authorization" in headers:
        return headers
    tokens = [name for name in scope["subprotocols"] if name.startswith(TOKEN_PROTOCOL)]
    if len(tokens) != 1:
        return headers
    return {**headers, b"authorization": b"Bearer " + tokens[0].removeprefix(TOKEN_PROTOCOL).encode()}


async def _refuse(path: str, refusal: Refusal, identity: str, send: Any) -> None:
    """Answer a handshake as the request that it is."""
    status = problems.status_of(refusal)
    body = msgspec.json.encode(problems.document(status, refusal.code, refusal.detail, path))
    headers = [
        (b"content-type", problems.MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", identity.encode()),
    ]
    if isinstance(refusal, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="experiment-service"'))
    await send({"type": "websocket.http.response.start", "status": int(status), "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
