"""Files on their way out, piece by piece, read only as fast as they are taken."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from attrs import frozen
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from experiment_http.answers import Form
from experiment_http.pieces import client_left, send_more

PARQUET = "application/vnd.apache.parquet"


@frozen(kw_only=True)
class FileStream:
    """A file of `size` bytes, to be kept under a name: `first` is there already, what follows is read as it is sent.

    An ASGI application of its own. Where the rest cannot be had, the connection breaks before all of it has come.
    """

    name: str
    media_type: str
    size: int
    first: bytes
    rest: AsyncGenerator[bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the scope says nothing new
        """Send it, for as long as somebody is there to read it."""
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"content-length", b"%d" % self.size),
            (b"content-disposition", f'attachment; filename="{self.name}"'.encode()),
            (b"cache-control", b"private, no-store"),
        ]
        left = asyncio.ensure_future(client_left(receive))
        try:
            async with aclosing(self.rest):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                # What is there already goes out before more is read: of a HEAD request, nothing more is.
                await send_more(send, self.first)
                async for piece in self.rest:
                    if left.done():
                        return
                    await send_more(send, piece)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.cancel()


@frozen(kw_only=True)
class FileForm(Form[Any]):
    """A file; the handler makes the answer itself."""

    def views(self) -> Sequence[type[Struct]]:
        """None."""
        return ()

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002
        """Bytes."""
        return {"type": "string", "format": "binary"}

    def example(self) -> Any:
        """None: what it looks like depends on the media type."""
