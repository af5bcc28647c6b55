"""The API as an ASGI application."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive, Send
from prometheus_client import CollectorRegistry

from experiment_domain.kernel.access import Authenticator
from experiment_domain.kernel.errors import Refusal
from experiment_domain.spool import Spool
from experiment_domain.usecases import Services
from experiment_http import health, problems, schema
from experiment_http.operations import Api, Operation
from experiment_http.settings import HttpSettings
from experiment_http.sockets import OpenSockets
from experiment_http.spooling import Spooling
from experiment_http.streams import Streams
from experiment_http.traffic import RequestMetrics, Traffic
from experiment_http.v1 import operations, sockets

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]] | AbstractAsyncContextManager[None]


class ExperimentApi(Litestar):
    """The framework's application, with `Traffic` around all of it: paths that do not exist included."""

    traffic: Traffic | None = None
    sockets: OpenSockets | None = None
    streams: Streams | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if self.traffic is not None and scope["type"] == "http":
            await self.traffic(scope, receive, send)
        elif self.sockets is not None and scope["type"] == "websocket":
            await self.sockets(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def stop(self) -> None:
        """End what would last: the server has been asked to stop, and waits for what is open."""
        if self.streams is not None:
            self.streams.finish()

    async def serve(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection without what is around it."""
        await super().__call__(scope, receive, send)


def create_app(
    services: Services,
    authenticator: Authenticator,
    settings: HttpSettings,
    readiness: Mapping[str, Callable[[], Awaitable[None]]],
    lifespan: Sequence[Lifespan] = (),
    spool: Spool | None = None,
) -> ExperimentApi:
    """The API over `services`. `readiness` checks what it depends on: each raises where something is away.

    With a `spool`, batches of readings wait in it while the database is away.
    """
    metrics = RequestMetrics(CollectorRegistry())
    spooling = None if spool is None else Spooling(services, spool, metrics.registry)
    api = Api.of(services, authenticator, settings, spooling)
    declared = operations()
    open_sockets = OpenSockets(api, {socket.path: socket for socket in sockets()})
    routes = [operation.route(api) for operation in declared]
    routes += health.routes(readiness, settings.readiness_timeout, metrics.registry, spooling)
    if settings.documents:
        routes += schema.routes(declared)
    _check_closed(routes)
    background = [] if spooling is None else [spooling.lasting]
    app = ExperimentApi(
        route_handlers=routes,
        exception_handlers={
            Refusal: problems.on_refusal,
            HTTPException: problems.on_http_exception,
            Exception: problems.on_exception,
        },
        # Sockets and streams are closed before what they need.
        lifespan=[*lifespan, *background, open_sockets.lasting, api.streams.lasting],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,  # bodies are read, with a bound, by what knows how large they may be
    )
    app.streams = api.streams
    app.traffic = Traffic(app.serve, ids=services.ids, trusted_proxies=settings.trusted_proxies, metrics=metrics)
    app.sockets = open_sockets
    return app


def _check_closed(routes: Sequence[HTTPRouteHandler]) -> None:
    """Deny by default: a route either is an operation, which knows its caller, or says that it is open."""
    for route in routes:
        if not isinstance(route.opt.get("operation"), Operation) and not route.opt.get("open"):
            raise TypeError(f"{route.name} is neither an operation nor declared open")
