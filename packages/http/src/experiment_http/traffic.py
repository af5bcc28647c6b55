"""Around every request: its id, path and client address, the access log, the metrics, and HEAD."""

import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import structlog
from litestar.types import ASGIApp, Message, Receive, Send
from prometheus_client import CollectorRegistry, Counter, Histogram

from experiment_domain.kernel.ids import Ids
from experiment_http import paths
from experiment_http.operations import headers_of
from experiment_http.request_ids import client_address, request_id

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
UNMATCHED = "unmatched"

log = structlog.get_logger("experiment_http.access")


class RequestMetrics:
    """How many requests were answered how, and how long that took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "experiment_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "experiment_http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["method", "route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. Methods and routes are only known ones, or there would be no end of them."""
        method = method if method in METHODS else "OTHER"
        known = self._known.get((method, route, status))
        if known is None:  # finding them takes longer than counting
            known = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            self._known[method, route, status] = known
        requests, durations = known
        requests.inc()
        durations.observe(seconds)


class HeadAnswered(BaseException):
    """Ends the making of an answer whose content nobody reads. Not an `Exception`: nothing has failed."""


class Traffic:
    """An ASGI application around another one, which sees every request and every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        ids: Ids,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
        metrics: RequestMetrics,
    ) -> None:
        self._app = app
        self._ids = ids
        self._trusted_proxies = trusted_proxies
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Take one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        path, method, headers = scope["path"], scope["method"], headers_of(scope)
        identity = request_id(headers.get(b"x-request-id"), self._ids)
        client = scope.get("client")
        state = scope.setdefault("state", {})
        state["request_id"] = identity
        state["client_address"] = client_address(
            client[0] if client else None, headers.get(b"x-forwarded-for"), self._trusted_proxies
        )
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *map(_with_head, message["headers"]),
                    (b"x-request-id", identity.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            elif method == "HEAD" and message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise HeadAnswered
            await send(message)

        if method == "HEAD":
            # What GET would answer, without the content.
            scope["method"] = "GET"
        scope["path"] = paths.routed(scope["raw_path"])
        # Whatever is logged on the way carries the id, also by those who know nothing of requests.
        bound = structlog.contextvars.bind_contextvars(request_id=identity)
        try:
            await self._app(scope, receive, sending)
        except HeadAnswered:
            pass
        finally:
            try:
                seconds = time.perf_counter() - begun
                route = scope.get("path_template") or UNMATCHED
                self._metrics.record(method, route, status, seconds)
                log.info(
                    "request",
                    method=method,
                    path=path,
                    status=status,
                    seconds=round(seconds, 6),
                    client=state["client_address"],
                )
            finally:
                # What never ended, and is closed by whoever finds it, is not where it was bound.
                with suppress(ValueError):
                    structlog.contextvars.reset_contextvars(**bound)


def _with_head(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The header; where it names the methods of a path, HEAD goes with GET."""
    name, value = header
    return (name, value.replace(b"GET", b"GET, HEAD", 1)) if name.lower() == b"allow" else header
