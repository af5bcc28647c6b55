"""The types of events: what each is about and what its data hold. One that is not entered here cannot be recorded.

They stand together, beside no noun, because together they are what others rely on: the AsyncAPI document and the
filters of feeds and webhooks are made of them.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.errors import Invalid
from experiment_domain.kernel.events import EventData, entered, event_type

RunId = Annotated[UUID, "The run it belongs to."]
Source = Annotated[str, "The status before."]
Reason = Annotated[str | None, "Why, in the words of who asked for it."]
Name = Annotated[str, "The name at the time."]
Ordinal = Annotated[int, "Which of its run's sessions it is: 1, 2, 3 …"]


@frozen(kw_only=True)
class Moved(EventData):
    """A transition of an experiment or a run."""

    from_: Source
    reason: Reason


# Projects


@event_type("project.settings_changed", about="project")
class ProjectSettingsChanged(EventData):
    """The name or the policy of a project was changed."""

    fields: Annotated[tuple[str, ...], "What was changed, by name."]


# Experiments


@event_type("experiment.created", about="experiment")
class ExperimentCreated(EventData):
    """An experiment was created, in draft."""

    name: Name


@event_type("experiment.started", about="experiment")
class ExperimentStarted(Moved):
    """An experiment was started, by itself or with its first run."""


@event_type("experiment.finished", about="experiment")
class ExperimentFinished(Moved):
    """An experiment came to its end."""


@event_type("experiment.failed", about="experiment")
class ExperimentFailed(Moved):
    """An experiment failed."""


@event_type("experiment.archived", about="experiment")
class ExperimentArchived(Moved):
    """An experiment was archived, and is read-only from then on."""


# Runs


@event_type("run.created", about="run")
class RunCreated(EventData):
    """A run was created, in draft."""

    experiment_id: Annotated[UUID, "The experiment it belongs to."]
    name: Name


@event_type("run.started", about="run")
class RunStarted(Moved):
    """A run was started."""


@event_type("run.finished", about="run")
class RunFinished(Moved):
    """A run came to its end."""


@event_type("run.failed", about="run")
class RunFailed(Moved):
    """A run failed."""


@event_type("run.archived", about="run")
class RunArchived(Moved):
    """A run was archived, and is read-only from then on."""


@event_type("run.tagged", about="run")
class RunTagged(EventData):
    """The tags of a run were changed."""

    tags: Annotated[tuple[str, ...], "All that it has now."]


@event_type("run.fell_silent", about="run")
class RunFellSilent(EventData):
    """A running run has given no sign of life for long, and fails unless it gives one soon."""


@event_type("run.timed_out", about="run")
class RunTimedOut(EventData):
    """A running run gave no sign of life any more, and was failed for it: `run.failed` follows."""


# Capture sessions


@frozen(kw_only=True)
class OfSession(EventData):
    """What all events of capture sessions say."""

    run_id: RunId


@frozen(kw_only=True)
class OfNumberedSession(OfSession):
    """What most events of capture sessions say."""

    ordinal: Ordinal


@frozen(kw_only=True)
class SessionMoved(OfNumberedSession):
    """A transition of a capture session."""

    from_: Source
    reason: Reason


@frozen(kw_only=True)
class PinnedProfile:
    """A sensor that takes part in a session, and the profile version its readings are converted by, if any."""

    sensor_id: UUID
    profile_id: UUID | None
    profile_version: int | None


@event_type("capture.created", about="capture_session")
class CaptureCreated(OfNumberedSession):
    """A capture session was created, in draft."""


@event_type("capture.started", about="capture_session")
class CaptureStarted(SessionMoved):
    """A capture session is being recorded."""

    pins: Annotated[tuple[PinnedProfile, ...], "The sensors that take part in it."]


@event_type("capture.completed", about="capture_session")
class CaptureCompleted(SessionMoved):
    """A capture session was stopped, and succeeded."""


@event_type("capture.failed", about="capture_session")
class CaptureFailed(SessionMoved):
    """A capture session was stopped, and failed."""


@event_type("capture.archived", about="capture_session")
class CaptureArchived(SessionMoved):
    """A capture session was archived, and is read-only from then on."""


@event_type("capture.deleted", about="capture_session")
class CaptureDeleted(OfNumberedSession):
    """A capture session was deleted: a draft for good, a failed one so that it can be restored."""


@event_type("capture.restored", about="capture_session")
class CaptureRestored(OfNumberedSession):
    """A deleted capture session was brought back."""


@event_type("capture.late_data", about="capture_session")
class CaptureLateData(OfSession):
    """Readings came for a capture session that had been stopped."""

    sensor_id: Annotated[UUID, "Whose readings they are."]
    readings: Annotated[int, "How many they are."]


# Backfills, which are about their sessions


@frozen(kw_only=True)
class OfBackfill(OfSession):
    """What all events of backfills say."""

    backfill_id: Annotated[UUID, "The backfill."]
    sensor_id: Annotated[UUID, "Whose readings it converts."]
    profile_id: Annotated[UUID, "What it converts them by."]
    profile_version: Annotated[int, "Which of the sensor's profiles that is: 1, 2, 3 …"]


@event_type("capture.backfill.started", about="capture_session")
class BackfillStarted(OfBackfill):
    """A worker has begun to convert readings again; once more where it goes on after an error."""


@event_type("capture.backfill.finished", about="capture_session")
class BackfillFinished(OfBackfill):
    """All readings of a sensor in a session are converted, and are read so from now on."""

    chunks: Annotated[int, "How many chunks they lie in."]
    readings: Annotated[int, "How many were converted."]


@event_type("capture.backfill.failed", about="capture_session")
class BackfillFailed(OfBackfill):
    """A backfill was given up; a person may have it tried again."""

    error: Annotated[str, "What went wrong last."]


@event_type("capture.backfill.cancelled", about="capture_session")
class BackfillCancelled(OfBackfill):
    """A backfill was cancelled for good."""

    reason: Reason


# Sensors and their conversion profiles


@event_type("sensor.registered", about="sensor")
class SensorRegistered(EventData):
    """A sensor was registered."""

    name: Name


@event_type("sensor.bound", about="sensor")
class SensorBound(EventData):
    """A sensor was bound to a run."""

    run_id: Annotated[UUID, "The run."]


@event_type("sensor.unbound", about="sensor")
class SensorUnbound(EventData):
    """A sensor was unbound from a run."""

    run_id: Annotated[UUID, "The run."]


@event_type("sensor.token_rotated", about="sensor")
class SensorTokenRotated(EventData):
    """A sensor has a new token."""

    grace: Annotated[float, "For how many seconds the old one lives on."]


@event_type("sensor.offline", about="sensor")
class SensorOffline(EventData):
    """An active sensor has given no sign of life for five minutes; it is told once until it gives one again."""

    last_seen_at: Annotated[datetime, "When it gave its last sign of life."]


@event_type("sensor.online", about="sensor")
class SensorOnline(EventData):
    """A sensor that was told to be offline has given a sign of life."""

    last_seen_at: Annotated[datetime, "When it gave its last sign of life."]


@event_type("sensor.retired", about="sensor")
class SensorRetired(EventData):
    """A sensor was retired for good."""


@frozen(kw_only=True)
class OfProfile(EventData):
    """What all events of conversion profiles say."""

    sensor_id: Annotated[UUID, "The sensor it belongs to."]
    profile_version: Annotated[int, "Which of the sensor's profiles it is: 1, 2, 3 …"]


@event_type("conversion_profile.published", about="conversion_profile")
class ProfilePublished(OfProfile):
    """A profile version was published: sessions started from now on convert by it."""


@event_type("conversion_profile.applied", about="conversion_profile")
class ProfileApplied(OfProfile):
    """A backfill made another profile version the one that a sensor's readings in a session are read by."""

    capture_session_id: Annotated[UUID, "The session."]
    run_id: Annotated[UUID, "The session's run."]
    backfill_id: Annotated[UUID, "The backfill."]
    replaces_profile_id: Annotated[UUID | None, "What they were read by before; null: they had raw values only."]


