"""Metrics: statistics of what a run's sensors measured, the scalar metrics that are logged to it, and comparison."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

import msgspec
from attrs import frozen
from msgspec import UNSET, Meta, Struct, UnsetType

from experiment_domain.kernel.errors import Invalid
from experiment_domain.kernel.values import NAME_LENGTH
from experiment_domain.runs import RunStatus
from experiment_domain.scalars import LAST_STEP, SCALARS, Logged, Scalar, ScalarPage
from experiment_domain.telemetry.batches import moment
from experiment_domain.telemetry.store import BUCKETS, Layer, Metrics
from experiment_domain.usecases import Work
from experiment_domain.usecases.comparisons import COMPARED_RUNS, ComparedRun, ComparisonUseCases
from experiment_domain.usecases.scalars import ScalarUseCases
from experiment_domain.usecases.telemetry import TelemetryUseCases
from experiment_http import strict_json
from experiment_http.answers import Answer, Form, Items, View, list_schema, listed, one, shown
from experiment_http.bodies import BodyKind, Buffer
from experiment_http.operations import Call, Operations
from experiment_http.pagination import Cursor
from experiment_http.structs import converted
from experiment_http.times import Timestamp
from experiment_http.v1.telemetry_out import Edge, LayerChoice
from experiment_http.v1.values import ENTITY, Json, Name, Request

USUAL = 1_000
MOST = 10_000
"""The most values of one page of a history."""
LARGEST = 4 << 20
"""The most bytes of a body of scalar metrics."""


class MetricsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics of which series, or with `name` the history of which scalar metrics."""

    layer: LayerChoice | None = None
    signal: tuple[str, ...] = ()
    bucket: (
        Annotated[
            float,
            Meta(
                ge=0.001,
                le=366 * 86_400,
                description="Seconds: statistics by buckets of time of that length, aligned to the Unix epoch; those"
                f" that hold readings, {BUCKETS:,} at most of all series together.",
            ),
        ]
        | None
    ) = None
    name: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)], ...],
        Meta(description="The history of these scalar metrics, instead of statistics of series."),
    ] = ()
    limit: (
        Annotated[int, Meta(ge=1, le=MOST, description=f"Of a history: at most so many; {USUAL:,} if not given.")]
        | None
    ) = None
    cursor: Cursor | None = None


