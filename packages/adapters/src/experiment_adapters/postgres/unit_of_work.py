"""Units of work on PostgreSQL: a pool of connections, and one transaction at a time on one of them."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import set_json_dumps, set_json_loads

from experiment_adapters.postgres.artifacts import PostgresArtifacts
from experiment_adapters.postgres.audit import PostgresAuditLog
from experiment_adapters.postgres.backfills import PostgresBackfills
from experiment_adapters.postgres.backlog import PostgresBacklog
from experiment_adapters.postgres.captures import PostgresCaptures
from experiment_adapters.postgres.cards import PostgresRunCards
from experiment_adapters.postgres.chores import PostgresChores
from experiment_adapters.postgres.conversions import PostgresConversionProfiles
from experiment_adapters.postgres.errors import refusals
from experiment_adapters.postgres.events import PostgresOutbox
from experiment_adapters.postgres.experiments import PostgresExperiments
from experiment_adapters.postgres.exports import PostgresExports
from experiment_adapters.postgres.news import PostgresNews
from experiment_adapters.postgres.projects import PostgresProjects
from experiment_adapters.postgres.records import PostgresIdempotency, PostgresStatusHistory
from experiment_adapters.postgres.relays import PostgresRelays
from experiment_adapters.postgres.runs import PostgresRuns
from experiment_adapters.postgres.scalars import PostgresScalars
from experiment_adapters.postgres.sensors import HAS_TOKEN, PostgresSensors
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.statements import Answer, Connection, Pool, Statements
from experiment_adapters.postgres.telemetry import arrays
from experiment_adapters.postgres.telemetry.compaction import PostgresCompaction
from experiment_adapters.postgres.telemetry.edges import Edges
from experiment_adapters.postgres.telemetry.envelopes import PostgresEnvelopes
from experiment_adapters.postgres.telemetry.grids import PostgresGrids
from experiment_adapters.postgres.telemetry.known import KnownHeaders
from experiment_adapters.postgres.telemetry.layers import PostgresLayers
from experiment_adapters.postgres.telemetry.live import PostgresLive
from experiment_adapters.postgres.telemetry.store import PostgresTelemetry
from experiment_adapters.postgres.vigils import PostgresSensorVigils, PostgresVigils
from experiment_adapters.postgres.webhooks import PostgresWebhookDeliveries, PostgresWebhookSubscriptions
from experiment_domain.kernel.access import Grants, Principal, Role, SensorToken, User
from experiment_domain.kernel.errors import Unauthenticated
from experiment_domain.kernel.values import JSON_INTEGER
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork


class PostgresUnitOfWork(UnitOfWork):
    """One transaction, or, where it only reads, statements that each see what is committed."""

    def __init__(self, statements: Statements, principal: Principal, known: KnownHeaders, edges: Edges) -> None:
        self._statements = statements
        self._principal = principal
        self._known = known
        self._edges = edges
        # A user's memberships travel with whatever is asked first.
        self._memberships: Answer | None = None
        if isinstance(principal, User):
            self._memberships = statements.ask(
                "SELECT project_id, role FROM project_members WHERE user_id = %s", [principal.id]
            )

    @cached_property
    def projects(self) -> PostgresProjects:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresProjects(self._statements)

    @cached_property
    def experiments(self) -> PostgresExperiments:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresExperiments(self._statements)

    @cached_property
    def runs(self) -> PostgresRuns:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresRuns(self._statements)

    @cached_property
    def captures(self) -> PostgresCaptures:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresCaptures(self._statements)

    @cached_property
    def artifacts(self) -> PostgresArtifacts:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresArtifacts(self._statements)

    @cached_property
    def cards(self) -> PostgresRunCards:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresRunCards(self._statements)

    @cached_property
    def sensors(self) -> PostgresSensors:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresSensors(self._statements)

    @cached_property
    def conversion_profiles(self) -> PostgresConversionProfiles:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresConversionProfiles(self._statements)

    @cached_property
    def telemetry(self) -> PostgresTelemetry:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresTelemetry(self._statements)

    @cached_property
    def envelopes(self) -> PostgresEnvelopes:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresEnvelopes(self._statements, self._known, self._edges)

    @cached_property
    def grids(self) -> PostgresGrids:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresGrids(self._statements)

    @cached_property
    def live(self) -> PostgresLive:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresLive(self._statements)

    @cached_property
    def scalars(self) -> PostgresScalars:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresScalars(self._statements)

    @cached_property
    def layers(self) -> PostgresLayers:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresLayers(self._statements)

    @cached_property
    def compaction(self) -> PostgresCompaction:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresCompaction(self._statements)

    @cached_property
    def backfills(self) -> PostgresBackfills:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresBackfills(self._statements)

    @cached_property
    def exports(self) -> PostgresExports:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresExports(self._statements)

    @cached_property
    def webhook_subscriptions(self) -> PostgresWebhookSubscriptions:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresWebhookSubscriptions(self._statements)

    @cached_property
    def webhook_deliveries(self) -> PostgresWebhookDeliveries:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresWebhookDeliveries(self._statements)

    @cached_property
    def history(self) -> PostgresStatusHistory:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresStatusHistory(self._statements)

    @cached_property
    def audit(self) -> PostgresAuditLog:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresAuditLog(self._statements)

    @cached_property
    def events(self) -> PostgresOutbox:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresOutbox(self._statements)

    @cached_property
    def idempotency(self) -> PostgresIdempotency:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresIdempotency(self._statements)

    @cached_property
    def chores(self) -> PostgresChores:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresChores(self._statements)

    @cached_property
    def relays(self) -> PostgresRelays:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresRelays(self._statements)

    @cached_property
    def backlog(self) -> PostgresBacklog:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresBacklog(self._statements)

    @cached_property
    def vigils(self) -> PostgresVigils:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresVigils(self._statements)

    @cached_property
    def sensor_vigils(self) -> PostgresSensorVigils:  # pyright: ignore[reportIncompatibleVariableOverride]
        return PostgresSensorVigils(self._statements)

    async def grants(self, at: datetime) -> Grants:
        principal = self._principal
        if isinstance(principal, User):
            assert self._memberships is not None  # noqa: S101 - asked for where the unit of work began
            rows = await self._memberships.rows()
            return Grants.of_user(principal, {project_id: Role(role) for project_id, role in rows})
        if isinstance(principal, SensorToken):
            token = principal.token_hash
            row = await self._statements.ask(
                f"SELECT id, project_id FROM sensors WHERE {HAS_TOKEN}", [token, token, at]
            ).row()
            if row is None:
                raise Unauthenticated("This sensor token is unknown or has been rotated.")
            sensor_id, project_id = row
            return Grants(actor=f"sensor:{sensor_id}", roles={project_id: Role.SENSOR}, sensor_id=sensor_id)
        return Grants(actor=principal.actor, everywhere=principal.role)

    async def commit(self) -> None:
        await self._statements.commit()


class PostgresUnitsOfWork(UnitsOfWork):
    """Begins units of work on the connections of a pool, and of a second one for reading where there is a replica."""

    def __init__(self, pool: Pool, read_pool: Pool, news: PostgresNews, patience: float) -> None:
        self._pool = pool
        self._read_pool = read_pool
        self._news = news
        self._patience = patience
        self._known = KnownHeaders()
        self._edges = Edges()

    @property
    def news(self) -> PostgresNews:
        return self._news

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str | None = None, settings: DatabaseSettings | None = None
    ) -> AsyncGenerator["PostgresUnitsOfWork"]:
        """Open the pools of `settings`, or of a libpq `url` with the usual ones, and close them at the end."""
        if settings is None:
            if url is None:
                raise TypeError("a database needs a url or settings")
            settings = DatabaseSettings(url=url)
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(_pool(settings, settings.url, writing=True))
            read_pool = pool
            if settings.read_url is not None:
                read_pool = await stack.enter_async_context(_pool(settings, settings.read_url, writing=False))
            listener = PostgresNews(pool, settings.url, _parameters(settings, settings.url, True), settings.patience)
            news = await stack.enter_async_context(listener.lasting())
            yield cls(pool, read_pool, news, settings.patience)

    @asynccontextmanager
    async def begin(self, principal: Principal, *, read_only: bool = False) -> AsyncGenerator[UnitOfWork]:
        """A unit of work for `principal`."""
        pool = self._read_pool if read_only else self._pool
        statements = Statements(pool, in_transaction=not read_only, patience=self._patience)
        try:
            yield PostgresUnitOfWork(statements, principal, self._known, self._edges)
        finally:
            await statements.close()
            self._news.tell(statements.news)

    async def check(self, *, read_only: bool = False) -> None:
        """Ask the database, or the one to read from, whether it is there and has tables.

        Raises `Unavailable` where it does not answer, and the driver's error where it has none.
        """
        with refusals():
            async with (self._read_pool if read_only else self._pool).connection() as connection:
                await connection.execute("SELECT FROM projects LIMIT 0")  # one without tables is of no use


def _parameters(settings: DatabaseSettings, url: str, writing: bool) -> dict[str, object]:
    """How each connection is made."""
    own = conninfo_to_dict(url).get("options") or ""
    milliseconds = int(settings.statement_timeout * 1000)
    parameters: dict[str, object] = {
        "autocommit": True,  # transactions are begun and committed in the pipeline, as statements
        "connect_timeout": settings.connect_timeout,
        "tcp_user_timeout": int(settings.statement_timeout * 1000),
        "application_name": "experiment-service",
        "options": (
            f"{own} -c statement_timeout={milliseconds}"
            f" -c idle_in_transaction_session_timeout=30000 -c timezone=UTC -c jit=off"
            # What is asked for often is in memory, where any page is as near as the next one.
            f" -c random_page_cost=1.1"
        ),
    }
    if writing:
        parameters["target_session_attrs"] = "read-write"
    return parameters


def _pool(settings: DatabaseSettings, url: str, *, writing: bool) -> Pool:
    async def configure(connection: Connection) -> None:
        arrays.register(connection)
        set_json_dumps(msgspec.json.encode, connection)
        set_json_loads(_json, connection)

    async def check(connection: AsyncConnection[tuple[object, ...]]) -> None:
        # A former primary still answers: what matters is whether it takes writes.
        cursor = await connection.execute("SELECT pg_is_in_recovery()")
        row = await cursor.fetchone()
        if writing and row and row[0]:
            raise psycopg.OperationalError("this server has become a standby")

    return Pool(
        url,
        connection_class=AsyncConnection[tuple[object, ...]],
        kwargs=_parameters(settings, url, writing),
        min_size=settings.pool_min,
        max_size=settings.pool_max,
        timeout=settings.pool_timeout,
        reconnect_timeout=30.0,
        configure=configure,
        check=check if _fails_over(url) else None,  # a round trip for each unit of work
        open=False,
        name="writing" if writing else "reading",
    )


def _json(text: str | bytes) -> Any:
    return json.loads(text, parse_int=_number)


def _number(digits: str) -> int | float:
    """A number without a fraction. The domain takes integers of 64 bits: one beyond is a float, kept as numeric."""
    number = int(digits)
    return number if -JSON_INTEGER <= number < JSON_INTEGER else float(number)


def _fails_over(url: str) -> bool:
    """Whether there are several hosts: only then can a connection of the pool outlive its server's being primary."""
    return "," in str(conninfo_to_dict(url).get("host") or "")
