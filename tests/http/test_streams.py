"""Streams of readings and of events: what comes, to whom, from where on, and how they end."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
from litestar import Litestar

from experiment_adapters.auth.jwt import JwtSettings
from experiment_domain.kernel.access import Principal
from experiment_domain.kernel.errors import Conflict, Unavailable
from experiment_domain.kernel.news import News
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_http import tails
from experiment_http.v1 import telemetry_live
from http_api import World, app_over, new_world, refusal, token_of
from sse import Stream, streamed

START = 1_773_051_273_000_000
LEEWAY: Any = attrs.fields_dict(JwtSettings)["leeway"].default
"""Seconds that a token counts beyond its end."""
QUICK: dict[str, Any] = {"stream_keep_alive": 0.2, "stream_check_every": 0.1, "stream_send_timeout": 0.5}


@pytest.fixture(scope="module")
def app(units_of_work: UnitsOfWork) -> Litestar:
    """One whose streams do everything sooner."""
    return app_over(units_of_work, **QUICK)


async def send(world: World, at: int, *values: float, signal: str = "value", session: str | None = None) -> None:
    stamps = [START + at + number for number in range(len(values))]
    columns = [{"signal": signal, "timestamps": stamps, "values": list(values)}]
    await world.sensor.done(
        "POST", "/telemetry", {"capture_session_id": session or world.session_id, "columns": columns}
    )


@asynccontextmanager
async def readings(world: World, role: str = "editor", **more: Any) -> AsyncGenerator[Stream]:
    token = token_of(world.names[role])
    query = {"capture_session_id": world.session_id, "layer": "raw", **more}
    query = {name: value for name, value in query.items() if value is not None}
    headers = query.pop("headers", None)
    held = query.pop("held", None)
    async with streamed(world.app, token, "/telemetry/stream", headers, held=held, **query) as stream:
        yield stream


@asynccontextmanager
async def events(world: World, role: str = "viewer", **more: Any) -> AsyncGenerator[Stream]:
    headers = more.pop("headers", None)
    async with streamed(world.app, token_of(world.names[role]), "/events/stream", headers, **more) as stream:
        yield stream


async def values(stream: Stream, count: int) -> list[float]:
    found: list[float] = []
    while len(found) < count:
        event = await stream.next()
        assert event.name == "message", event
        found += event.data["values"]
    return found


async def test_readings_come_as_they_are_received(world: World, runner: object) -> None:
    async with readings(world, layer=None) as stream, readings(world) as raw:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        await stream.here()
        await raw.here()
        await send(world, 0, 1.0, -200.0)
        event = await stream.next()
        assert event.name == "message"
        assert event.id
        assert event.data == {
            "sensor_id": world.sensor_id,
            "signal": "value",
            "layer": "physical",
            "profile_id": world.profile_id,
            "late": False,
            "timestamps": [START, START + 1],
            "values": [3.0, None],
        }
        assert (await raw.next()).data["values"] == [1.0, -200.0]
        await stream.comment("keep-alive")


async def test_it_goes_on_where_it_was(world: World, runner: object) -> None:
    async with readings(world) as stream:
        nothing_yet = await stream.here()
        await send(world, 0, 1.0)
        first = (await stream.next()).id
        await send(world, 10, 2.0)
        assert await values(stream, 1) == [2.0]
    await send(world, 20, 3.0)
    for last, expected in ((nothing_yet, [1.0, 2.0, 3.0]), (first, [2.0, 3.0])):
        async with readings(world, headers={"Last-Event-ID": last}) as stream:
            assert await values(stream, len(expected)) == expected
            await send(world, 100 + len(expected), 9.0)
            assert await values(stream, 1) == [9.0]
    async with readings(world, after=first) as stream:
        assert await values(stream, 2) == [2.0, 3.0]


async def test_a_large_batch_is_resumed_in_its_middle(
    world: World, runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_live, "AT_ONCE", 10)
    numbers = [float(number) for number in range(35)]
    async with readings(world) as stream:
        await stream.here()
        await send(world, 0, *numbers)
        assert (await stream.next()).data["values"] == numbers[:10]
        middle = (await stream.next()).id
        assert await values(stream, 15) == numbers[20:]
    await send(world, 100, 99.0)
    async with readings(world, headers={"Last-Event-ID": str(middle)}) as stream:
        assert await values(stream, 16) == [*numbers[20:], 99.0]


async def test_only_what_is_wanted_comes(runner: object, app: Litestar) -> None:
    world = await new_world(app, signals=["temperature", "pressure"])
    other = await new_world(app)
    async with (
        readings(world, signal=["pressure"]) as pressure,
        readings(world, sensor_id=other.sensor_id) as nothing,
        readings(world, signal=["temperature", "pressure"], sensor_id=world.sensor_id) as both,
    ):
        for stream in (pressure, nothing, both):
            await stream.here()
        await send(world, 0, 1.0, signal="temperature")
        await send(other, 0, 5.0)
        await send(world, 0, 2.0, signal="pressure")
        assert await values(pressure, 1) == [2.0]
        assert await values(both, 2) == [1.0, 2.0]
        before = await nothing.here()
        await nothing.comment("keep-alive")
        await pressure.comment("keep-alive")
    # What has been passed over is not passed over again.
    async with readings(world, headers={"Last-Event-ID": before}) as stream:
        await stream.here()


async def test_it_is_kept_alive_while_all_that_comes_is_for_others(runner: object, app: Litestar) -> None:
    world = await new_world(app, signals=["temperature", "pressure"])

    async def busy() -> None:
        for at in itertools.count():
            await send(world, at, 1.0, signal="temperature")
            await asyncio.sleep(0.05)

    async with readings(world, signal=["pressure"]) as stream:
        before = await stream.here()
        sending = asyncio.create_task(busy())
        try:
            for _ in range(3):
                await stream.comment("keep-alive")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        # Who comes again need not pass over all of that once more.
        assert stream.parser.last_id != before
        await send(world, 0, 2.0, signal="pressure")
        assert await values(stream, 1) == [2.0]


@pytest.mark.parametrize("last", ["nonsense", "Größe", "x" * 3000, ""])
async def test_an_id_that_nobody_has_given_is_an_explicit_reset(world: World, runner: object, last: str) -> None:
    async with (
        readings(world, headers={"Last-Event-ID": last}) as stream,
        events(world, headers={"Last-Event-ID": last}, types="run.tagged") as other,
    ):
        for one in (stream, other):
            assert (await one.next()).name == "reset"
            await one.here()
        await send(world, 0, 2.0)
        assert await values(stream, 1) == [2.0]
        await world.editor.done("POST", "/runs:bulk-tags", {"run_ids": [world.run_id], "add_tags": ["new"]})
        assert (await other.next()).data["type"] == "run.tagged"


async def test_ids_of_other_streams_are_unknown(world: World, runner: object, app: Litestar) -> None:
    other = await new_world(app)
    async with readings(other) as stream:
        foreign = await stream.here()
    async with readings(world, headers={"Last-Event-ID": foreign}) as stream:
        assert (await stream.next()).name == "reset"
    async with events(world, headers={"Last-Event-ID": foreign}) as stream:
        assert (await stream.next()).name == "reset"


async def test_it_ends_with_the_session(world: World, runner: object) -> None:
    async with readings(world) as stream:
        await stream.here()
        await send(world, 0, 1.0)
        await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
        *data, end = await stream.end()
    assert [event.data["values"] for event in data] == [[1.0]]
    assert (end.name, end.data) == ("end", {"status": "succeeded"})
    await send(world, 10, 2.0)  # late
    async with readings(world, headers={"Last-Event-ID": str(data[0].id)}) as stream:
        assert [event.name for event in await stream.end()] == ["message", "end"]
    async with readings(world) as stream:
        assert [event.name for event in await stream.end()] == ["end"]
    async with readings(world, headers={"Last-Event-ID": str(end.id)}) as stream:
        assert stream.status == 204


async def test_a_draft_is_waited_for(drafts: World, runner: object) -> None:
    async with readings(drafts) as stream:
        await stream.here()
        await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
        await drafts.editor.done("POST", f"/capture-sessions/{drafts.session_id}/start")
        await send(drafts, 0, 1.0)
        assert await values(stream, 1) == [1.0]


async def test_who_may_not_follow_is_refused(world: World, runner: object) -> None:
    path = f"/telemetry/stream?capture_session_id={world.session_id}"
    await world.outsider.refused("GET", path, 404, "not_found")
    await world.anonymous.refused("GET", path, 401, "unauthenticated")
    await world.viewer.refused("GET", f"{path}&layer=raw", 403, "raw_not_allowed")
    await world.owner.refused("GET", "/telemetry/stream", 422, "invalid")
    await world.viewer.refused("GET", f"/events/stream?project_id={world.session_id}", 404, "not_found")
    await world.viewer.refused("GET", path, 406, "not_acceptable", headers={"Accept": "application/json"})
    for stream in (path, "/events/stream"):
        answer = await world.viewer.get(stream, headers={"Origin": "https://evil.example"})
        refusal(answer, 403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers
        assert (await world.viewer.get(stream, headers={"Origin": "http://api.example"})).status_code == 200


async def _ends(stream: Stream, change: Callable[[], Any], code: str) -> None:
    await stream.here()
    await change()
    began = time.monotonic()
    last = (await stream.end())[-1]
    assert (last.name, last.data["code"]) == ("refused", code)
    assert time.monotonic() - began < 30


async def test_a_stream_ends_when_its_caller_may_see_it_no_longer(runner: object, app: Litestar) -> None:
    world = await new_world(app)
    project = f"/projects/{world.project_id}"
    async with readings(world, "owner") as raw:
        await _ends(raw, lambda: world.owner.done("PATCH", project, {"physical_only": True}), "raw_not_allowed")
    async with readings(world, "viewer", layer=None) as stream:
        member = f"{project}/members/{world.names['viewer']}"
        await _ends(stream, lambda: world.owner.done("DELETE", member), "not_found")
    async with events(world, "editor", project_id=world.project_id) as stream:
        member = f"{project}/members/{world.names['editor']}"
        await _ends(stream, lambda: world.owner.done("DELETE", member), "not_found")


class ReplicaAway(UnitsOfWork):
    """Units of work of which a replica serves those for reads, until it is away."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units
        self.is_away = False

    @property
    def news(self) -> News:
        return self._units.news

    def begin(self, principal: Principal, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        if read_only and self.is_away:
            raise Unavailable("The replica is away.")
        return self._units.begin(principal, read_only=read_only)


async def test_a_stream_ends_while_the_replica_is_away(runner: object, units_of_work: UnitsOfWork) -> None:
    units = ReplicaAway(units_of_work)
    world = await new_world(app_over(units, **QUICK))
    async with readings(world) as one, events(world, "editor", project_id=world.project_id) as other:
        await one.here()
        await other.here()
        units.is_away = True
        member = f"/projects/{world.project_id}/members/{world.names['editor']}"
        await _ends(one, lambda: world.owner.done("DELETE", member), "not_found")
        assert (await other.end())[-1].name == "refused"


async def test_a_stream_ends_with_its_token(world: World, runner: object) -> None:
    followed: list[tuple[str, dict[str, Any]]] = [
        ("/events/stream", {}),
        ("/telemetry/stream", {"capture_session_id": world.session_id}),
    ]
    for path, query in followed:
        token = token_of(world.names["owner"], exp=time.time() - LEEWAY + 2)
        async with streamed(world.app, token, path, **query) as stream:
            last = (await stream.end())[-1]
            assert (last.name, last.data["code"]) == ("refused", "unauthenticated")


async def test_raw_values_stop_where_the_policy_says_so(runner: object, app: Litestar) -> None:
    """Without a layer, a series without a profile is raw: it is left out from then on."""
    world = await new_world(app, start=False)
    sensor = await world.editor.done(
        "POST",
        "/sensors",
        {
            "project_id": world.project_id,
            "name": "Bare",
            "sensor_type": "x",
            "input_unit": "mV",
            "display_unit": "mV",
        },
        201,
    )
    await world.editor.done("PUT", f"/runs/{world.run_id}/sensors/{sensor['id']}")
    await world.editor.done("POST", f"/runs/{world.run_id}/start")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/start")
    bare = type(world.sensor)(app, sensor["token"])

    async def send_bare(at: int, value: float) -> None:
        column = {"signal": "value", "timestamps": [START + at], "values": [value]}
        await bare.done("POST", "/telemetry", {"capture_session_id": world.session_id, "columns": [column]})

    async with readings(world, layer=None) as editors, readings(world, "viewer", layer=None) as viewers:
        for stream in (editors, viewers):
            await stream.here()
        await send_bare(0, 7.0)
        await send(world, 0, 1.0)
        assert await values(editors, 2) == [7.0, 3.0]
        assert await values(viewers, 1) == [3.0]
        await world.owner.done("PATCH", f"/projects/{world.project_id}", {"physical_only": True})
        for _ in range(3):
            await editors.comment("keep-alive")
        await send_bare(10, 8.0)
        await send(world, 10, 2.0)
        assert await values(editors, 1) == [5.0]


async def test_who_does_not_read_is_cut_off(world: World, runner: object) -> None:
    held = asyncio.Event()
    async with readings(world, held=held) as stream:
        await stream.here()
        await send(world, 0, 1.0)
        assert await stream.end() == []
    held.set()


@asynccontextmanager
async def overtaken(world: World) -> AsyncGenerator[tuple[Stream, Stream, asyncio.Event]]:
    """A reader that has read twenty batches, and one that has not, and takes what comes when the event is set."""
    held = asyncio.Event()
    async with readings(world) as quick, readings(world, held=held) as slow:
        await quick.here()
        for number in range(20):
            await send(world, number * 10, float(number))
            assert await values(quick, 1) == [float(number)]
        yield quick, slow, held


async def test_who_reads_too_slowly_gets_a_gap_and_can_fill_it(
    runner: object, units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "FRAMES", 5)
    world = await new_world(app_over(units_of_work))
    async with overtaken(world) as (_, slow, held):
        held.set()
        event = await slow.next()
        seen: list[float] = []
        while event.name == "message":
            seen += event.data["values"]
            event = await slow.next()
        assert event.name == "gap"
        await send(world, 1_000, 99.0)
        assert await values(slow, 1) == [99.0]
    missed = [float(number) for number in range(20)][len(seen) :]
    async with readings(world, after=event.data["last_event_id"]) as stream:
        assert await values(stream, len(missed) + 1) == [*missed, 99.0]


async def test_who_reads_too_slowly_is_told_of_the_end(
    runner: object, units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "FRAMES", 5)
    world = await new_world(app_over(units_of_work))
    async with overtaken(world) as (quick, slow, held):
        await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
        assert (await quick.end())[-1].name == "end"
        held.set()
        assert [event.name for event in await slow.end()][-2:] == ["gap", "end"]


async def test_what_others_have_lost_is_no_reset(world: World, runner: object, monkeypatch: pytest.MonkeyPatch) -> None:
    read, lose = telemetry_live.Session.read, False

    async def losing(self: Any, *args: Any) -> Any:
        nonlocal lose
        if lose:
            lose = False
            raise Conflict("place_lost", "It is not known any more.")
        return await read(self, *args)

    monkeypatch.setattr(telemetry_live.Session, "read", losing)
    async with readings(world) as stays:
        await stays.here()
        await send(world, 0, 1.0)
        before = (await stays.next()).id
        lose = True
        await send(world, 10, 2.0)
        assert (await stays.next()).name == "reset"
        async with readings(world, headers={"Last-Event-ID": before}) as stream:
            assert await values(stream, 1) == [2.0]


async def test_slow_readers_of_events_miss_none(
    runner: object, units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "FRAMES", 5)
    world = await new_world(app_over(units_of_work))
    held = asyncio.Event()
    token = token_of(world.names["viewer"])
    async with (
        streamed(world.app, token, "/events/stream", held=held, types="run.tagged") as slow,
        events(world, types="run.tagged") as quick,
    ):
        await quick.here()
        for number in range(20):
            body = {"run_ids": [world.run_id], "set_tags": [f"t{number}"]}
            await world.editor.done("POST", "/runs:bulk-tags", body)
            await quick.next()
        held.set()
        await slow.here()
        ids = [(await slow.next()).data["id"] for _ in range(20)]
    assert len(set(ids)) == 20


async def test_streams_end_when_the_service_stops(runner: object, units_of_work: UnitsOfWork) -> None:
    app: Any = app_over(units_of_work)
    world = await new_world(app)
    async with readings(world) as stream, events(world) as other:
        await stream.here()
        await other.here()
        app.stop()
        for one in (stream, other):
            assert await one.end() == []
            assert one.parser.comments == ["restart"]
            assert one.parser.retry == 1_000
    async with readings(world) as stream:
        assert await stream.end() == []


async def test_readers_of_a_session_share_what_is_read(
    world: World, runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = telemetry_live.Session.read

    async def counting(self: Any, *args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(self, *args)

    monkeypatch.setattr(telemetry_live.Session, "read", counting)
    async with readings(world) as one, readings(world) as two, readings(world) as three:
        for stream in (one, two, three):
            await stream.here()
        reads = 0
        for number in range(5):
            await send(world, number, 1.0)
            for stream in (one, two, three):
                await stream.next()
        assert reads <= 10  # once for each batch, and perhaps once more


async def all_events(world: World, **query: Any) -> list[Any]:
    found: list[Any] = []
    after: str | None = None
    while True:
        page = await world.viewer.done(
            "GET", "/events", params={**query, "limit": 3, **({} if after is None else {"after": after})}
        )
        found += page["items"]
        after = page["after"]
        if page["next_cursor"] is None:
            return found
        assert page["next_cursor"] == after


async def test_the_feed_is_read_in_parts(world: World, runner: object, app: Litestar) -> None:
    await new_world(app)
    found = await all_events(world)
    assert {event["projectid"] for event in found} == {world.project_id}
    kinds = [event["type"] for event in found]
    assert kinds.index("run.created") < kinds.index("run.started") < kinds.index("capture.started")
    assert len({event["id"] for event in found}) == len(found)
    assert await all_events(world, project_id=world.project_id) == found
    assert [event["type"] for event in await all_events(world, types=["run.started", "run.created"])] == [
        "run.created",
        "run.started",
    ]


async def test_the_feed_goes_on(world: World, runner: object) -> None:
    page = await world.viewer.done("GET", "/events?limit=500")
    end = page["after"]
    assert (await world.viewer.done("GET", f"/events?after={end}"))["items"] == []
    await world.editor.done("POST", "/runs:bulk-tags", {"run_ids": [world.run_id], "add_tags": ["new"]})
    (event,) = (await world.viewer.done("GET", f"/events?after={end}"))["items"]
    assert (event["type"], event["subject"], event["actor"]) == (
        "run.tagged",
        f"run/{world.run_id}",
        world.names["editor"],
    )
    async with events(world, after=end) as stream:  # from the feed to the stream
        streamed_event = await stream.next()
        assert streamed_event.data == event
    assert (await world.viewer.done("GET", f"/events?after={streamed_event.id}"))["items"] == []  # and back


async def test_the_feed_refuses(world: World, runner: object) -> None:
    await world.viewer.refused("GET", "/events?after=nonsense", 400, "invalid_cursor")
    await world.outsider.refused("GET", f"/events?project_id={world.project_id}", 404, "not_found")
    await world.viewer.refused("GET", "/events?types=Nonsense", 422, "invalid")
    assert (await world.outsider.done("GET", "/events"))["items"] == []
    await world.sensor.refused("GET", "/events", 403, "forbidden")


async def test_events_come_as_they_happen(world: World, runner: object, app: Litestar) -> None:
    other = await new_world(app)
    async with events(world, types="run.tagged") as stream, events(world, "outsider") as nothing:
        first = await stream.here()
        await nothing.here()
        for which in (other, world):
            await which.editor.done("POST", "/runs:bulk-tags", {"run_ids": [which.run_id], "add_tags": ["new"]})
        event = await stream.next()
        assert (event.data["type"], event.data["projectid"]) == ("run.tagged", world.project_id)
        assert event.data["specversion"] == "1.0"
        await nothing.comment("keep-alive")
    async with events(world, headers={"Last-Event-ID": first}) as stream:
        assert (await stream.next()).data["id"] == event.data["id"]


async def test_what_happens_in_a_project_right_after_it_was_made_is_seen(
    runner: object, units_of_work: UnitsOfWork
) -> None:
    world = await new_world(app_over(units_of_work, **{**QUICK, "stream_check_every": 60.0}))
    async with events(world, "outsider") as stream, events(world, "viewer") as other:
        for each in (stream, other):
            await each.here()
        for _ in range(2):
            made = await world.outsider.done("POST", "/projects", {"name": "Rig 8"})
            for name in ("Creep", "Fatigue"):
                await world.outsider.done("POST", "/experiments", {"project_id": made["id"], "name": name})
            for _ in range(2):
                seen = await stream.next()
                assert (seen.data["type"], seen.data["projectid"]) == ("experiment.created", made["id"])
        await world.editor.done("POST", "/runs:bulk-tags", {"run_ids": [world.run_id], "add_tags": ["new"]})
        assert (await other.next()).data["projectid"] == world.project_id  # and nothing of the others before it


async def test_who_becomes_a_member_sees_events_from_then_on(world: World, runner: object) -> None:
    name = world.names["outsider"]
    async with events(world, "outsider") as stream:
        await stream.here()
        await world.owner.done("PUT", f"/projects/{world.project_id}/members/{name}", {"role": "viewer"})
        for _ in range(3):
            await stream.comment("keep-alive")
        await world.editor.done("POST", "/runs:bulk-tags", {"run_ids": [world.run_id], "add_tags": ["new"]})
        assert (await stream.next()).data["type"] == "run.tagged"