class MetricsView(View, frozen=True):
    """Statistics of one sensor's signal over a run; null where there are no values.

    `count` counts the values of the layer, `out_of_range` the raw values that have no physical one, `duration` is from
    the first reading to the last, in seconds, and `stddev` is the standard deviation of the population. Mean and
    standard deviation are finite whatever the values are.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
        "signal": "temperature",
        "layer": "physical",
        "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
        "count": 18000,
        "late": 0,
        "out_of_range": 2,
        "duration": 1799.9,
        "min": 21.5,
        "max": 884.25,
        "mean": 612.125,
        "stddev": 101.5,
        "first": 21.5,
        "last": 880.75,
    }

    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None
    count: int
    late: int
    out_of_range: int
    duration: float
    min: float | None
    max: float | None
    mean: float | None
    stddev: float | None
    first: float | None
    last: float | None

    @classmethod
    def of(cls, thing: Metrics) -> Self:
        """The view of metrics."""
        found = thing.statistics
        values = (
            (0, None, None, None, None, None, None)
            if found is None
            else (
                found.count,
                found.minimum,
                found.maximum,
                found.mean,
                found.deviation,
                found.first,
                found.last,
            )
        )
        count, *statistics = values
        return cls(
            thing.sensor_id,
            thing.signal,
            thing.layer,
            thing.profile_id,
            count,
            thing.late,
            thing.out_of_range,
            thing.duration,
            *statistics,
        )


class BucketView(MetricsView, frozen=True):
    """The same of the readings within a bucket of time, which begins at `timestamp`."""

    example: ClassVar[Mapping[str, Any]] = {**MetricsView.example, "timestamp": "2026-03-09T10:14:00.000000Z"}

    timestamp: Timestamp

    @classmethod
    def of(cls, thing: Metrics) -> Self:
        """The view of the metrics of a bucket."""
        return cls(**msgspec.structs.asdict(MetricsView.of(thing)), timestamp=shown(thing.timestamp))


class ScalarView(View, frozen=True, gc=False):
    """A value of a scalar metric."""

    example: ClassVar[Mapping[str, Any]] = {
        "name": "rmse",
        "value": 0.0173,
        "step": 40,
        "timestamp": "2026-03-09T10:14:33.000000Z",
    }

    name: str
    value: float
    step: int
    timestamp: Timestamp


class NewScalar(Request, frozen=True, gc=False):
    """A value: without a `step`, of the step after the highest of its name, or of step 0; without a time, of now."""

    name: Name
    value: float
    step: Annotated[int, Meta(ge=-LAST_STEP - 1, le=LAST_STEP)] | UnsetType | None = UNSET
    timestamp: Edge | UnsetType | None = UNSET

    def logged(self) -> Logged:
        """The same in the words of the domain."""
        at = None if self.timestamp is UNSET else self.timestamp
        return Logged(
            name=self.name,
            value=self.value,
            step=None if self.step is UNSET else self.step,
            timestamp=moment(at) if isinstance(at, int) else at,
        )


class NewScalars(Request, frozen=True):
    """Values of scalar metrics, in the order of their arrival."""

    example: ClassVar[Mapping[str, Any]] = {
        "metrics": [{"name": "rmse", "value": 0.0173, "step": 40}, {"name": "epoch_seconds", "value": 12.5}]
    }

    metrics: Annotated[list[NewScalar], Meta(min_length=1, max_length=SCALARS)]


class LoggedView(View, frozen=True):
    """How many values are kept, and the highest step that each name was given."""

    example: ClassVar[Mapping[str, Any]] = {"accepted": 2, "last_steps": {"rmse": 40, "epoch_seconds": 0}}

    accepted: int
    last_steps: Mapping[str, int]

    @classmethod
    def of(cls, thing: Sequence[Scalar]) -> Self:
        """The view of values that were just kept."""
        steps: dict[str, int] = {}
        for scalar in thing:
            steps[scalar.name] = max(scalar.step, steps.get(scalar.name, scalar.step))
        return cls(len(thing), steps)


class ComparedRunView(View, frozen=True):
    """One of several runs, with those of its params that not all of them have alike.

    `metrics` are statistics per sensor and signal, `scalars` the latest value of each scalar metric.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "run_id": ENTITY["id"],
        "project_id": ENTITY["project_id"],
        "name": "Run 7",
        "status": "finished",
        "params": {"rpm": 3000},
        "tags": ["nightly"],
        "metrics": [MetricsView.example],
        "scalars": [ScalarView.example],
    }

    run_id: UUID
    project_id: UUID
    name: str
    status: RunStatus
    params: Json
    tags: list[str]
    metrics: list[MetricsView]
    scalars: list[ScalarView]

    @classmethod
    def of(cls, thing: ComparedRun) -> Self:
        """The view of a run among others."""
        run = thing.run
        return cls(
            run.id,
            run.project_id,
            run.name,
            run.status,
            dict(thing.params),
            list(run.tags),
            list(map(MetricsView.of, thing.metrics)),
            list(map(ScalarView.of, thing.scalars)),
        )


class ComparisonQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs, and which of their series."""

    run_id: Annotated[
        tuple[UUID, ...], Meta(min_length=2, max_length=COMPARED_RUNS, description="2 to 20 runs, none of them twice.")
    ]
    signal: tuple[str, ...] = ()
    layer: LayerChoice | None = None


@frozen(kw_only=True)
class MetricsForm(Form[Any]):
    """Statistics, statistics by buckets, or a page of a history of scalar metrics."""

    def answer(self, result: Sequence[Metrics] | ScalarPage, cursor: Callable[[Any], str]) -> Answer:
        """The views of the entries."""
        if isinstance(result, ScalarPage):
            following = None if result.next is None else cursor(result.next)
            return listed({"items": list(map(ScalarView.of, result.items)), "next_cursor": following})
        view = BucketView if result and result[0].timestamp is not None else MetricsView
        return listed({"items": list(map(view.of, result))})

    def views(self) -> Sequence[type[Struct]]:
        """Those of the three kinds of entry."""
        return MetricsView, BucketView, ScalarView

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:
        """One of three lists."""
        history = list_schema(refer(ScalarView), next_cursor={"type": ["string", "null"]})
        return {"anyOf": [list_schema(refer(MetricsView)), list_schema(refer(BucketView)), history]}

    def example(self) -> Any:
        """One entry."""
        return {"items": [MetricsView.example]}


METRICS = MetricsForm()
operations = Operations("metrics", "Statistics of what was measured, and numbers that are logged.")


@operations.get("/runs/{run_id:uuid}/metrics", TelemetryUseCases.metrics, METRICS)
async def run_metrics(call: Call, run_id: UUID, query: MetricsQuery) -> Answer:
    """Show the statistics of a run's series, or the history of scalar metrics.

    With `bucket`, the statistics of each series by buckets of time. With `name`, which may be repeated, the values of
    scalar metrics instead, in pages, oldest first: by step, of one step by name, then in the order of their arrival.
    """
    _check_kind(query)
    async with call.api.services.read(call.caller) as work:
        if query.name:
            place = call.place(query.cursor)
            after = None if place is None else (place[0], place[1], place[2])
            limit = query.limit or USUAL
            return METRICS.answer(await work.scalars.history(run_id, query.name, limit=limit, after=after), call.cursor)
        bucket = None if query.bucket is None else round(query.bucket * 1_000_000)
        found = await work.telemetry.metrics(run_id, layer=query.layer, signals=query.signal, bucket=bucket)
        return METRICS.answer(found, call.cursor)


def _check_kind(query: MetricsQuery) -> None:
    """Refuse to ask for statistics and for a history at once."""
    history = {"limit": query.limit, "cursor": query.cursor}
    statistics = {"layer": query.layer, "signal": query.signal or None, "bucket": query.bucket}
    for name, value in (statistics if query.name else history).items():
        if value is not None:
            raise Invalid.at(name, "does not go with name" if query.name else "goes only with name")


def _scalars(body: Buffer) -> NewScalars:
    return converted(strict_json.parse(body), NewScalars)


@operations.post(
    "/runs/{run_id:uuid}/metrics",
    ScalarUseCases.log,
    one(LoggedView),
    body=BodyKind(schema=NewScalars, decode=_scalars, limit=LARGEST),
)
async def log_metrics(work: Work, run_id: UUID, body: NewScalars) -> Sequence[Scalar]:
    """Log scalar metrics to a run, all of them or none.

    Every value is kept, also of a name and step that has one. A run has values of at most 1,000 names.
    """
    return await work.scalars.log(run_id, [scalar.logged() for scalar in body.metrics])


@operations.get("/runs/{run_id:uuid}/metrics/latest", ScalarUseCases.latest, Items(view=ScalarView))
async def latest_metrics(work: Work, run_id: UUID) -> Sequence[Scalar]:
    """List the latest value of each scalar metric of a run, by name.

    The latest is that of the highest step, and of that step the one received last.
    """
    return await work.scalars.latest(run_id)


@operations.get("/runs:compare", ComparisonUseCases.of_runs, Items(view=ComparedRunView), refuses=(404,))
async def compare_runs(work: Work, query: ComparisonQuery) -> Sequence[ComparedRun]:
    """Show 2 to 20 runs side by side, in the order in which they are named.

    They may be of different projects; where the caller may not know of one, or there is none, the whole call answers
    404. Raw values are shown as the policy of each run's own project says.
    """
    return await work.comparisons.of_runs(query.run_id, layer=query.layer, signals=query.signal)
