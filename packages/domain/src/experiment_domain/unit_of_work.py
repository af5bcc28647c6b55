"""The transaction port: hands out the repositories, and makes all of a command's writes true at once."""

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from experiment_domain.artifacts import ArtifactRepository
from experiment_domain.audit import AuditLog
from experiment_domain.backfills import BackfillRepository
from experiment_domain.backlog import Backlog
from experiment_domain.captures import CaptureSessionRepository
from experiment_domain.cards import RunCards
from experiment_domain.chores import ChoreBook
from experiment_domain.conversions.profiles import ConversionProfileRepository
from experiment_domain.experiments import ExperimentRepository
from experiment_domain.exports.jobs import ExportRepository
from experiment_domain.idempotency import IdempotencyRecords
from experiment_domain.kernel.access import Grants, Principal
from experiment_domain.kernel.entity import StatusHistory
from experiment_domain.kernel.events import EventLog
from experiment_domain.kernel.news import News
from experiment_domain.projects import ProjectRepository
from experiment_domain.relays import RelayPlaces
from experiment_domain.runs import RunRepository
from experiment_domain.scalars import ScalarMetrics
from experiment_domain.sensors import SensorRepository
from experiment_domain.telemetry.compaction import Compaction
from experiment_domain.telemetry.envelopes import Envelopes
from experiment_domain.telemetry.grids import Grids
from experiment_domain.telemetry.layers import PhysicalLayers
from experiment_domain.telemetry.live import LiveReadings
from experiment_domain.telemetry.store import TelemetryStore
from experiment_domain.vigils import RunVigils, SensorVigils
from experiment_domain.webhooks.deliveries import WebhookDeliveryRepository
from experiment_domain.webhooks.subscriptions import WebhookSubscriptionRepository


class UnitOfWork(Protocol):
    """One transaction. Reads are awaited; writes are taken at once and sent together, at the latest by `commit`.

    A read sees the writes before it. Leaving the context without `commit` leaves nothing behind. What the
    database refuses is raised as a `Refusal` by the read or commit that sent it.
    """

    projects: ProjectRepository
    experiments: ExperimentRepository
    runs: RunRepository
    captures: CaptureSessionRepository
    artifacts: ArtifactRepository
    cards: RunCards
    sensors: SensorRepository
    conversion_profiles: ConversionProfileRepository
    telemetry: TelemetryStore
    envelopes: Envelopes
    grids: Grids
    live: LiveReadings
    scalars: ScalarMetrics
    layers: PhysicalLayers
    compaction: Compaction
    backfills: BackfillRepository
    exports: ExportRepository
    webhook_subscriptions: WebhookSubscriptionRepository
    webhook_deliveries: WebhookDeliveryRepository
    history: StatusHistory
    audit: AuditLog
    events: EventLog
    idempotency: IdempotencyRecords
    chores: ChoreBook
    relays: RelayPlaces
    backlog: Backlog
    vigils: RunVigils
    sensor_vigils: SensorVigils

    @abstractmethod
    async def grants(self, at: datetime) -> Grants:
        """What the principal of this unit of work may do where; `at` is when, since tokens die.

        Raises `Unauthenticated` where the principal is a sensor token that no sensor has.
        """

    @abstractmethod
    async def commit(self) -> None:
        """Make all writes true and durable. Raises `VersionMismatch` where a saved entity had changed."""


class UnitsOfWork(Protocol):
    """Begins units of work."""

    @abstractmethod
    def begin(self, principal: Principal, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """A unit of work for `principal`. A read-only one takes no locks and may be served by a replica."""

    @property
    @abstractmethod
    def news(self) -> News:
        """Hints of what units of work have committed."""
