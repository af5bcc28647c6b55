"""Entities to test with: plain ones of every noun, ids that ascend, and a clock that stands still until it is set."""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from experiment_domain.artifacts import Artifact
from experiment_domain.backfills import Backfill
from experiment_domain.captures import CaptureSession
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import Linear
from experiment_domain.experiments import Experiment
from experiment_domain.exports.jobs import Export, FileFormat
from experiment_domain.exports.scopes import ExportScope
from experiment_domain.kernel.clock import Clock
from experiment_domain.kernel.ids import Ids, TimeOrderedIds
from experiment_domain.projects import Project
from experiment_domain.runs import Run
from experiment_domain.sensors import Sensor, new_token, token_hash
from experiment_domain.telemetry.batches import Batch, Column
from experiment_domain.telemetry.store import Layer
from experiment_domain.webhooks.deliveries import WebhookDelivery
from experiment_domain.webhooks.subscriptions import WebhookSubscription

NOW = datetime(2026, 3, 9, 10, 14, 33, 123_457, tzinfo=UTC)

fresh = TimeOrderedIds().new


class SettableClock(Clock):
    """Stands still until it is set."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def pass_by(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


class CountedIds(Ids):
    """1, 2, 3 … as identifiers."""

    def __init__(self) -> None:
        self.count = 0

    def new(self) -> UUID:
        self.count += 1
        return UUID(int=self.count)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def _facts(values: dict[str, Any]) -> dict[str, Any]:
    return {"id": fresh(), "created_at": NOW, "updated_at": NOW, "created_by": "ann", **values}


def a_project(**values: Any) -> Project:
    values = _facts({"name": "Rig 7", **values})
    return Project(project_id=values["id"], **values)


def an_experiment(project: Project | None = None, **values: Any) -> Experiment:
    project_id = fresh() if project is None else project.id
    return Experiment(**_facts({"project_id": project_id, "name": "Creep of 316L", **values}))


def a_run(experiment: Experiment | None = None, **values: Any) -> Run:
    experiment = experiment or an_experiment()
    return Run(
        **_facts({"project_id": experiment.project_id, "experiment_id": experiment.id, "name": "Run A", **values})
    )


def a_session(run: Run | None = None, **values: Any) -> CaptureSession:
    run = run or a_run()
    return CaptureSession(**_facts({"project_id": run.project_id, "run_id": run.id, "ordinal": 1, **values}))


def an_artifact(run: Run | None = None, **values: Any) -> Artifact:
    run = run or a_run()
    plain = {"name": "Surrogate model", "uri": "s3://models/surrogate.onnx"}
    return Artifact(**_facts({"project_id": run.project_id, "run_id": run.id, **plain, **values}))


def a_sensor(project: Project | None = None, **values: Any) -> Sensor:
    project_id = fresh() if project is None else project.id
    plain = {"name": "TC-1", "sensor_type": "thermocouple", "input_unit": "mV", "display_unit": "°C"}
    token = token_hash(new_token())
    return Sensor(**_facts({"project_id": project_id, "token_hash": token, **plain, **values}))


def a_profile(sensor: Sensor | None = None, **values: Any) -> ConversionProfile:
    sensor = sensor or a_sensor()
    plain = {"profile_version": 1, "rule": Linear(2.0, 1.0), "input_unit": "mV", "output_unit": "°C"}
    return ConversionProfile(**_facts({"project_id": sensor.project_id, "sensor_id": sensor.id, **plain, **values}))


def a_backfill(session: CaptureSession | None = None, **values: Any) -> Backfill:
    session = session or a_session()
    ids = {name: fresh() for name in ("sensor_id", "profile_id")}
    plain = {"capture_session_id": session.id, "run_id": session.run_id, "profile_version": 1, "queued_at": NOW}
    return Backfill(**_facts({"project_id": session.project_id, **plain, **ids, **values}))


def an_export(project: Project | None = None, **values: Any) -> Export:
    project_id = fresh() if project is None else project.id
    plain = {"scope": ExportScope(), "format": FileFormat.CSV, "layer": Layer.PHYSICAL, "queued_at": NOW}
    return Export(**_facts({"project_id": project_id, **plain, **values}))


def a_subscription(project: Project | None = None, **values: Any) -> WebhookSubscription:
    project_id = fresh() if project is None else project.id
    plain = {"url": "https://hooks.example/rig-7", "event_types": ("run.*",), "sealed_secret": b"sealed"}
    return WebhookSubscription(**_facts({"project_id": project_id, **plain, **values}))


def a_delivery(subscription: WebhookSubscription | None = None, **values: Any) -> WebhookDelivery:
    subscription = subscription or a_subscription()
    plain = {"event_id": fresh(), "event_type": "run.started", "body": '{"specversion":"1.0"}'}
    facts = {"project_id": subscription.project_id, "subscription_id": subscription.id, **plain, **values}
    return WebhookDelivery(**_facts(facts))


def a_column(stamps: Sequence[int], values: Sequence[float], signal: str = "value") -> Column:
    return Column(signal, array("q", stamps), array("d", values))


def a_batch(*columns: Column, session: UUID | None = None, batch_id: str | None = None) -> Batch:
    return Batch(columns=columns, capture_session_id=session, batch_id=batch_id)
