"""The door of the library: give `Services` its ports, and begin units of work on behalf of callers."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cached_property

from attrs import field, frozen

from experiment_domain.conversions.rules import Converter, ScalarConverter
from experiment_domain.exports.files import ExportFiles, ExportFormat, ExportPolicy, NoExportFiles
from experiment_domain.exports.jobs import FileFormat
from experiment_domain.idempotency import IdempotencyRecords
from experiment_domain.kernel.access import Caller, Principal
from experiment_domain.kernel.clock import Clock, SystemClock
from experiment_domain.kernel.ids import Ids, TimeOrderedIds
from experiment_domain.spool import Senders
from experiment_domain.telemetry.admissions import Admissions
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_domain.usecases.artifacts import ArtifactUseCases
from experiment_domain.usecases.audit import AuditUseCases
from experiment_domain.usecases.backfills import BackfillUseCases
from experiment_domain.usecases.captures import CaptureUseCases
from experiment_domain.usecases.cards import CardUseCases
from experiment_domain.usecases.comparisons import ComparisonUseCases
from experiment_domain.usecases.conversions import ConversionUseCases
from experiment_domain.usecases.events import EventUseCases
from experiment_domain.usecases.experiments import ExperimentUseCases
from experiment_domain.usecases.exports import ExportUseCases
from experiment_domain.usecases.live import LiveUseCases
from experiment_domain.usecases.projects import ProjectUseCases
from experiment_domain.usecases.recording import Recorder
from experiment_domain.usecases.runs import RunUseCases
from experiment_domain.usecases.scalars import ScalarUseCases
from experiment_domain.usecases.sensors import SensorUseCases
from experiment_domain.usecases.telemetry import TelemetryUseCases
from experiment_domain.usecases.webhook_deliveries import WebhookDeliveryUseCases
from experiment_domain.usecases.webhooks import WebhookUseCases
from experiment_domain.webhooks.secrets import NoSecretBox, SecretBox
from experiment_domain.webhooks.sending import DeliveryPolicy, NoSender, WebhookSender


class Work:
    """One unit of work on behalf of one caller: the use cases, whose effects become true together."""

    def __init__(self, uow: UnitOfWork, caller: Caller, services: "Services") -> None:
        self._uow = uow
        self._recorder = Recorder(uow, caller, services.clock, services.ids)
        self._converter = services.converter
        self._senders = services.senders
        self._admissions = services.admissions
        self._services = services

    @cached_property
    def projects(self) -> ProjectUseCases:
        """Projects and members."""
        return ProjectUseCases(self._recorder)

    @cached_property
    def experiments(self) -> ExperimentUseCases:
        """Experiments."""
        return ExperimentUseCases(self._recorder)

    @cached_property
    def runs(self) -> RunUseCases:
        """Runs and the sensors bound to them."""
        return RunUseCases(self._recorder)

    @cached_property
    def captures(self) -> CaptureUseCases:
        """Capture sessions."""
        return CaptureUseCases(self._recorder)

    @cached_property
    def artifacts(self) -> ArtifactUseCases:
        """Artifacts of runs."""
        return ArtifactUseCases(self._recorder)

    @cached_property
    def cards(self) -> CardUseCases:
        """Runs at a glance."""
        return CardUseCases(self._recorder)

    @cached_property
    def sensors(self) -> SensorUseCases:
        """Sensors and their tokens."""
        return SensorUseCases(self._recorder)

    @cached_property
    def conversions(self) -> ConversionUseCases:
        """Conversion profiles."""
        return ConversionUseCases(self._recorder, self._converter)

    @cached_property
    def telemetry(self) -> TelemetryUseCases:
        """Readings in and out."""
        return TelemetryUseCases(self._recorder, self._converter, self._senders, self._admissions)

    @cached_property
    def backfills(self) -> BackfillUseCases:
        """Backfills of capture sessions."""
        return BackfillUseCases(self._recorder, self._converter)

    @cached_property
    def exports(self) -> ExportUseCases:
        """Exports of readings as files."""
        return ExportUseCases(self._recorder, self._services.export_files, self._services.export_policy)

    @cached_property
    def scalars(self) -> ScalarUseCases:
        """Scalar metrics of runs."""
        return ScalarUseCases(self._recorder)

    @cached_property
    def comparisons(self) -> ComparisonUseCases:
        """Runs side by side."""
        return ComparisonUseCases(self._recorder)

    @cached_property
    def webhooks(self) -> WebhookUseCases:
        """Subscriptions of other services to events."""
        return WebhookUseCases(self._recorder, self._services.box)

    @cached_property
    def webhook_deliveries(self) -> WebhookDeliveryUseCases:
        """Deliveries of events to them."""
        return WebhookDeliveryUseCases(self._recorder, self._services.delivery_policy)

    @cached_property
    def audit(self) -> AuditUseCases:
        """The audit log."""
        return AuditUseCases(self._recorder)

    @cached_property
    def live(self) -> LiveUseCases:
        """Readings as they come in."""
        return LiveUseCases(self._recorder)

    @cached_property
    def events(self) -> EventUseCases:
        """What has happened."""
        return EventUseCases(self._recorder)

    @property
    def idempotency(self) -> IdempotencyRecords:
        """First answers, for the edge that gives them."""
        return self._uow.idempotency

    @property
    def now(self) -> datetime:
        """The present moment. What is changed has another one: that at which everything it needs was locked."""
        return self._recorder.clock.now()

    def finish(self) -> None:
        """Keep what is to be kept last, before the commit."""
        self._recorder.finish()

    async def check_caller(self) -> None:
        """Raise `Unauthenticated` unless the caller is still known: a sensor's token may have been rotated."""
        await self._recorder.grants()


@frozen(kw_only=True)
class Services:
    """Everything Experiment Service does, given its ports.

    `async with services.begin(caller) as work:` is one transaction: it commits where the block ends, and
    leaves nothing behind where the block raises.
    """

    units_of_work: UnitsOfWork
    clock: Clock = field(factory=SystemClock)
    ids: Ids = field(factory=TimeOrderedIds)
    converter: Converter = field(factory=ScalarConverter)
    senders: Senders = field(factory=Senders)
    admissions: Admissions = field(factory=Admissions)
    box: SecretBox = field(factory=NoSecretBox)
    webhook_sender: WebhookSender = field(factory=NoSender)
    delivery_policy: DeliveryPolicy = field(factory=DeliveryPolicy)
    export_files: ExportFiles = field(factory=NoExportFiles)
    export_formats: Mapping[FileFormat, ExportFormat] = field(factory=dict[FileFormat, ExportFormat])
    export_policy: ExportPolicy = field(factory=ExportPolicy)

    @asynccontextmanager
    async def begin(self, caller: Caller | Principal) -> AsyncGenerator[Work]:
        """A unit of work for commands."""
        caller = caller if isinstance(caller, Caller) else Caller(principal=caller)
        async with self.units_of_work.begin(caller.principal) as uow:
            work = Work(uow, caller, self)
            yield work
            work.finish()
            await uow.commit()

    @asynccontextmanager
    async def read(self, caller: Caller | Principal) -> AsyncGenerator[Work]:
        """A unit of work for queries: it takes no locks and commits nothing."""
        caller = caller if isinstance(caller, Caller) else Caller(principal=caller)
        async with self.units_of_work.begin(caller.principal, read_only=True) as uow:
            yield Work(uow, caller, self)
