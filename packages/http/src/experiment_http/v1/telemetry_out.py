"""Telemetry on its way out: readings of one series, or its envelope, and the series of a capture session."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

import msgspec
from attrs import evolve, frozen
from msgspec import Meta, Struct

from experiment_domain.kernel.errors import Invalid
from experiment_domain.telemetry.batches import DEFAULT_SIGNAL, EARLIEST, LATEST, SIGNAL_LENGTH, micros
from experiment_domain.telemetry.envelopes import POINTS, EnvelopeQuery
from experiment_domain.telemetry.store import Layer, ReadingQuery, Readings, Series
from experiment_domain.usecases import Work
from experiment_domain.usecases.telemetry import LayerEnvelope, LayerReadings, TelemetryUseCases
from experiment_http import times
from experiment_http.answers import JSON, Answer, Items, View
from experiment_http.negotiation import chosen
from experiment_http.operations import Call, Operations
from experiment_http.pagination import Cursor
from experiment_http.tables import KINDS, Kind, Part, Table, TableForm, TableStream
from experiment_http.times import Moment, Timestamp
from experiment_http.v1 import telemetry_in
from experiment_http.v1.envelopes import ENVELOPE_COLUMNS, EnvelopeView, envelope_items

operations = Operations(telemetry_in.operations.tag, telemetry_in.operations.about)
USUAL = 1_000
MOST = 10_000
"""The most readings of one page, and of one read of a stream."""
_COLUMNS: Mapping[str, Kind] = {"timestamp": Kind.TIME, "value": Kind.NUMBER}
_SERIES: Mapping[str, Any] = {"sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6", "signal": "temperature"}

LayerChoice = Annotated[Layer, Meta(description="Without it: physical values where there are any, else raw ones.")]
Edge = Annotated[int, Meta(ge=EARLIEST, le=LATEST, description="Microseconds since the Unix epoch.")] | Moment


class TelemetryQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which readings. What is left out is found where the session leaves no choice."""

    sensor_id: UUID | None = None
    signal: Annotated[str, Meta(min_length=1, max_length=SIGNAL_LENGTH)] | None = None
    layer: LayerChoice | None = None
    profile_id: Annotated[UUID, Meta(description="A physical layer other than the current one.")] | None = None
    start: Annotated[Edge, Meta(description="Inclusive.")] | None = None
    end: Annotated[Edge, Meta(description="Exclusive.")] | None = None
    limit: (
        Annotated[
            int,
            Meta(ge=1, le=MOST, description=f"At most so many; in JSON {USUAL:,} if not given, in CSV and Arrow all."),
        ]
        | None
    ) = None
    cursor: Cursor | None = None
    points: (
        Annotated[int, Meta(ge=1, le=POINTS, description="An envelope of at most so many parts, instead of readings.")]
        | None
    ) = None


class Point(View, frozen=True, gc=False):
    """A reading; null where the raw value has no physical one."""

    timestamp: Timestamp
    value: float | None


class TelemetryView(View, frozen=True):
    """Readings of one layer of one series, in the order of their timestamps."""

    example: ClassVar[Mapping[str, Any]] = {
        "items": [{"timestamp": "2026-03-09T10:14:33.000000Z", "value": 26.0199}],
        "next_cursor": None,
        **_SERIES,
        "layer": "physical",
        "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
    }

    items: list[Point]
    next_cursor: str | None
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None


class SeriesView(View, frozen=True):
    """What one sensor recorded of one signal in one session: one reading counts per timestamp.

    `profile_id` is the profile version of the current physical layer, null where there is only the raw one.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "capture_session_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
        **_SERIES,
        "count": 18000,
        "late": 0,
        "out_of_range": 2,
        "first_timestamp": "2026-03-09T10:14:33.000000Z",
        "last_timestamp": "2026-03-09T10:44:32.900000Z",
        "profile_id": "0195798a-9c8b-7a6d-8e5f-403122130415",
    }

    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    count: int
    late: int
    out_of_range: int
    first_timestamp: Timestamp | None
    last_timestamp: Timestamp | None
    profile_id: UUID | None


@frozen(kw_only=True)
class Place:
    """A place in a series: where a page ends, and whatever was found for the caller before the first one."""

    query: ReadingQuery
    layer: Layer | None

    def after(self, found: LayerReadings) -> "Place":
        """The place behind what was found."""
        last = found.readings.timestamps[-1] if found.readings.timestamps else self.query.after
        query = evolve(self.query, after=last, profile_id=found.profile_id)
        return Place(query=query, layer=found.layer)

    async def read(self, call: Call, limit: int) -> LayerReadings:
        """The readings that follow, in a short unit of work of their own, while the caller's token counts."""
        async with call.api.services.read(await call.caller_now()) as work:
            return await work.telemetry.read(evolve(self.query, limit=limit), layer=self.layer)


