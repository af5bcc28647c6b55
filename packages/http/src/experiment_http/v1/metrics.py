"""Metrics: statistics of what a run's sensors measured."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from msgspec import Meta, Struct

from experiment_domain.telemetry.store import Layer, Metrics
from experiment_domain.usecases import Work
from experiment_domain.usecases.telemetry import TelemetryUseCases
from experiment_http.answers import Items, View
from experiment_http.operations import Operations


class MetricsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which series."""

    layer: (
        Annotated[Layer, Meta(description="Without it: physical values where there are any, else raw ones.")] | None
    ) = None
    signal: tuple[str, ...] = ()


class MetricsView(View, frozen=True):
    """Statistics of one sensor's signal over a run; null where there are no values.

    `count` counts the values of the layer, `out_of_range` the raw values that have no physical one, and `stddev` is
    the standard deviation of the population.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
        "signal": "temperature",
        "layer": "physical",
        "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
        "count": 18000,
        "late": 0,
        "out_of_range": 2,
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
            *statistics,
        )


operations = Operations("metrics", "Statistics of what was measured.")


@operations.get("/runs/{run_id:uuid}/metrics", TelemetryUseCases.metrics, Items(view=MetricsView))
async def run_metrics(work: Work, run_id: UUID, query: MetricsQuery) -> Sequence[Metrics]:
    """Show the statistics of a run's series."""
    return await work.telemetry.metrics(run_id, layer=query.layer, signals=query.signal)
