"""What has happened: a feed to be read in parts, and the same as a stream."""

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from attrs import define, field, frozen
from msgspec import Meta, Struct

from experiment_domain.kernel import cloudevents
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.kernel.events import TYPE_LENGTH, TYPE_PATTERN, EventPart
from experiment_domain.kernel.ids import first_id
from experiment_domain.kernel.news import EVENTS
from experiment_domain.usecases.events import EventUseCases
from experiment_http.answers import Answer, Form, list_schema, listed
from experiment_http.operations import API, Api, Call, Operations
from experiment_http.pagination import Cursor, Limit, digest_of
from experiment_http.streams import LAST_EVENT_ID, EventStream, EventStreamForm, View, event, spot_of
from experiment_http.tails import AGAIN_AFTER, Found, Frame, Source, Spot
from experiment_http.times import Timestamp
from experiment_http.v1.values import Json

operations = Operations("events", "What has happened, in its order, as CloudEvents 1.0.")
PATH = "/events"
CLOCKS_DIFFER = 10.0
"""Seconds by which the clocks of two machines may differ that make projects and look at them."""
_SEALED_FOR = digest_of(API + PATH, [])
_EXAMPLE: Mapping[str, Any] = {
    "specversion": "1.0",
    "id": "0195798b-4c3d-7e2f-9a1b-0c9d8e7f6a5b",
    "source": "/api/v1/projects/01957989-14c8-7bb2-8f0d-6a0c1d7e4f52",
    "type": "capture.completed",
    "subject": "capture_session/0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
    "time": "2026-03-09T10:44:33.000000Z",
    "projectid": "01957989-14c8-7bb2-8f0d-6a0c1d7e4f52",
    "actor": "ada",
    "datacontenttype": "application/json",
    "data": {"run_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c", "from": "running", "reason": None, "ordinal": 1},
}
_STREAM = f"retry: 1000\n\nid: q1Ab…\ndata: {msgspec.json.encode(_EXAMPLE).decode()}\n\n: keep-alive\n\n"


class CloudEvent(Struct, frozen=True):
    """An event as CloudEvents 1.0 has it, with `projectid` and `actor` as extensions; `data` says what, by `type`."""

    specversion: Literal["1.0"]
    id: UUID
    source: str
    type: str
    subject: str
    time: Timestamp
    projectid: UUID
    datacontenttype: Literal["application/json"]
    data: Json
    actor: str | None = None


Kinds = Annotated[
    tuple[Annotated[str, Meta(max_length=TYPE_LENGTH, pattern=TYPE_PATTERN)], ...],
    Meta(description="Of these types only, such as `run.started`; each is named in full, unlike at webhooks."),
]
Projects = Annotated[
    tuple[UUID, ...], Meta(description="In these projects only; without any, in all that the caller may read.")
]


class EventQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events, and from where on."""

    project_id: Projects = ()
    types: Kinds = ()
    after: Annotated[Cursor, Meta(description="`after` of the part before, or the id of a stream's event.")] | None = (
        None
    )
    limit: Limit = 50


class EventStreamQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events to follow."""

    project_id: Projects = ()
    types: Kinds = ()
    after: (
        Annotated[Cursor, Meta(description="Where to begin, for who comes from the feed; else it begins now.")] | None
    ) = None


@frozen(kw_only=True)
class FeedForm(Form[EventPart]):
    """A part of the feed, and where it goes on, also where that is its end for now."""

    def answer(self, result: EventPart, cursor: Callable[[Any], str]) -> Answer:
        """The events, and the cursor of the next part."""
        after = cursor(result.place)
        items = [cloudevents.cloud_event(placed.recorded) for placed in result.events]
        return listed({"items": items, "next_cursor": after if result.more else None, "after": after})

    def views(self) -> Sequence[type[Struct]]:
        """That of an event."""
        return (CloudEvent,)

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:
        """An object with the events and the cursor."""
        following = {"type": ["string", "null"], "description": "`after`, where there may be more by now."}
        after = {"type": "string", "description": "Where the feed goes on."}
        return list_schema(refer(CloudEvent), next_cursor=following, after=after)

    def example(self) -> Any:
        """One event."""
        return {"items": [_EXAMPLE], "next_cursor": None, "after": "q1Ab…"}