@operations.get(
    "/capture-sessions/{session_id:uuid}/telemetry",
    TelemetryUseCases.read,
    TableForm(of=(TelemetryView, EnvelopeView), text_example="timestamp,value\n2026-03-09T10:14:33.000000Z,26.0199\n"),
    refuses=(409,),
)
async def read_telemetry(call: Call, session_id: UUID, query: TelemetryQuery) -> Answer | TableStream:
    """Read the readings of a series, or its envelope.

    `sensor_id` and `signal` can be left out where the session has only one series that fits. JSON comes in pages; CSV
    (`Accept: text/csv`) and Arrow (`Accept: application/vnd.apache.arrow.stream`) come whole, or with `limit` in pages,
    whose successors are named in `Link`.

    With `points`, the series comes as at most so many parts of equal length, of which those that hold readings are
    given: how many values a part has, and its smallest, largest, first, last and mean value. No extreme is ever left
    out. A part begins at `timestamp` (inclusive) and ends at `end` (exclusive), within what is asked for. Where the
    parts begin depends on the first reading of the series, not on `start`: a window that is moved shows the same parts.
    """
    async with call.api.services.read(call.caller) as work:
        place = await _place(call, work, session_id, query)
        media_type = chosen(call.headers.get(b"accept"), KINDS)
        envelope = None if query.points is None else await _envelope(work, place, query.points)
    if envelope is not None:
        return _told(place, envelope, media_type)
    if media_type == JSON:
        found = await place.read(call, query.limit or USUAL)
        return _json(call, place.after(found), found)
    found = await place.read(call, query.limit or MOST)
    following = place.after(found) if found.readings.more else None
    table = Table(columns=_COLUMNS, facts=_facts(place, found))
    part = _part(found.readings)
    if query.limit is None:
        return TableStream(table=table, media_type=media_type, first=part, rest=_rest(call, following))
    link = None if following is None else call.link(_cursor(call, following))
    return TableStream(table=table, media_type=media_type, first=part, link=link)


@operations.get("/capture-sessions/{session_id:uuid}/series", TelemetryUseCases.series, Items(view=SeriesView))
async def list_series(work: Work, session_id: UUID) -> Sequence[Series]:
    """List the series of a capture session, by sensor and signal."""
    return await work.telemetry.series(session_id)


async def _place(call: Call, work: Work, session_id: UUID, query: TelemetryQuery) -> Place:
    if query.points is not None:
        for name, value in (("limit", query.limit), ("cursor", query.cursor)):
            if value is not None:
                raise Invalid.at(name, "does not go with points")
    start, end = edge_of("start", query.start), edge_of("end", query.end)
    if query.cursor is None:
        sensor_id, signal = query.sensor_id, query.signal
        if sensor_id is None or signal is None:
            sensor_id, signal = await _series(work, session_id, sensor_id, signal)
        after, layer, profile_id = None, query.layer, query.profile_id
    else:
        after, sensor, signal, layer, profile = call.place(query.cursor)
        sensor_id, layer = UUID(bytes=sensor), Layer(layer)
        profile_id = UUID(bytes=profile) if profile else None
    reading_query = ReadingQuery(
        capture_session_id=session_id,
        sensor_id=sensor_id,
        signal=signal,
        layer=layer or Layer.PHYSICAL,
        profile_id=profile_id,
        start=start,
        end=end,
        after=after,
        limit=USUAL,
    )
    return Place(query=reading_query, layer=layer)


