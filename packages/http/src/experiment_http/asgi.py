"""The composition root of the API: settings from the environment, adapters for the ports, and the application."""

import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
from litestar import Litestar

from experiment_adapters.compose import authenticator
from experiment_adapters.postgres import PostgresUnitsOfWork
from experiment_adapters.settings import LogSettings, Settings, SettingsError
from experiment_adapters.vectorised import NumpyConverter
from experiment_domain import Services
from experiment_domain.kernel.access import Principal
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_http.app import create_app
from experiment_http.settings import HttpSettings


class Database(UnitsOfWork):
    """The database, which can be opened only when the event loop runs, after the application was made."""

    def __init__(self, settings: Settings) -> None:
        if settings.database is None:
            raise SettingsError("EXPERIMENT_DATABASE_URL", "is not set: it names the PostgreSQL database to use")
        self._settings = settings.database
        self._opened: PostgresUnitsOfWork | None = None

    @asynccontextmanager
    async def lifespan(self, _app: Litestar) -> AsyncGenerator[None]:
        """Open it with the application, and close it with it."""
        async with PostgresUnitsOfWork.open(settings=self._settings) as self._opened:
            yield

    def begin(self, principal: Principal, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit of work for `principal`."""
        return self._open().begin(principal, read_only=read_only)

    async def check(self) -> None:
        """Raise where it does not answer."""
        await self._open().check()

    def _open(self) -> PostgresUnitsOfWork:
        if self._opened is None:
            raise RuntimeError("the application has not been started: its server must support ASGI's lifespan")
        return self._opened


def app(environ: Mapping[str, str] | None = None) -> Litestar:
    """The application that the environment describes. Raises `SettingsError`."""
    settings = Settings.from_environment(os.environ if environ is None else environ)
    configure_logs(settings.log)
    if settings.secret_key is None:
        # One made up here would differ between processes, and be gone with them: no retry after a crash would be
        # given its first answer.
        raise SettingsError("EXPERIMENT_SECRET_KEY", "is not set: it seals what the service keeps and hands out")
    database = Database(settings)
    checks: Mapping[str, Callable[[], Awaitable[None]]] = {"database": database.check}
    return create_app(
        Services(units_of_work=database, converter=NumpyConverter()),
        authenticator(settings),
        HttpSettings(
            secret_key=settings.secret_key,
            trusted_proxies=settings.trusted_proxies,
        ),
        checks,
        lifespan=[database.lifespan],
    )


def configure_logs(settings: LogSettings) -> None:
    """One line per event on stderr, as JSON or for people."""
    lines: Any = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            lines,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
