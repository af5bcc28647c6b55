"""The state machines: their tables as the documentation states them, and the aggregates that obey them."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest
from attrs import evolve

from entities import (
    NOW,
    a_backfill,
    a_delivery,
    a_profile,
    a_run,
    a_sensor,
    a_session,
    a_subscription,
    an_artifact,
    an_experiment,
    an_export,
    fresh,
    later,
)
from experiment_domain.artifacts import ARTIFACT, ArtifactStatus
from experiment_domain.backfills import ATTEMPTS, BACKFILL, Backfill, BackfillStatus
from experiment_domain.captures import CAPTURE_SESSION, CaptureStatus, Pin
from experiment_domain.conversions.profiles import CONVERSION_PROFILE, ProfileStatus
from experiment_domain.experiments import EXPERIMENT, ExperimentStatus
from experiment_domain.exports.jobs import EXPORT, ExportStatus
from experiment_domain.kernel.entity import Change, unchanged
from experiment_domain.kernel.errors import InvalidTransition
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.runs import RUN, RunStatus
from experiment_domain.sensors import SENSOR, SensorStatus
from experiment_domain.webhooks.deliveries import WEBHOOK_DELIVERY, DeliveryStatus
from experiment_domain.webhooks.sending import DeliveryPolicy, Outcome
from experiment_domain.webhooks.subscriptions import WEBHOOK_SUBSCRIPTION, SubscriptionStatus

DOCUMENTED: dict[str, tuple[Lifecycle[Any], type[StrEnum], str]] = {
    "experiment": (
        EXPERIMENT,
        ExperimentStatus,
        "draft → running; running → finished, failed; draft, running, finished, failed → archived",
    ),
    "run": (
        RUN,
        RunStatus,
        "draft → running; running → finished, failed; draft, running, finished, failed → archived",
    ),
    "capture_session": (
        CAPTURE_SESSION,
        CaptureStatus,
        "draft → running; running → succeeded, failed; draft, succeeded, failed → archived",
    ),
    "sensor": (
        SENSOR,
        SensorStatus,
        "registered → active; active → inactive; inactive → active; registered, active, inactive → retired",
    ),
    "conversion_profile": (CONVERSION_PROFILE, ProfileStatus, "draft → published; published → retired"),
    "backfill": (
        BACKFILL,
        BackfillStatus,
        "queued → running, cancelled; running → succeeded, failed, cancelled, queued; failed → queued",
    ),
    "export": (
        EXPORT,
        ExportStatus,
        "queued → running, cancelled; running → succeeded, failed, cancelled, queued; succeeded → expired",
    ),
    "artifact": (
        ARTIFACT,
        ArtifactStatus,
        "pending → approved, rejected; approved → revoked; rejected → pending",
    ),
    "webhook_subscription": (
        WEBHOOK_SUBSCRIPTION,
        SubscriptionStatus,
        "active → paused; paused → active; active → disabled; disabled → active",
    ),
    "webhook_delivery": (WEBHOOK_DELIVERY, DeliveryStatus, "pending → delivered, dead; dead → pending"),
}

RUNNING_EXPERIMENT = an_experiment(status=ExperimentStatus.RUNNING)
RUNNING_RUN = a_run(RUNNING_EXPERIMENT, status=RunStatus.RUNNING)
PINS = [Pin(sensor_id=fresh(), profile_id=None, profile_version=None)]
WHEN = later(60)

MAKE: Mapping[str, Callable[[Any], Any]] = {
    "experiment": lambda status: an_experiment(status=status),
    "run": lambda status: a_run(RUNNING_EXPERIMENT, status=status),
    "capture_session": lambda status: a_session(RUNNING_RUN, status=status),
    "sensor": lambda status: a_sensor(status=status),
    "conversion_profile": lambda status: a_profile(status=status),
    "backfill": lambda status: a_backfill(status=status),
    "export": lambda status: an_export(status=status),
    "artifact": lambda status: an_artifact(status=status),
    "webhook_subscription": lambda status: a_subscription(status=status),
    "webhook_delivery": lambda status: a_delivery(status=status),
}


def _given_up(backfill: Backfill) -> Change[Backfill]:
    """What the last of too many errors makes of a backfill."""
    change = evolve(backfill, attempts=ATTEMPTS).stumble("no", at=WHEN)
    return unchanged(backfill) if change.is_empty else evolve(change, before=backfill)


# The command that leads to a status, and the event that tells of it.
COMMANDS: Mapping[tuple[str, str], tuple[Callable[[Any], Change[Any]], str | None]] = {
    ("experiment", "running"): (lambda it: it.start(at=WHEN), "experiment.started"),
    ("experiment", "finished"): (
        lambda it: it.end(ExperimentStatus.FINISHED, running_runs=(), at=WHEN),
        "experiment.finished",
    ),
    ("experiment", "failed"): (
        lambda it: it.end(ExperimentStatus.FAILED, running_runs=(), at=WHEN),
        "experiment.failed",
    ),
    ("experiment", "archived"): (
        lambda it: it.end(ExperimentStatus.ARCHIVED, running_runs=(), at=WHEN),
        "experiment.archived",
    ),
    ("run", "running"): (lambda it: it.start(experiment=RUNNING_EXPERIMENT, at=WHEN), "run.started"),
    ("run", "finished"): (lambda it: it.end(RunStatus.FINISHED, active_sessions=(), at=WHEN), "run.finished"),
    ("run", "failed"): (lambda it: it.end(RunStatus.FAILED, active_sessions=(), at=WHEN), "run.failed"),
    ("run", "archived"): (lambda it: it.end(RunStatus.ARCHIVED, active_sessions=(), at=WHEN), "run.archived"),
    ("capture_session", "running"): (
        lambda it: it.start(run=RUNNING_RUN, pins=PINS, running_sessions=(), at=WHEN),
        "capture.started",
    ),
    ("capture_session", "succeeded"): (lambda it: it.stop(CaptureStatus.SUCCEEDED, at=WHEN), "capture.completed"),
    ("capture_session", "failed"): (lambda it: it.stop(CaptureStatus.FAILED, at=WHEN), "capture.failed"),
    ("capture_session", "archived"): (lambda it: it.archive(at=WHEN), "capture.archived"),
    ("sensor", "active"): (lambda it: it.activate(at=WHEN), None),
    ("sensor", "inactive"): (lambda it: it.deactivate(at=WHEN), None),
    ("sensor", "retired"): (lambda it: it.retire(active_sessions=(), at=WHEN), "sensor.retired"),
    ("conversion_profile", "published"): (lambda it: it.publish(at=WHEN), "conversion_profile.published"),
    ("conversion_profile", "retired"): (lambda it: it.retire(at=WHEN), "conversion_profile.retired"),
    ("export", "running"): (lambda it: it.take_up(at=WHEN), None),
    ("export", "succeeded"): (lambda it: it.succeed(kept_for=timedelta(days=7), at=WHEN), None),
    ("export", "failed"): (lambda it: it.fail("no", at=WHEN), None),
    ("export", "cancelled"): (lambda it: it.cancel(at=WHEN), None),
    ("export", "queued"): (lambda it: it.stumble("no", at=WHEN), None),
    ("export", "expired"): (lambda it: it.expire(at=WHEN), None),
    ("backfill", "running"): (lambda it: it.take_up(chunks_total=3, at=WHEN), "capture.backfill.started"),
    ("backfill", "succeeded"): (lambda it: it.succeed(chunks=3, readings=9, at=WHEN), "capture.backfill.finished"),
    ("backfill", "failed"): (_given_up, "capture.backfill.failed"),
    ("backfill", "cancelled"): (lambda it: it.cancel(at=WHEN), "capture.backfill.cancelled"),
    ("backfill", "queued"): (
        lambda it: it.stumble("no", at=WHEN) if it.status == "running" else it.retry(at=WHEN),
        None,
    ),
    ("artifact", "pending"): (lambda it: it.move(ArtifactStatus.PENDING, at=WHEN), "artifact.resubmitted"),
    ("artifact", "approved"): (lambda it: it.move(ArtifactStatus.APPROVED, at=WHEN), "artifact.approved"),
    ("artifact", "rejected"): (lambda it: it.move(ArtifactStatus.REJECTED, at=WHEN), "artifact.rejected"),
    ("webhook_subscription", "active"): (lambda it: it.resume(at=WHEN), None),
    ("webhook_subscription", "paused"): (lambda it: it.pause(at=WHEN), None),
    ("webhook_subscription", "disabled"): (lambda it: it.disable(at=WHEN, reason="gone"), "webhook.disabled"),
    ("webhook_delivery", "pending"): (lambda it: it.redeliver(at=WHEN), None),
    ("webhook_delivery", "delivered"): (
        lambda it: it.attempted(Outcome(status_code=204), DeliveryPolicy(), chance=0.5, at=WHEN),
        None,
    ),
    ("webhook_delivery", "dead"): (lambda it: it.die("nobody wants it", at=WHEN), None),
    ("artifact", "revoked"): (lambda it: it.move(ArtifactStatus.REVOKED, at=WHEN), "artifact.revoked"),
}


def _steps(text: str) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for part in text.split("; "):
        sources, targets = part.split(" → ")
        found |= {(source, target) for source in sources.split(", ") for target in targets.split(", ")}
    return found


PAIRS = [
    pytest.param(noun, source, target, id=f"{noun}-{source}-{target}")
    for noun, (_, statuses, _) in DOCUMENTED.items()
    for source in statuses
    for target in statuses
]


@pytest.mark.parametrize("noun", DOCUMENTED)
def test_a_table_is_the_documented_one(noun: str):
    lifecycle, _, text = DOCUMENTED[noun]
    assert set(lifecycle.steps()) == _steps(text)
    assert lifecycle.noun == noun


@pytest.mark.parametrize(("noun", "source", "target"), PAIRS)
def test_moves_follows_the_table(noun: str, source: Any, target: Any):
    lifecycle, _, text = DOCUMENTED[noun]
    if source == target:
        assert lifecycle.moves(source, target) is False
    elif (source, target) in _steps(text):
        assert lifecycle.moves(source, target) is True
    else:
        with pytest.raises(InvalidTransition) as refusal:
            lifecycle.moves(source, target)
        allowed = [after for before, after in _steps(text) if before == source]
        assert refusal.value.code == "invalid_transition"
        assert refusal.value.facts["current"] == source
        assert refusal.value.facts["target"] == target
        assert sorted(refusal.value.facts["allowed"]) == sorted(allowed)


@pytest.mark.parametrize(("noun", "source", "target"), [pair for pair in PAIRS if pair.values[::2] in COMMANDS])
def test_aggregates_follow_the_table(noun: str, source: Any, target: Any):
    command, event = COMMANDS[noun, target]
    entity = MAKE[noun](source)
    if source == target:
        assert command(entity).is_empty
        return
    if (source, target) not in _steps(DOCUMENTED[noun][2]):
        with pytest.raises(InvalidTransition):
            command(entity)
        return

    change = command(entity)

    assert change.before is entity
    assert change.result.status == target
    assert change.result.version == entity.version + 1
    assert (change.result.updated_at, change.result.created_at) == (WHEN, NOW)
    assert [told.type for told in change.events] == ([event] if event else [])
    for told in change.events:
        # What happens to a backfill happens to its session.
        about = f"capture_session/{entity.capture_session_id}" if noun == "backfill" else f"{noun}/{entity.id}"
        assert (told.subject, told.at, told.project_id) == (about, WHEN, entity.project_id)


@pytest.mark.parametrize("noun", DOCUMENTED)
def test_every_documented_step_has_a_command(noun: str):
    assert {target for _, target in _steps(DOCUMENTED[noun][2])} == {
        target for known, target in COMMANDS if known == noun
    }


def test_the_diagram_shows_the_table():
    assert CONVERSION_PROFILE.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> draft",
        "    draft --> published",
        "    published --> retired",
    ]
