"""Attempts to deliver, over HTTP: one connection each, to an address that was checked, and within bounded time."""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore

from experiment_adapters.webhooks.addresses import is_public
from experiment_adapters.webhooks.settings import WebhookSettings
from experiment_domain.kernel.cloudevents import MEDIA_TYPE
from experiment_domain.webhooks.sending import (
    ANSWER_LENGTH,
    LONGEST_RETRY_AFTER,
    Outcome,
    WebhookMessage,
    WebhookSender,
)

USER_AGENT = "Experiment-Service-Webhooks/1.0"
ANSWER_PATIENCE = 2.0
"""Seconds for which the beginning of an answer's body is waited for: its status has come, and is all that counts."""
RESOLVERS = 64
"""How many names are looked up at once: one that nobody answers for keeps no other one waiting."""
ERROR_LENGTH = 300
_PUBLIC_ONLY = "public ones only, unless the service is set up otherwise: EXPERIMENT_WEBHOOK_ALLOW_PRIVATE"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, as texts. Raises `OSError` where it has none."""


class AddressRefused(Exception):  # noqa: N818 - as the domain calls what is refused
    """The host has an address that webhooks are not sent to. Which one is not told: it would map the inside."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts by addresses that it has looked up and checked itself: what was checked is connected to."""

    def __init__(self, resolve: Resolve, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._backend: Any = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("its host is not known") from None
        if not self._allow_private and not all(map(is_public, addresses)):
            raise AddressRefused
        failure: Exception = httpcore.ConnectError("its host has no address")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, *_args: Any, **_options: Any) -> httpcore.AsyncNetworkStream:
        raise AddressRefused

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class HttpWebhookSender(WebhookSender):
    """POSTs messages. It follows no redirects, uses no proxies, keeps no cookies, and trusts no certificate unseen."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._ssl = ssl_context or httpcore.default_ssl_context()
        self._backend = GuardedBackend(resolve or Resolver(), allow_private=settings.allow_private)

    async def send(self, message: WebhookMessage) -> Outcome:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout) as limit:
                status, answer, retry_after = await self._post(message, limit)
        except TimeoutError:
            return _failed(began, f"there was no answer within {self._settings.timeout:g} seconds")
        except AddressRefused:
            return _failed(began, f"its host has an address that webhooks are not sent to ({_PUBLIC_ONLY})")
        except httpcore.ConnectTimeout:
            return _failed(began, f"there was no connection within {self._settings.connect_timeout:g} seconds")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return _failed(began, str(error) or "the connection broke")
        return Outcome(
            status_code=status,
            latency=time.monotonic() - began,
            answer=answer.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"),
            retry_after=retry_after,
        )

    async def _post(self, message: WebhookMessage, limit: asyncio.Timeout) -> tuple[int, bytes, timedelta | None]:
        url = httpcore.URL(message.url)
        headers = {
            "Host": urlsplit(message.url).netloc,
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(message.body)),
            "webhook-id": message.message_id,
            "webhook-timestamp": str(message.timestamp),
            "webhook-signature": message.signature,
        }
        timeouts = {"connect": self._settings.connect_timeout}
        new = httpcore.AsyncHTTPConnection(url.origin, ssl_context=self._ssl, network_backend=self._backend)
        async with (
            new as connection,
            connection.stream(
                "POST",
                url,
                headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                content=message.body,
                extensions={"timeout": timeouts},
            ) as response,
        ):
            limit.reschedule(asyncio.get_running_loop().time() + 2 * ANSWER_PATIENCE)
            return response.status, await _beginning(response), _retry_after(response)


class Resolver:
    """Looks up hosts by the system's own resolver, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, in the order in which they are best tried."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(found))


def _look_up(host: str, port: int) -> Sequence[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


async def _beginning(response: httpcore.Response) -> bytes:
    """The first bytes of the answer's body, as far as they come soon."""
    found = bytearray()
    try:
        async with asyncio.timeout(ANSWER_PATIENCE):
            async for chunk in response.aiter_stream():
                found += chunk
                if len(found) >= ANSWER_LENGTH:
                    break
    except (TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        pass
    return bytes(found[:ANSWER_LENGTH])


def _retry_after(response: httpcore.Response) -> timedelta | None:
    """How long the receiver asks to be left alone, in seconds or until a date."""
    given = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    text = given.decode("latin-1").strip()
    if text.isascii() and text.isdecimal():
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):  # the latter for numbers that are no date by far
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    # Bounded before it becomes a duration: a number of many digits is none.
    return timedelta(seconds=min(max(seconds, 0.0), LONGEST_RETRY_AFTER.total_seconds()))


def _failed(began: float, error: str) -> Outcome:
    return Outcome(error=error[:ERROR_LENGTH], latency=time.monotonic() - began)
