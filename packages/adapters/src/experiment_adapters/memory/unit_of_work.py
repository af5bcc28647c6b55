"""Units of work in memory: one after the other, each undone unless it commits."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from experiment_adapters.memory.artifacts import MemoryArtifacts
from experiment_adapters.memory.audit import MemoryAuditLog
from experiment_adapters.memory.backfills import MemoryBackfills
from experiment_adapters.memory.backlog import MemoryBacklog
from experiment_adapters.memory.captures import MemoryCaptures
from experiment_adapters.memory.cards import MemoryRunCards
from experiment_adapters.memory.chores import MemoryChores
from experiment_adapters.memory.compaction import MemoryCompaction
from experiment_adapters.memory.conversions import MemoryConversionProfiles
from experiment_adapters.memory.envelopes import MemoryEnvelopes
from experiment_adapters.memory.events import MemoryEvents
from experiment_adapters.memory.experiments import MemoryExperiments
from experiment_adapters.memory.exports import MemoryExports
from experiment_adapters.memory.grids import MemoryGrids
from experiment_adapters.memory.history import MemoryStatusHistory
from experiment_adapters.memory.idempotency import MemoryIdempotency
from experiment_adapters.memory.layers import MemoryLayers
from experiment_adapters.memory.live import MemoryLive
from experiment_adapters.memory.projects import MemoryProjects
from experiment_adapters.memory.relays import MemoryRelays
from experiment_adapters.memory.runs import MemoryRuns
from experiment_adapters.memory.scalars import MemoryScalars
from experiment_adapters.memory.sensors import MemorySensors
from experiment_adapters.memory.store import Store, Transaction
from experiment_adapters.memory.telemetry import MemoryTelemetry
from experiment_adapters.memory.turn import Turn
from experiment_adapters.memory.vigils import MemorySensorVigils, MemoryVigils
from experiment_adapters.memory.webhooks import MemoryWebhookDeliveries, MemoryWebhookSubscriptions
from experiment_adapters.news import Bell
from experiment_domain.kernel.access import Grants, Integration, Principal, Role, SensorToken, System
from experiment_domain.kernel.errors import Unauthenticated
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork


class MemoryUnitOfWork(UnitOfWork):
    """One unit of work, alone with the store."""

    def __init__(self, store: Store, transaction: Transaction, principal: Principal, bell: Bell) -> None:
        self._store = store
        self._transaction = transaction
        self._principal = principal
        self._bell = bell
        captures = MemoryCaptures(store, transaction)
        sensors = MemorySensors(store, transaction)
        self.projects = MemoryProjects(store, transaction)
        self.experiments = MemoryExperiments(store, transaction)
        self.runs = MemoryRuns(store, transaction)
        self.captures = captures
        self.artifacts = MemoryArtifacts(store, transaction)
        self.cards = MemoryRunCards(store, transaction)
        self.sensors = sensors
        self.conversion_profiles = MemoryConversionProfiles(store, transaction)
        self.layers = MemoryLayers(store, transaction)
        self.compaction = MemoryCompaction()
        self.telemetry = MemoryTelemetry(store, transaction, sensors, captures, self.layers)
        self.envelopes = MemoryEnvelopes(store, transaction)
        self.grids = MemoryGrids(store, transaction, captures)
        self.live = MemoryLive(store, transaction)
        self.backfills = MemoryBackfills(store, transaction)
        self.exports = MemoryExports(store, transaction)
        self.scalars = MemoryScalars(store, transaction)
        self.webhook_subscriptions = MemoryWebhookSubscriptions(store, transaction)
        self.webhook_deliveries = MemoryWebhookDeliveries(store, transaction)
        self.history = MemoryStatusHistory(store, transaction)
        self.audit = MemoryAuditLog(store, transaction)
        self.events = MemoryEvents(store, transaction)
        self.idempotency = MemoryIdempotency(store, transaction)
        self.chores = MemoryChores(store, transaction)
        self.relays = MemoryRelays(store, transaction)
        self.backlog = MemoryBacklog(store, transaction)
        self.vigils = MemoryVigils(store, transaction)
        self.sensor_vigils = MemorySensorVigils(store, transaction)

    async def grants(self, at: datetime) -> Grants:
        self._transaction.settle()
        principal = self._principal
        if isinstance(principal, System | Integration):
            return Grants(actor=principal.actor, everywhere=principal.role)
        if isinstance(principal, SensorToken):
            sensor = await self.sensors.by_token(principal.token_hash, at)
            if sensor is None:
                raise Unauthenticated("This sensor token is unknown or has been rotated.")
            return Grants(actor=f"sensor:{sensor.id}", roles={sensor.project_id: Role.SENSOR}, sensor_id=sensor.id)
        memberships: dict[UUID, Role] = {
            member.project_id: member.role for member in self._store.members.values() if member.user_id == principal.id
        }
        return Grants.of_user(principal, memberships)

    async def commit(self) -> None:
        if self._transaction.commit():
            self._bell.ring()


class MemoryUnitsOfWork(UnitsOfWork):
    """Begins units of work on a store of its own. Each waits for the one before it, readers too."""

    def __init__(self) -> None:
        self._store = Store()
        self._turn = Turn()
        self._bell = Bell()

    @property
    def events(self) -> list[RecordedEvent]:
        """All events so far, oldest first."""
        return list(self._store.events)

    @property
    def news(self) -> Bell:
        return self._bell

    @asynccontextmanager
    async def begin(self, principal: Principal, *, read_only: bool = False) -> AsyncGenerator[UnitOfWork]:
        async with self._turn:
            transaction = Transaction(read_only=read_only)
            try:
                yield MemoryUnitOfWork(self._store, transaction, principal, self._bell)
            finally:
                transaction.roll_back()
