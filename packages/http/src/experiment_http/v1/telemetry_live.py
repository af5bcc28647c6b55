"""Telemetry on its way out as it comes in: the readings of a capture session as a stream of events."""

from collections.abc import Hashable, Iterator
from typing import Annotated, Any
from uuid import UUID

from attrs import define, field, frozen
from msgspec import Meta, Struct

from experiment_domain.captures import CaptureStatus, recording_is_over
from experiment_domain.kernel.access import System
from experiment_domain.telemetry.batches import SIGNAL_LENGTH
from experiment_domain.telemetry.live import LiveChunk
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.live import LiveUseCases, Watched
from experiment_http.answers import Answer
from experiment_http.operations import API, Api, Call, Operations
from experiment_http.pagination import Cursor, digest_of
from experiment_http.streams import LAST_EVENT_ID, EventStream, EventStreamForm, View, event, spot_of
from experiment_http.tails import Found, Frame, Source, Spot
from experiment_http.v1 import telemetry_in

operations = Operations(telemetry_in.operations.tag, telemetry_in.operations.about)
PATH = "/telemetry/stream"
AT_ONCE = 2_000
"""The most readings of one event."""
END = -1
"""The position of the spot behind the end: there, nothing will come any more."""
EXAMPLE = """retry: 1000

id: q1Ab…
data: {"sensor_id":"0195798a-1b2c-7d3e-9f40-51627384a5b6","signal":"temperature","layer":"physical",\
"profile_id":"0195798a-9c8b-7a6d-8e5f-403122130415","late":false,\
"timestamps":[1773051273000000,1773051274000000],"values":[26.0199,null]}

: keep-alive

id: q1Ac…
event: end
data: {"status":"succeeded"}

"""


class LiveQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which readings to follow."""

    capture_session_id: UUID
    sensor_id: Annotated[tuple[UUID, ...], Meta(description="Of these sensors only.")] = ()
    signal: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=SIGNAL_LENGTH)], ...],
        Meta(description="Of these signals only."),
    ] = ()
    layer: (
        Annotated[Layer, Meta(description="Without it: physical values of series that have any, else raw ones.")] | None
    ) = None
    after: Annotated[Cursor, Meta(description="An id to go on from, for who cannot send `Last-Event-ID`.")] | None = (
        None
    )


class LiveReadings(Struct, frozen=True):
    """Readings of one series that were received together, in columns; null is no physical value."""

    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None
    late: bool
    timestamps: list[int]
    values: list[float]


@frozen(kw_only=True)
class Session(Source):
    """A layer of a session, which is read once for all who follow it."""

    api: Api
    session_id: UUID
    layer: Layer | None

    @property
    def key(self) -> Hashable:
        """The session and the layer."""
        return self.session_id, self.layer

    @property
    def topic(self) -> str:
        """The session, as events name it."""
        return f"capture_session/{self.session_id}"

    async def latest(self) -> str:
        """The place behind everything that has been received."""
        async with self.api.services.begin(System()) as work:
            return await work.live.latest(self.session_id)

    async def read(self, spot: Spot, until: str | None = None) -> Found:
        """An event for each chunk, or several for a large one; the end where the session was over before."""
        # Not on a replica, which does not know exactly what has been committed.
        async with self.api.services.begin(System()) as work:
            part, status = await work.live.since(self.session_id, spot.place, layer=self.layer, until=until)
        frames: list[Frame] = []
        place = spot.place
        for chunk in part.chunks:
            frames += self._frames(chunk, place, spot.sent if chunk.position == spot.position else 0)
            place = chunk.place
        last = self._end(status, part.place) if status is not None and recording_is_over(status) else None
        return Found(frames=frames, place=part.place, more=part.more, last=last)

    def seal(self, spot: Spot) -> str:
        """The id of an event behind which a spot is."""
        return self.api.cursors.write([spot.place, spot.position, spot.sent], digest(self.session_id))

    def _frames(self, chunk: LiveChunk, before: str, sent: int) -> Iterator[Frame]:
        count = len(chunk.timestamps)
        for start in range(sent, count, AT_ONCE):
            end = min(start + AT_ONCE, count)
            spot = Spot(chunk.place) if end == count else Spot(before, chunk.position, end)
            readings = LiveReadings(
                sensor_id=chunk.sensor_id,
                signal=chunk.signal,
                layer=chunk.layer,
                profile_id=chunk.profile_id,
                late=chunk.is_late,
                timestamps=chunk.timestamps[start:end].tolist(),
                values=chunk.values[start:end].tolist(),  # NaN becomes null by itself
            )
            about = chunk.sensor_id, chunk.signal, chunk.layer
            yield Frame(event(readings, event_id=self.seal(spot)), about, spot)

    def _end(self, status: CaptureStatus, place: str) -> Frame:
        spot = Spot(place, END)
        return Frame(event({"status": status}, event_id=self.seal(spot), name="end"), spot=spot, is_last=True)


@define
class SessionView(View):
    """What one caller follows of a session."""

    call: Call
    session: Session
    query: LiveQuery
    watched: Watched = field(init=False)

    @property
    def source(self) -> Source:
        """The session."""
        return self.session

    async def check(self) -> None:
        """Refuse unless the token still counts and its owner may still see the layer."""
        # Where the readings come from: a replica that is behind, or away, would let somebody go on who was removed.
        async with self.call.api.services.begin(await self.call.caller_now()) as work:
            self.watched = await work.live.watch(self.session.session_id, layer=self.query.layer)

    def sees(self, about: Any) -> bool:
        """Whether these readings are wanted, and may be read."""
        sensor_id, signal, layer = about
        return (
            (not self.query.sensor_id or sensor_id in self.query.sensor_id)
            and (not self.query.signal or signal in self.query.signal)
            and (layer is not Layer.RAW or self.watched.may_read_raw)
        )

    def seal(self, spot: Spot) -> str:
        """The id of an event behind which a spot is."""
        return self.session.seal(spot)


def digest(session_id: UUID) -> bytes:
    """What ids of a session's stream are sealed for, whatever of it is followed."""
    return digest_of(API + PATH, [("capture_session_id", str(session_id))])


