"""Envelopes on their way out: a series in a few parts, none of which hides an extreme."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from experiment_domain.telemetry.envelopes import Envelope
from experiment_domain.telemetry.store import Layer
from experiment_http import times
from experiment_http.answers import View
from experiment_http.tables import Kind
from experiment_http.times import Timestamp

ENVELOPE_COLUMNS: Mapping[str, Kind] = {
    "timestamp": Kind.TIME,
    "end": Kind.TIME,
    "count": Kind.COUNT,
    "min": Kind.NUMBER,
    "max": Kind.NUMBER,
    "first": Kind.NUMBER,
    "last": Kind.NUMBER,
    "mean": Kind.NUMBER,
}


class EnvelopePart(View, frozen=True, gc=False):
    """What a series holds from `timestamp` (inclusive) to `end` (exclusive).

    `count` counts values; where there are readings but no physical value it is 0, and the statistics are null.
    """

    timestamp: Timestamp
    end: Timestamp
    count: int
    min: float | None
    max: float | None
    first: float | None
    last: float | None
    mean: float | None


class EnvelopeView(View, frozen=True):
    """The envelope of one layer of one series: the parts that hold readings, in the order of time."""

    example: ClassVar[Mapping[str, Any]] = {
        "items": [
            {
                "timestamp": "2026-03-09T10:14:33.000000Z",
                "end": "2026-03-09T10:14:43.000000Z",
                "count": 10,
                "min": 25.875,
                "max": 31.5,
                "first": 26.0199,
                "last": 26.25,
                "mean": 26.5625,
            }
        ],
        "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
        "signal": "temperature",
        "layer": "physical",
        "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
    }

    items: list[EnvelopePart]
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None


def envelope_items(envelope: Envelope) -> list[EnvelopePart]:
    """The parts of an envelope as they are shown; NaN, which stands for no value, becomes null by itself."""
    starts, ends, *statistics = envelope.columns
    # Most parts begin where the one before ends.
    moments = sorted({*starts, *ends})
    written = dict(zip(moments, times.texts(moments), strict=True))
    return list(map(EnvelopePart, map(written.__getitem__, starts), map(written.__getitem__, ends), *statistics))
