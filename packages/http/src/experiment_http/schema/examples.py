"""An event of every type, as the aggregates' own commands tell it: the examples of the AsyncAPI document."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from attrs import define, evolve, field

from experiment_domain.artifacts import Artifact, ArtifactStatus
from experiment_domain.backfills import ATTEMPTS, Backfill
from experiment_domain.captures import CaptureSession, CaptureStatus, Pin
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import ProfileKind
from experiment_domain.events import CaptureLateData
from experiment_domain.experiments import Experiment, ExperimentStatus
from experiment_domain.kernel.entity import Change
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.projects import Project
from experiment_domain.runs import Run, RunStatus, Tagging
from experiment_domain.sensors import DELAYED_FOR, Sensor
from experiment_domain.vigils import SensorVigil
from experiment_domain.webhooks.subscriptions import WebhookSubscription

BEGAN = datetime(2026, 3, 9, 10, 14, 33, tzinfo=UTC)
BY = "ada"
REASON = "The heater is off."


@define
class _Story:
    """What happens in a project, each thing a second after the one before."""

    told: dict[str, Event] = field(factory=dict[str, Event])
    now: datetime = BEGAN
    count: int = 0

    def id(self) -> UUID:
        """The next id: ids of version 7 begin with the time."""
        self.count += 1
        return UUID(f"01957989-14c8-7bb2-8f0d-{self.count:012x}")

    def tell(self, *events: Event) -> None:
        """Keep the first event of each type."""
        for event in events:
            self.told.setdefault(event.type, event)
        self.now += timedelta(seconds=1)


def examples() -> dict[str, RecordedEvent]:
    """An event of every type that there is, by type."""
    story = _Story()
    _tell(story)
    return {name: RecordedEvent(id=story.id(), event=event, actor=BY) for name, event in sorted(story.told.items())}


def _tell(story: _Story) -> None:
    project = Project.create(project_id=story.id(), at=story.now, by=BY, name="Rig 7").result
    story.tell(*project.edit(at=story.now, physical_only=True).events)
    made = Experiment.create(experiment_id=story.id(), project_id=project.id, at=story.now, by=BY, name="Creep of 316L")
    story.tell(*made.events)
    started = made.result.start(at=story.now)
    story.tell(*started.events)
    run = _tell_of_run(story, started.result)
    sensor, profile = _tell_of_sensor(story, run)
    _tell_of_session(story, run, sensor, profile)
    _tell_of_artifact(story, run)
    for target in (ExperimentStatus.FINISHED, ExperimentStatus.FAILED, ExperimentStatus.ARCHIVED):
        story.tell(*started.result.end(target, running_runs=(), at=story.now, reason=REASON).events)
    _tell_of_webhook(story, project)


def _tell_of_run(story: _Story, experiment: Experiment) -> Run:
    made = Run.create(run_id=story.id(), experiment=experiment, at=story.now, by=BY, name="316L at 650 °C")
    story.tell(*made.events)
    started = made.result.start(experiment=experiment, at=story.now)
    story.tell(*started.events)
    run = started.result
    story.tell(*run.retag(Tagging.create(add_tags=["nightly", "rig 7"]), at=story.now).events)
    story.tell(run.warn_silent(at=story.now))
    for target in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.ARCHIVED):
        story.tell(*run.end(target, active_sessions=(), at=story.now, reason=REASON).events)
    story.tell(*run.time_out(active_sessions=(), at=story.now).events)
    return run


def _tell_of_sensor(story: _Story, run: Run) -> tuple[Sensor, ConversionProfile]:
    made = Sensor.register(
        sensor_id=story.id(),
        project_id=run.project_id,
        token_hash=b"",
        at=story.now,
        by=BY,
        name="TC-1",
        sensor_type="thermocouple",
        input_unit="mV",
        display_unit="°C",
    )
    sensor = made.result
    story.tell(*made.events)
    story.tell(run.binding(sensor.id, at=story.now))
    story.tell(run.unbinding(sensor.id, at=story.now))
    story.tell(*sensor.rotate_token(token_hash=b"", grace=3600.0, at=story.now).events)
    seen = sensor.seen(at=story.now).result
    silent = SensorVigil(sensor=seen, look_at=story.now + DELAYED_FOR, is_told_offline=False)
    gone, offline = silent.looked(story.now + DELAYED_FOR)
    _, online = evolve(gone, sensor=evolve(seen, last_seen_at=story.now + DELAYED_FOR)).looked(story.now + DELAYED_FOR)
    story.tell(*(event for event in (offline, online) if event is not None))
    story.tell(*sensor.retire(active_sessions=(), at=story.now).events)
    drafted = ConversionProfile.draft(
        profile_id=story.id(),
        project_id=sensor.project_id,
        sensor_id=sensor.id,
        profile_version=1,
        kind=ProfileKind.LINEAR,
        parameters={"a": 24.1, "b": 0.0},
        at=story.now,
        by=BY,
        input_unit="mV",
        output_unit="°C",
    )
    published = drafted.result.publish(at=story.now)
    story.tell(*published.events)
    story.tell(*published.result.retire(at=story.now).events)
    return sensor, published.result


def _tell_of_session(story: _Story, run: Run, sensor: Sensor, profile: ConversionProfile) -> None:
    made = CaptureSession.create(session_id=story.id(), run=run, ordinal=1, at=story.now, by=BY, notes=None)
    story.tell(*made.events)
    pins = (Pin(sensor_id=sensor.id, profile_id=profile.id, profile_version=profile.profile_version),)
    started = made.result.start(run=run, pins=pins, running_sessions=(), at=story.now)
    story.tell(*started.events)
    completed = started.result.stop(CaptureStatus.SUCCEEDED, at=story.now)
    story.tell(*completed.events)
    session = completed.result
    late = CaptureLateData(run_id=run.id, sensor_id=sensor.id, readings=600)
    story.tell(session.event(late, story.now))
    _tell_of_backfills(story, session, profile)
    story.tell(*session.archive(at=story.now, reason=REASON).events)
    failed = started.result.stop(CaptureStatus.FAILED, at=story.now, reason=REASON)
    story.tell(*failed.events)
    deleted = failed.result.delete(at=story.now)
    story.tell(*deleted.events)
    story.tell(*deleted.result.restore(at=story.now).events)


def _tell_of_backfills(story: _Story, session: CaptureSession, profile: ConversionProfile) -> None:
    asked = Backfill.request(
        backfill_id=story.id(), session=session, sensor_id=profile.sensor_id, profile=profile, at=story.now, by=BY
    )
    taken = asked.result.take_up(chunks_total=12, at=story.now)
    story.tell(*taken.events)
    backfill = taken.result
    story.tell(*backfill.succeed(chunks=12, readings=12_000, at=story.now).events)
    story.tell(backfill.applied(profile, instead_of=None, at=story.now))
    story.tell(*_stumbled(backfill, story.now))
    story.tell(*backfill.cancel(at=story.now, reason=REASON).events)


def _stumbled(backfill: Backfill, at: datetime) -> Iterable[Event]:
    """What is told of one that has come to nothing so often that it is given up."""
    change: Change[Backfill] = backfill.stumble("The database was away.", at=at)
    for _ in range(ATTEMPTS - 1):
        change = change.result.take_up(chunks_total=12, at=at).result.stumble("The database was away.", at=at)
    return change.events


def _tell_of_artifact(story: _Story, run: Run) -> None:
    made = Artifact.register(
        artifact_id=story.id(), run=run, at=story.now, by=BY, name="Surrogate", uri="s3://models/surrogate.onnx"
    )
    story.tell(*made.events)
    for change in _moves(made.result, story.now):
        story.tell(*change.events)


def _moves(artifact: Artifact, at: datetime) -> Iterator[Change[Artifact]]:
    for target in (
        ArtifactStatus.REJECTED,
        ArtifactStatus.PENDING,
        ArtifactStatus.APPROVED,
        ArtifactStatus.REVOKED,
    ):
        change = artifact.move(target, at=at, reason=REASON)
        artifact = change.result
        yield change


def _tell_of_webhook(story: _Story, project: Project) -> None:
    subscription = WebhookSubscription.create(
        subscription_id=story.id(),
        project_id=project.id,
        sealed_secret=b"",
        at=story.now,
        by=BY,
        url="https://reports.example/hooks",
        event_types=["run.*", "capture.completed"],
    ).result
    story.tell(subscription.test(at=story.now))
    story.tell(*subscription.disable(at=story.now, reason="its endpoint answered 410 Gone").events)