@operations.get(PATH, LiveUseCases.watch, EventStreamForm(text_example=EXAMPLE, ends=True), refuses=(404,))
async def stream_telemetry(call: Call, query: LiveQuery) -> "Answer | EventStream":
    """Follow the readings of a capture session as they come in.

    A stream of server-sent events, from now on. Each message holds readings of one series that were received together,
    in columns: `timestamps` in microseconds since the Unix epoch, and `values`, null where there is no physical one.
    They come within milliseconds of their commit, in the order of reception, whichever process took them in. What
    backfills convert does not come again.

    Who sends the id of the last message in `Last-Event-ID`, as browsers do by themselves, misses and repeats nothing.
    An id that is not known (any more) is answered by the event `reset`: the stream then goes on from now, and what came
    before is to be read from `/capture-sessions/{id}/telemetry`. Who reads too slowly gets the event `gap`, with the id
    of the last message before it, and goes on from now; who does not read at all is cut off. To draw a chart without a
    hole, open the stream first, then read what was before.

    When the session is over, everything received by then comes first, then the event `end` with its `status`, and the
    stream closes; who comes again with the id of that end is answered 204, which tells browsers to stop. What comes
    late afterwards is told by `capture.late_data` of the event feed. A caller who may not follow it any longer gets the
    event `refused` with a `code` within five seconds. Comments keep the connection alive.
    """
    session = Session(api=call.api, session_id=query.capture_session_id, layer=query.layer)
    view = SessionView(call, session, query)
    await view.check()
    given = call.headers.get(LAST_EVENT_ID)
    event_id = query.after if given is None else given.decode("latin-1")
    sealed_for = digest(session.session_id)
    spot, is_lost = spot_of(lambda text: call.api.cursors.read(text, sealed_for), event_id)
    if spot is not None and spot.position == END and view.watched.is_over:
        return Answer(204)
    return EventStream(call.api.streams, view, spot, skips=True, is_lost=is_lost)
