"""Run cards: a run at a glance."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self
from uuid import UUID

import msgspec
from attrs import frozen

from experiment_domain.artifacts import ArtifactStatus
from experiment_domain.captures import CaptureStatus
from experiment_domain.cards import BoundSensor
from experiment_domain.experiments import ExperimentStatus
from experiment_domain.sensors import SensorStatus
from experiment_domain.usecases import Work
from experiment_domain.usecases.cards import CardUseCases, SummarisedCard
from experiment_http.answers import JSON, Answer, One, View, shown
from experiment_http.operations import Operations
from experiment_http.times import Timestamp
from experiment_http.v1.artifacts import ArtifactView
from experiment_http.v1.captures import CaptureSessionView
from experiment_http.v1.metrics import MetricsView
from experiment_http.v1.runs import RunView
from experiment_http.v1.values import StatusChangeView


class CardExperimentView(View, frozen=True):
    """The experiment that the run is of."""

    id: UUID
    name: str
    status: ExperimentStatus


class CardSensorView(View, frozen=True):
    """A sensor, and since when it is bound to the run."""

    id: UUID
    name: str
    sensor_type: str
    input_unit: str
    display_unit: str
    status: SensorStatus
    bound_at: Timestamp

    @classmethod
    def of(cls, thing: BoundSensor) -> Self:
        """The view of a bound sensor."""
        sensor = thing.sensor
        return cls(
            sensor.id,
            sensor.name,
            sensor.sensor_type,
            sensor.input_unit,
            sensor.display_unit,
            sensor.status,
            shown(thing.bound_at),
        )


class CardChangeView(StatusChangeView, frozen=True):
    """A transition of the run or of one of its capture sessions."""

    entity_type: str
    entity_id: UUID


class CountsView(View, frozen=True):
    """How many there are of each in all, shown or not; readings are those that are read, one for each timestamp."""

    sensors: int
    capture_sessions: Mapping[CaptureStatus, int]
    artifacts: Mapping[ArtifactStatus, int]
    readings: int
    late: int
    out_of_range: int


class RunCardView(View, frozen=True):
    """A run at a glance.

    It shows the first 200 sensors, the newest 100 capture sessions, the newest 50 approved artifacts and the latest 20
    transitions; `signals` sums up every signal, by physical values where there are any, else by raw ones where the
    project's policy lets the caller read those.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "run": RunView.example,
        "experiment": {"id": "01957989-aa10-7c3e-8b7d-2f5e6a7b8c90", "name": "Blade fatigue", "status": "running"},
        "sensors": [
            {
                "id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
                "name": "Thermocouple 7",
                "sensor_type": "thermocouple_k",
                "input_unit": "mV",
                "display_unit": "°C",
                "status": "active",
                "bound_at": "2026-03-09T10:10:00.000000Z",
            }
        ],
        "capture_sessions": [CaptureSessionView.example],
        "signals": [MetricsView.example],
        "artifacts": [ArtifactView.example],
        "history": [
            {
                "entity_type": "run",
                "entity_id": "0195798a-8d28-7a55-9c3e-3f1a4a6c9d21",
                **StatusChangeView.example,
            }
        ],
        "counts": {
            "sensors": 1,
            "capture_sessions": {"running": 1},
            "artifacts": {"approved": 1},
            "readings": 18002,
            "late": 0,
            "out_of_range": 2,
        },
    }

    run: RunView
    experiment: CardExperimentView
    sensors: list[CardSensorView]
    capture_sessions: list[CaptureSessionView]
    signals: list[MetricsView]
    artifacts: list[ArtifactView]
    history: list[CardChangeView]
    counts: CountsView

    @classmethod
    def of(cls, thing: SummarisedCard) -> Self:
        """The view of a card and of the summaries of its signals."""
        card, metrics = thing.card, thing.metrics or ()
        values = sum(found.statistics.count for found in metrics if found.statistics is not None)
        out_of_range = sum(found.out_of_range for found in metrics)
        return cls(
            run=RunView.of(card.run),
            experiment=CardExperimentView.of(card.experiment),
            sensors=list(map(CardSensorView.of, card.sensors)),
            capture_sessions=list(map(CaptureSessionView.of, card.sessions)),
            signals=list(map(MetricsView.of, metrics)),
            artifacts=list(map(ArtifactView.of, card.artifacts)),
            history=list(map(CardChangeView.of, card.changes)),
            counts=CountsView(
                sensors=card.sensor_count,
                capture_sessions=card.session_counts,
                artifacts=card.artifact_counts,
                readings=values + out_of_range,
                late=sum(found.late for found in metrics),
                out_of_range=out_of_range,
            ),
        )


@frozen(kw_only=True)
class CardForm(One):
    """A card, tagged by what is in it."""

    def answer(self, result: SummarisedCard, cursor: Callable[[Any], str]) -> Answer:  # noqa: ARG002
        """The card, or that the caller has it."""
        headers = {"Cache-Control": "private, no-cache", "ETag": f'"{result.tag}"'}
        if result.metrics is None:
            return Answer(304, headers)
        return Answer(200, {"Content-Type": JSON, **headers}, msgspec.json.encode(RunCardView.of(result)))


operations = Operations("run cards", "Runs at a glance.")


@operations.get("/runs/{run_id:uuid}/card", CardUseCases.of_run, CardForm(view=RunCardView, has_etag=True))
async def get_run_card(work: Work, run_id: UUID, known: Collection[str]) -> SummarisedCard:
    """Show a run at a glance: its sessions, sensors, signals, approved artifacts and latest transitions.

    Its `ETag` changes with everything that it shows: sent as `If-None-Match`, it makes asking again cheap.
    """
    return await work.cards.of_run(run_id, known=known)
