"""Streams of server-sent events: what is new, as it comes, for as long as the caller may see it and takes it."""

import asyncio
import socket
import struct
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog
from attrs import define, field, frozen
from litestar import Litestar
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_http import problems
from experiment_http.answers import Form
from experiment_http.pieces import client_left
from experiment_http.tails import Follower, Frame, Lost, Skipped, Source, Spot, Tails

MEDIA_TYPE = "text/event-stream"
LAST_EVENT_ID = b"last-event-id"
RETRY = 1_000
"""Milliseconds after which a client should come again when a stream has broken off."""
LAST_WORDS = 2.0
"""Seconds in which a client has to take what is said to it in the end."""
AT_ONCE = 64 << 10
"""About so many bytes are sent at once."""

log = structlog.get_logger("experiment_http.streams")


EVENT: Mapping[str, Any] = {
    "type": "object",
    "description": "One event of the stream: `data` is JSON. Without a name in `event` it is a message.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
"""The JSON Schema of an event."""


def event(data: Any, *, event_id: str | None = None, name: str | None = None) -> bytes:
    """One event. Without a name it is a message, as browsers call it."""
    lines = [b""] if event_id is None else [b"id: %b\n" % event_id.encode()]
    if name is not None:
        lines.append(b"event: %b\n" % name.encode())
    return b"%bdata: %b\n\n" % (b"".join(lines), msgspec.json.encode(data))


class View(Protocol):
    """What one caller sees of a source."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """From where it comes."""

    @abstractmethod
    async def check(self) -> None:
        """Refuse unless the caller may see it just now, and note what has changed."""

    async def prepare(self, abouts: Iterable[Any]) -> None:
        """Find out what must be known to tell whether the caller sees what is about these."""

    @abstractmethod
    def sees(self, about: Any) -> bool:
        """Whether the caller sees what is about this."""

    @abstractmethod
    def seal(self, spot: Spot) -> str:
        """The id of an event behind which a spot is."""


@frozen(kw_only=True)
class EventStreamForm(Form[Any]):
    """A stream of events; the handler makes it. `ends` where a client that has seen the end is answered 204."""

    media_types: Sequence[str] = (MEDIA_TYPE,)
    ends: bool = False

    def views(self) -> Sequence[type[Struct]]:
        """None: an event is described in words."""
        return ()

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002
        """Text."""
        return {"type": "string"}

    def example(self) -> Any:
        """Some events."""
        return self.text_example


@frozen(kw_only=True)
class Pace:
    """How often a stream says that it is there and looks after its caller, and how long it waits; in seconds."""

    keep_alive: float
    check_every: float
    send_timeout: float


@define(eq=False)
class EventStream:
    """The answer that is such a stream. `spot` is where the caller was, `is_lost` that nobody knows where that is."""

    streams: "Streams"
    view: View
    spot: Spot | None
    skips: bool
    is_lost: bool = False
    _stopping: asyncio.Event = field(factory=asyncio.Event)
    _sent: str | None = None
    _sent_at: float = field(factory=time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._body(send, b"retry: %d\n\n" % RETRY)
        async with self.streams.opened(self):
            # Tasks of its own: what the server runs this in cannot be told to give up waiting.
            is_taken = await asyncio.create_task(self._serve(receive, send))
        if not is_taken and (client := scope.get("client")) is not None:
            _hang_up(client[0], int(client[1]))  # the server tells the port as text

    def finish(self) -> None:
        """End it: the service stops."""
        self._stopping.set()

    async def _serve(self, receive: Receive, send: Send) -> bool:
        """Whether what was sent was taken, to the end or until the client left."""
        sending = asyncio.create_task(self._send(send))
        looking = asyncio.create_task(self._look_after())
        others = [asyncio.create_task(client_left(receive)), asyncio.create_task(self._stopping.wait())]
        try:
            done, _ = await asyncio.wait([sending, looking, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, looking, *others):
                task.cancel()
            await asyncio.gather(sending, looking, *others, return_exceptions=True)
        if others[0] in done or (sending in done and sending.exception() is not None):
            return self._is_taken(sending)
        words = b"" if sending in done else b": restart\n\n"
        if looking in done:
            words = _refused(looking.result())
        with suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._body(send, words, more=False)
                return True
        return False

    async def _send(self, send: Send) -> None:
        """Send what comes, until the last of it."""
        pace = self.streams.pace
        if self.is_lost:
            await self._patiently(send, _reset())
        async with self.streams.tails.of(self.view.source) as tail:
            follower = Follower(tail, self.spot, self.skips)
            if self.spot is None:
                await follower.next(pace.keep_alive)
                await self._patiently(send, self._here(follower))
            while True:
                try:
                    found = await follower.next(pace.keep_alive)
                except Unavailable:
                    found = await asyncio.sleep(1.0, ())
                match found:
                    case Lost():
                        await self._patiently(send, _reset() + self._here(follower))
                    case Skipped():
                        await self._patiently(send, event({"last_event_id": self._sent}, name="gap"))
                    case []:
                        await self._keep_alive(send, follower)
                    case frames:
                        await self.view.prepare(frame.about for frame in frames)
                        await self._send_frames(send, [frame for frame in frames if self._sees(frame)])
                        if frames[-1].is_last:
                            return
                        if time.monotonic() - self._sent_at >= pace.keep_alive:
                            # All that has come since then was for others.
                            await self._keep_alive(send, follower)

    async def _send_frames(self, send: Send, frames: Sequence[Frame]) -> None:
        body = bytearray()
        for number, frame in enumerate(frames, 1):
            body += frame.content
            if len(body) >= AT_ONCE or number == len(frames):
                await self._patiently(send, bytes(body))
                body.clear()
                if frame.spot is not None:
                    self._sent = self.view.seal(frame.spot)

    def _sees(self, frame: Frame) -> bool:
        return frame.is_last or self.view.sees(frame.about)

    async def _keep_alive(self, send: Send, follower: Follower) -> None:
        await self._patiently(send, b": keep-alive\n\n" + self._here(follower))

    def _here(self, follower: Follower) -> bytes:
        """An id without an event: a client that breaks off now goes on from here, and need not pass over old things."""
        if follower.spot is None:
            return b""
        self._sent = self.view.seal(follower.spot)
        return b"id: %b\n\n" % self._sent.encode()

    async def _patiently(self, send: Send, content: bytes) -> None:
        async with asyncio.timeout(self.streams.pace.send_timeout):
            await self._body(send, content)
        self._sent_at = time.monotonic()

    async def _body(self, send: Send, content: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": content, "more_body": more})

    async def _look_after(self) -> Refusal:
        """Return with the refusal that ends the stream of a caller who may see it no longer."""
        while True:
            await asyncio.sleep(self.streams.pace.check_every)
            try:
                await self.view.check()
            except Unavailable:
                continue  # nothing is read meanwhile, either
            except Refusal as refusal:
                return refusal

    def _is_taken(self, sending: "asyncio.Task[None]") -> bool:
        error = None if sending.cancelled() else sending.exception()
        if isinstance(error, TimeoutError):
            log.info("stream_not_read", topic=self.view.source.topic)
            return False
        if error is not None and not isinstance(error, OSError | RuntimeError):
            log.error("stream_failed", topic=self.view.source.topic, exc_info=error)
        return True


class Streams:
    """The open streams of this process."""

    def __init__(self, tails: Tails, pace: Pace) -> None:
        self.tails = tails
        self.pace = pace
        self._open: set[EventStream] = set()
        self._is_finishing = False

    @asynccontextmanager
    async def opened(self, stream: EventStream) -> AsyncGenerator[None]:
        """Know of a stream while the block lasts."""
        self._open.add(stream)
        if self._is_finishing:
            stream.finish()
        try:
            yield
        finally:
            self._open.discard(stream)

    def finish(self) -> None:
        """End all streams, and those that are still to come: clients find another process."""
        self._is_finishing = True
        for stream in self._open:
            stream.finish()

    @asynccontextmanager
    async def lasting(self, _app: Litestar) -> AsyncGenerator[None]:
        """Keep streams open until the block ends."""
        self._is_finishing = False
        try:
            yield
        finally:
            self.finish()


def spot_of(read: Callable[[str], Any], event_id: str | None) -> tuple[Spot | None, bool]:
    """The spot that an event's id leads to, and whether it is lost: an id that nobody here has given."""
    if event_id is None:
        return None, False
    try:
        return Spot(*read(event_id)), False
    except problems.Malformed:
        return None, True


def _refused(refusal: Refusal) -> bytes:
    return event({"code": refusal.code, "detail": refusal.detail}, name="refused")


def _reset() -> bytes:
    return event(
        {"detail": "What you have seen last is not known here: this goes on from now. Read again."}, name="reset"
    )


def _hang_up(host: str, port: int) -> None:
    """End the connection of a client that takes nothing: the server itself would wait for it to do so, for good."""
    with suppress(OSError):  # not everywhere can they be found
        for path in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                # Of anything else, a copy would be left open.
                if not path.readlink().name.startswith("socket:"):
                    continue
                with socket.fromfd(int(path.name), socket.AF_INET, socket.SOCK_STREAM) as connection:
                    if connection.getpeername()[:2] == (host, port):
                        # Nothing of what waits to be sent is kept, either.
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        connection.shutdown(socket.SHUT_RDWR)