@event_type("conversion_profile.retired", about="conversion_profile")
class ProfileRetired(OfProfile):
    """A profile version was retired: sessions started from now on do not convert by it."""


# Artifacts


@frozen(kw_only=True)
class OfArtifact(EventData):
    """What all events of artifacts say."""

    run_id: RunId
    name: Name


@frozen(kw_only=True)
class ArtifactMoved(OfArtifact):
    """A transition of an artifact."""

    from_: Source
    reason: Reason


@event_type("artifact.registered", about="artifact")
class ArtifactRegistered(OfArtifact):
    """A link to a file or model was registered, and awaits approval."""


@event_type("artifact.approved", about="artifact")
class ArtifactApproved(ArtifactMoved):
    """An artifact was approved."""


@event_type("artifact.rejected", about="artifact")
class ArtifactRejected(ArtifactMoved):
    """An artifact was rejected."""


@event_type("artifact.resubmitted", about="artifact")
class ArtifactResubmitted(ArtifactMoved):
    """A rejected artifact awaits approval again."""


@event_type("artifact.revoked", about="artifact")
class ArtifactRevoked(ArtifactMoved):
    """The approval of an artifact was taken back."""


# Webhooks


@event_type("webhook.disabled", about="webhook_subscription")
class WebhookDisabled(EventData):
    """The service has disabled a webhook whose endpoint is of no use."""

    reason: Annotated[str, "Why."]
    origin: Annotated[str, "Where the endpoint is: scheme, host and port, without the rest of its URL."]
    failing_since: Annotated[datetime | None, "Since when it has done nothing but fail."]


@event_type("webhook.test", about="webhook_subscription", is_recorded=False)
class WebhookTest(EventData):
    """An owner tries a webhook out. It is sent to that webhook alone, and is in no feed."""

    event_types: Annotated[tuple[str, ...], "The filters of the webhook."]


EVENT_TYPES: Mapping[str, type[EventData]] = entered()
"""All types of events, by name."""


def check_event_types(path: str, values: Iterable[str]) -> None:
    """Refuse what is no type of recorded events."""
    for index, name in enumerate(values):
        if name not in EVENT_TYPES or not EVENT_TYPES[name].is_recorded:
            raise Invalid.at(f"{path}[{index}]", f"is no type of events; there are {_all_types()}")


def check_event_filter(path: str, pattern: str) -> None:
    """Refuse a filter, a type or the beginning of one with `.*` at its end or `*`, that lets nothing through."""
    if not any(lets_through(pattern, name) for name, kind in EVENT_TYPES.items() if kind.is_recorded):
        raise Invalid.at(path, f"lets no event through; there are {_all_types()}")


def lets_through(pattern: str, name: str) -> bool:
    """Whether a filter lets events of a type through."""
    return pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))


def _all_types() -> str:
    return ", ".join(name for name, kind in EVENT_TYPES.items() if kind.is_recorded)