def edge_of(name: str, edge: int | datetime | None) -> int | None:
    """The end of a range in microseconds: a time close to year 1 or 9999 may lie beyond it in UTC."""
    if not isinstance(edge, datetime):
        return edge
    found = micros(edge)
    if not EARLIEST <= found <= LATEST:
        raise Invalid.at(name, "must lie in the years 1 to 9999 of UTC")
    return found


async def _series(work: Work, session_id: UUID, sensor_id: UUID | None, signal: str | None) -> tuple[UUID, str]:
    """The one series that is meant where the query does not say it."""
    found = [
        (sensor, name)
        for sensor, name in await work.telemetry.names(session_id)
        if sensor_id in (None, sensor) and signal in (None, name)
    ]
    if len(found) == 1:
        return found[0]
    if sensor_id is None:
        sensors = {sensor for sensor, _ in found}
        if not found:
            # Nothing has been recorded: what is asked for can still be told from who takes part.
            sensors = {pin.sensor_id for pin in (await work.captures.get(session_id)).pins}
        if len(sensors) != 1:
            raise Invalid.at("sensor_id", f"is required: {len(sensors) or 'no'} sensors of this session fit")
        (sensor_id,) = sensors
    if signal is None:
        if found and (sensor_id, DEFAULT_SIGNAL) not in found:
            raise Invalid.at("signal", f"is required: {len(found)} signals of this sensor fit")
        signal = DEFAULT_SIGNAL
    return sensor_id, signal


def _cursor(call: Call, place: Place) -> str:
    query = place.query
    profile = query.profile_id.bytes if query.profile_id else None
    return call.cursor([query.after, query.sensor_id.bytes, query.signal, place.layer, profile])


def _json(call: Call, place: Place, found: LayerReadings) -> Answer:
    readings = found.readings
    view = TelemetryView(
        # NaN, which stands for no value, becomes null by itself.
        items=list(map(Point, times.texts(readings.timestamps.tolist()), readings.values)),
        next_cursor=_cursor(call, place) if readings.more else None,
        sensor_id=place.query.sensor_id,
        signal=place.query.signal,
        layer=found.layer,
        profile_id=found.profile_id,
    )
    return chosen_answer(view)


def chosen_answer(view: View) -> Answer:
    """The answer in JSON, where the caller might have had another form."""
    headers = {"Content-Type": JSON, "Cache-Control": "private, no-cache", "Vary": "Accept"}
    return Answer(200, headers, msgspec.json.encode(view))


async def _envelope(work: Work, place: Place, points: int) -> LayerEnvelope:
    query = place.query
    wanted = EnvelopeQuery(
        capture_session_id=query.capture_session_id,
        sensor_id=query.sensor_id,
        signal=query.signal,
        layer=query.layer,
        profile_id=query.profile_id,
        start=query.start,
        end=query.end,
        points=points,
    )
    return await work.telemetry.envelope(wanted, layer=place.layer)


def _told(place: Place, found: LayerEnvelope, media_type: str) -> Answer | TableStream:
    """The answer that shows an envelope."""
    query = place.query
    if media_type != JSON:
        table = Table(columns=ENVELOPE_COLUMNS, facts=_facts(place, found))
        return TableStream(table=table, media_type=media_type, first=found.envelope.columns)
    return chosen_answer(
        EnvelopeView(
            items=envelope_items(found.envelope),
            sensor_id=query.sensor_id,
            signal=query.signal,
            layer=found.layer,
            profile_id=found.profile_id,
        )
    )


async def _rest(call: Call, following: Place | None) -> AsyncGenerator[Part]:
    while following is not None:
        found = await following.read(call, MOST)
        yield _part(found.readings)
        following = following.after(found) if found.readings.more else None


def _part(readings: Readings) -> Part:
    return readings.timestamps, readings.values


def _facts(place: Place, found: LayerReadings | LayerEnvelope) -> Mapping[str, str]:
    """What an Arrow stream says of its series."""
    query = place.query
    facts = {
        "capture_session_id": str(query.capture_session_id),
        "sensor_id": str(query.sensor_id),
        "signal": query.signal,
        "layer": found.layer.value,
    }
    return facts if found.profile_id is None else {**facts, "profile_id": str(found.profile_id)}
