"""From settings to ports: what the two programs wire at start, in one place."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from attrs import frozen

from experiment_adapters.auth.jwt import JwtVerifier
from experiment_adapters.auth.tokens import BearerTokens
from experiment_adapters.postgres import PostgresUnitsOfWork
from experiment_adapters.settings import Settings, SettingsError
from experiment_adapters.vectorised import NumpyConverter
from experiment_domain import Services
from experiment_domain.kernel.access import Authenticator


@frozen(kw_only=True)
class Composition:
    """The service with its ports, and the database for whoever asks whether it is there."""

    services: Services
    database: PostgresUnitsOfWork


@asynccontextmanager
async def composed(settings: Settings) -> AsyncGenerator[Composition]:
    """The service on PostgreSQL, until the block ends. Raises `SettingsError` where no database is named."""
    if settings.database is None:
        raise SettingsError("EXPERIMENT_DATABASE_URL", "is not set: it names the PostgreSQL database to use")
    async with PostgresUnitsOfWork.open(settings=settings.database) as database:
        yield Composition(services=Services(units_of_work=database, converter=NumpyConverter()), database=database)


def authenticator(settings: Settings) -> Authenticator:
    """Who may come in. Raises `SettingsError` where nothing says by which keys users' tokens are signed."""
    if settings.jwt is None:
        raise SettingsError("EXPERIMENT_JWT_KEYS", "is not set: it, or EXPERIMENT_JWT_JWKS_URL, says who signs tokens")
    return BearerTokens(JwtVerifier(settings.jwt))
