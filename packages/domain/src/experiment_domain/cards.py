"""Run cards: what there is to know of a run at a glance."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.artifacts import Artifact, ArtifactStatus
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.experiments import Experiment
from experiment_domain.kernel.entity import StatusChange
from experiment_domain.projects import Project
from experiment_domain.runs import Run
from experiment_domain.sensors import Sensor

SHOWN_SENSORS = 200
SHOWN_SESSIONS = 100
SHOWN_ARTIFACTS = 50
SHOWN_CHANGES = 20
"""How many of each a card shows at most; the counts are of all."""


@frozen(kw_only=True)
class BoundSensor:
    """A sensor, and since when it is bound to the run."""

    sensor: Sensor
    bound_at: datetime


@frozen(kw_only=True)
class RunCard:
    """A run and what belongs to it, but for its readings.

    Sensors come first bound first; sessions, approved artifacts and transitions (of the run and of the sessions that
    are shown) newest first. `readings` is another text whenever there are other readings, or other layers current.
    """

    project: Project
    experiment: Experiment
    run: Run
    sensors: Sequence[BoundSensor]
    sensor_count: int
    sessions: Sequence[CaptureSession]
    session_counts: Mapping[CaptureStatus, int]
    artifacts: Sequence[Artifact]
    artifact_counts: Mapping[ArtifactStatus, int]
    changes: Sequence[StatusChange]
    readings: str

    def tag(self, *, raw: bool) -> str:
        """A text that is another one whenever the card would show something else; `raw`: to one who sees raw values.

        Every change of an entity gives it another version. A sensor's signs of life are no change, and not on the card.
        """
        run, experiment = self.run, self.experiment
        parts: list[object] = [raw, run.version, experiment.version, self.readings, self.sensor_count]
        parts += [(bound.sensor.id, bound.sensor.version, bound.bound_at) for bound in self.sensors]
        for entities in (self.sessions, self.artifacts):
            parts += [(entity.id, entity.version) for entity in entities]
        for counts in (self.session_counts, self.artifact_counts):
            parts += sorted((str(status), count) for status, count in counts.items())
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class RunCards(Protocol):
    """Puts cards together."""

    @abstractmethod
    async def of(self, run_id: UUID) -> RunCard | None:
        """The card of a run as it is at one moment, or None."""
