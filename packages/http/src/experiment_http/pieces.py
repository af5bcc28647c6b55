"""Answers that are sent in pieces, by handlers that are ASGI applications of their own."""

from litestar.types import Receive, Send


async def send_more(send: Send, body: bytes) -> None:
    """Send a piece that is not the last one."""
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def client_left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