@frozen
class Log(Source):
    """All events of all projects, which are read once for all who follow some of them."""

    api: Api

    @property
    def key(self) -> Hashable:
        """There is only one."""
        return EVENTS

    @property
    def topic(self) -> str:
        """All events."""
        return EVENTS

    async def latest(self) -> str:
        """The place behind everything that has happened."""
        async with self.api.services.begin(System()) as work:
            return await work.events.latest()

    async def read(self, spot: Spot, until: str | None = None) -> Found:
        """What has happened behind a spot."""
        # Not on a replica, which does not know exactly what has been committed.
        async with self.api.services.begin(System()) as work:
            part = await work.events.since(spot.place, until=until)
        frames: list[Frame] = []
        for placed in part.events:
            after = Spot(placed.place)
            content = event(cloudevents.cloud_event(placed.recorded), event_id=self.seal(after))
            frames.append(Frame(content, placed.recorded.event, after))
        return Found(frames=frames, place=part.place, more=part.more)

    def seal(self, spot: Spot) -> str:
        """The id of an event behind which a spot is."""
        return self.api.cursors.write(spot.place, _SEALED_FOR)


@define
class LogView(View):
    """What one caller follows of the events.

    Who makes a project does something in it at once, and is not to miss that: where there are events of a project that
    is newer than the last look at the caller's, there is another look.
    """

    call: Call
    log: Log
    query: EventStreamQuery
    projects: frozenset[UUID] = field(init=False)
    _newer: UUID = field(init=False)
    _others: frozenset[UUID] = field(default=frozenset(), init=False)

    @property
    def source(self) -> Source:
        """All events."""
        return self.log

    async def check(self) -> None:
        """Refuse unless the token still counts; the caller's projects may have become others."""
        newer = first_id(time.time() - CLOCKS_DIFFER)
        # Where the events come from: a replica that is behind, or away, would let somebody go on who was removed.
        async with self.call.api.services.begin(await self.call.caller_now()) as work:
            self.projects = await work.events.watch(self.query.project_id, types=self.query.types)
        self._newer = newer
        self._others = frozenset(each for each in self._others if each > newer)

    async def prepare(self, abouts: Iterable[Any]) -> None:
        """Look again at the caller's projects where there are events of new ones, once for each that is another's."""
        if self.query.project_id:
            return
        met = {about.project_id for about in abouts if about is not None}
        new = {each for each in met - self.projects - self._others if each > self._newer}
        while new:
            try:
                await self.check()
            except Unavailable:
                await asyncio.sleep(AGAIN_AFTER)
                continue
            except Refusal:
                return  # which ends the stream very soon
            self._others |= new - self.projects
            return

    def sees(self, about: Any) -> bool:
        """Whether an event is wanted, and may be seen."""
        return about.project_id in self.projects and (not self.query.types or about.type in self.query.types)

    def seal(self, spot: Spot) -> str:
        """The id of an event behind which a spot is."""
        return self.log.seal(spot)


@operations.get(PATH, EventUseCases.page, FeedForm(), refuses=(404, 409))
async def list_events(call: Call, query: EventQuery) -> Answer:
    """Read what has happened, oldest first.

    Give `after` back as `after` to go on, at once or later, with the same query or another one: nothing is missed and
    nothing comes twice, and what has happened to one subject comes in the order in which it did. Where `next_cursor` is
    null, that is all for now. Events are kept for good; a place that is not known after the service was restored from
    an older copy is refused (`place_lost`).
    """
    after = None if query.after is None else call.api.cursors.read(query.after, _SEALED_FOR)
    # Not on a replica, which does not know exactly what has been committed.
    async with call.api.services.begin(call.caller) as work:
        part = await work.events.page(query.project_id, types=query.types, limit=query.limit, after=after)
    return FeedForm().answer(part, lambda place: call.api.cursors.write(place, _SEALED_FOR))


@operations.get("/events/stream", EventUseCases.watch, EventStreamForm(text_example=_STREAM), refuses=(404,))
async def stream_events(call: Call, query: EventStreamQuery) -> EventStream:
    """Follow what happens, as it does.

    A stream of server-sent events, each message a CloudEvent, from now on or from where `after` says. Who sends the id
    of the last message in `Last-Event-ID`, as browsers do by themselves, misses and repeats nothing; ids are places of
    the feed as well. An id that is not known is answered by the event `reset`, and the stream goes on from now. Without
    `project_id` it follows all projects that the caller may read at the time. A caller who may not follow it any longer
    gets the event `refused` with a `code` within five seconds; who does not read is cut off. Comments keep the
    connection alive.
    """
    view = LogView(call, Log(call.api), query)
    await view.check()
    given = call.headers.get(LAST_EVENT_ID)
    event_id = query.after if given is None else given.decode("latin-1")
    spot, is_lost = spot_of(lambda text: [call.api.cursors.read(text, _SEALED_FOR)], event_id)
    return EventStream(call.api.streams, view, spot, skips=False, is_lost=is_lost)
