"""A project with people and rigs in it, worked on through the library's own door."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from attrs import define

from entities import SettableClock, fresh
from experiment_adapters.exports.files import ObjectFiles
from experiment_adapters.exports.formats import FORMATS
from experiment_adapters.webhooks.box import AesGcmBox
from experiment_domain import Services, Work
from experiment_domain.artifacts import Artifact
from experiment_domain.audit import AuditRecord
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import ProfileKind
from experiment_domain.experiments import Experiment
from experiment_domain.kernel.access import Caller, Principal, Role, SensorToken, User
from experiment_domain.kernel.entity import StatusChange
from experiment_domain.projects import Project
from experiment_domain.runs import Run
from experiment_domain.sensors import token_hash
from experiment_domain.telemetry.batches import Batch
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.sensors import SensorWithToken
from experiment_domain.usecases.telemetry import Accepted
from experiment_domain.usecases.webhooks import WebhookWithSecret
from keeping import ask, audit_of

T = TypeVar("T")
SECRET_KEY = b"a secret key of the tests, of more than thirty-two bytes"


def a_user(name: str) -> User:
    """Somebody who is nobody else, in whatever store."""
    return User(id=f"{name}-{fresh()}")


@define
class Laboratory:
    """What the suites need of a project, each step a unit of work of its own, by its owner unless told otherwise."""

    units: UnitsOfWork
    services: Services
    clock: SettableClock
    project: Project
    owner: User
    editor: User
    viewer: User
    outsider: User

    @classmethod
    async def open(cls, units: UnitsOfWork, clock: SettableClock | None = None, **values: Any) -> "Laboratory":
        clock = clock or SettableClock()
        services = Services(
            units_of_work=units,
            clock=clock,
            box=AesGcmBox(SECRET_KEY),
            export_files=ObjectFiles.in_memory(),
            export_formats=FORMATS,
        )
        owner, editor, viewer, outsider = map(a_user, ("owner", "editor", "viewer", "outsider"))
        async with services.begin(owner) as work:
            project = await work.projects.create(**{"name": "Rig 7", **values})
            await work.projects.put_member(project.id, editor.id, Role.EDITOR)
            await work.projects.put_member(project.id, viewer.id, Role.VIEWER)
        return cls(units, services, clock, project, owner, editor, viewer, outsider)

    async def do(self, use: Callable[[Work], Awaitable[T]], by: Principal | Caller | None = None) -> T:
        """Do something and commit it."""
        async with self.services.begin(by or self.owner) as work:
            return await use(work)

    async def ask(self, question: Callable[[Work], Awaitable[T]], by: Principal | None = None) -> T:
        """Ask something."""
        async with self.services.read(by or self.owner) as work:
            return await question(work)

    async def experiment(self, **values: Any) -> Experiment:
        values = {"name": "Creep of 316L", **values}
        return await self.do(lambda work: work.experiments.create(project_id=self.project.id, **values))

    async def run(self, experiment: Experiment | None = None, *, start: bool = False, **values: Any) -> Run:
        experiment = experiment or await self.experiment()
        run = await self.do(lambda work: work.runs.create(experiment.id, **{"name": "Run A", **values}))
        return await self.do(lambda work: work.runs.start(run.id)) if start else run

    async def sensor(self, *runs: Run, **values: Any) -> SensorWithToken:
        plain = {"name": "TC-1", "sensor_type": "TC", "input_unit": "mV", "display_unit": "°C"}
        made = await self.do(lambda work: work.sensors.register(project_id=self.project.id, **{**plain, **values}))
        for run in runs:
            await self.do(lambda work: work.runs.bind(run.id, made.sensor.id))  # noqa: B023
        return made

    async def profile(
        self, made: SensorWithToken, a: float, b: float, *, publish: bool = True, **values: Any
    ) -> ConversionProfile:
        async def draft(work: Work) -> ConversionProfile:
            drafted = await work.conversions.draft(
                made.sensor.id, kind=ProfileKind.LINEAR, parameters={"a": a, "b": b}, **values
            )
            return await work.conversions.publish(drafted.id) if publish else drafted

        return await self.do(draft)

    async def session(self, run: Run, *, start: bool = True) -> CaptureSession:
        return await self.do(lambda work: work.captures.create(run.id, start=start))

    async def stop(self, session: CaptureSession, outcome: CaptureStatus = CaptureStatus.SUCCEEDED) -> CaptureSession:
        return await self.do(lambda work: work.captures.stop(session.id, outcome))

    async def artifact(self, run: Run, **values: Any) -> Artifact:
        values = {"name": "Surrogate model", "uri": "s3://models/surrogate.onnx", **values}
        return await self.do(lambda work: work.artifacts.register(run.id, **values))

    async def webhook(self, **values: Any) -> WebhookWithSecret:
        values = {"url": "https://hooks.example/rig-7", "event_types": ["*"], **values}
        return await self.do(lambda work: work.webhooks.create(project_id=self.project.id, **values))

    async def ingest(self, made: SensorWithToken, batch: Batch) -> Accepted:
        return await self.do(lambda work: work.telemetry.ingest(batch), by=token_of(made))

    async def audit(self) -> list[AuditRecord]:
        return await audit_of(self.units, self.project.id)

    async def history(self, noun: str, entity_id: UUID) -> list[StatusChange]:
        return list(await ask(self.units, lambda uow: uow.history.of(noun, entity_id)))


def token_of(made: SensorWithToken) -> SensorToken:
    """The sensor as a caller."""
    return SensorToken(token_hash=token_hash(made.token))
