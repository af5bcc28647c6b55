"""From settings to ports: what the two programs wire at start, in one place."""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from experiment_adapters.auth.jwt import JwtVerifier
from experiment_adapters.auth.tokens import BearerTokens
from experiment_adapters.exports.formats import FORMATS
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_adapters.settings import PREFIX, Settings, SettingsError
from experiment_adapters.vectorised import NumpyConverter
from experiment_adapters.webhooks.box import AesGcmBox
from experiment_adapters.webhooks.sender import HttpWebhookSender
from experiment_domain import Services
from experiment_domain.exports.files import ExportFiles, NoExportFiles
from experiment_domain.kernel.access import Authenticator, Principal
from experiment_domain.kernel.news import News
from experiment_domain.relays import EventSink
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_domain.webhooks.secrets import NoSecretBox, SecretBox

if TYPE_CHECKING:
    from experiment_adapters.spool.files import FileSpool


class Database(UnitsOfWork):
    """PostgreSQL, which can be opened only where an event loop runs: after everything was wired to it."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._opened: PostgresUnitsOfWork | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Keep it open until the block ends."""
        async with PostgresUnitsOfWork.open(settings=self._settings) as self._opened:
            yield

    def begin(self, principal: Principal, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit of work for `principal`."""
        return self._open().begin(principal, read_only=read_only)

    @property
    def news(self) -> News:
        """Hints of what units of work have committed."""
        return self._open().news

    @property
    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What has to answer, by name; each raises where it does not."""
        checks: dict[str, Callable[[], Awaitable[None]]] = {"database": self._check}
        if self._settings.read_url is not None:
            checks["replica"] = partial(self._check, read_only=True)
        return checks

    async def _check(self, *, read_only: bool = False) -> None:
        await self._open().check(read_only=read_only)

    def _open(self) -> PostgresUnitsOfWork:
        if self._opened is None:
            raise RuntimeError("the database has not been opened: an ASGI server must support the lifespan protocol")
        return self._opened


@frozen(kw_only=True)
class Composition:
    """The service with its ports, and the database, which its program opens."""

    services: Services
    database: Database


def composed(settings: Settings) -> Composition:
    """The service on PostgreSQL. Raises `SettingsError` where no database is named."""
    database = Database(settings.need_database())
    services = Services(
        units_of_work=database,
        converter=NumpyConverter(),
        box=_box(settings),
        webhook_sender=HttpWebhookSender(settings.webhooks),
        delivery_policy=settings.webhooks.policy,
        export_files=_export_files(settings),
        export_formats=FORMATS,
        export_policy=settings.exports.policy,
    )
    return Composition(services=services, database=database)


def _box(settings: Settings) -> SecretBox:
    """What seals secrets; without a secret key, nothing does."""
    if settings.secret_key is None:
        return NoSecretBox()
    return AesGcmBox(settings.secret_key, settings.former_secret_keys)


def _export_files(settings: Settings) -> ExportFiles:
    """Where exports are kept; without a URL, nowhere. Raises `SettingsError` where the place cannot be used."""
    if settings.exports.url is None:
        return NoExportFiles(f"{PREFIX}EXPORTS_URL names one.")
    from experiment_adapters.exports.files import files_at  # noqa: PLC0415 - only who has such a place needs it

    try:
        return files_at(settings.exports.url)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SettingsError(PREFIX + "EXPORTS_URL", f"cannot be used: {said}") from error


def spool(settings: Settings) -> "FileSpool | None":
    """Where batches wait while the database is away, if anywhere. Raises `SettingsError` where it cannot be used."""
    if settings.spool.directory is None:
        return None
    from experiment_adapters.spool.files import FileSpool  # noqa: PLC0415 - not every system locks files as it needs

    try:
        return FileSpool(settings.spool)
    except OSError as error:
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
        raise SettingsError(PREFIX + "SPOOL_DIR", f"cannot be used: {error.strerror or error}{where}") from error


def event_sinks(settings: Settings) -> Mapping[str, EventSink]:
    """Where events go besides the API's own feed, by the names under which it is kept how far they have come."""
    sinks: dict[str, EventSink] = {}
    if settings.redis_url is not None and settings.redis_streams_kept_for:
        from experiment_adapters.streams.redis import RedisStreams  # noqa: PLC0415 - only who has one needs it

        sinks["redis"] = RedisStreams(settings.redis_url, settings.redis_streams_kept_for)
    if settings.kafka_brokers:
        from experiment_adapters.streams.kafka import Kafka  # noqa: PLC0415 - only who has one needs it

        sinks["kafka"] = Kafka(settings.kafka_brokers, settings.kafka_topic, settings.kafka_options)
    return sinks


def authenticator(settings: Settings) -> Authenticator:
    """Who may come in. Raises `SettingsError` where nothing says by which keys users' tokens are signed."""
    return BearerTokens(JwtVerifier(settings.need_jwt()))
