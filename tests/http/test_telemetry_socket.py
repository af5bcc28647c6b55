"""Telemetry in by a WebSocket: answered in order and when durable, stored once; bad frames disturb nobody else."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from litestar import Litestar

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_adapters.postgres.statements import Statements
from experiment_domain.kernel.access import Principal
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.kernel.news import News
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_http.sockets import BYTES_AHEAD, FRAMES_AHEAD, LARGEST
from http_api import Client, World, app_over, new_world
from nasty_json import malformed, unfitting
from socket_line import Line

BASE = 1_773_051_273_000_000
READINGS = 10


def frame(seq: int, *, at: int | None = None, count: int = READINGS, **more: Any) -> dict[str, Any]:
    """A frame of readings that follow those of the frame before."""
    start = BASE + (seq if at is None else at) * count
    column = {"timestamps": list(range(start, start + count)), "values": [float(seq)] * count}
    return {"seq": seq, "columns": [column], **more}


def good(seq: int, world: World, *, duplicate: bool = False, count: int = READINGS, late: int = 0) -> dict[str, Any]:
    """The answer to a frame that is accepted."""
    told = {"accepted": count, "late": late, "duplicate": duplicate, "capture_session_id": world.session_id}
    return {"seq": seq, **told}


async def stored(world: World) -> int:
    """How many readings are there."""
    series = await world.editor.done("GET", f"/capture-sessions/{world.session_id}/series")
    return sum(one["count"] for one in series["items"])


def line(world: World, **more: Any) -> Line:
    return Line(world.app, world.sensor.token, **more)


@pytest.mark.covers("telemetry.check_sender")
async def test_who_may_open_one(world: World, app: Litestar, runner: object) -> None:
    service = "whsec_" + "a" * 32
    for token in (None, "xps_" + "a" * 43, service, "no.jwt.at-all"):
        await Line(app, token).refused(401, "unauthenticated")
    for client in (world.viewer, world.editor, world.owner, world.outsider):
        await Line(app, client.token).refused(403, "forbidden")
    await Line(app, world.sensor.token, headers={"Origin": "https://evil.example"}).refused(403, "foreign_origin")
    await Line(app, world.sensor.token, headers={"Origin": "null"}).refused(403, "foreign_origin")
    await Line(app, world.sensor.token, "/api/v1/telemetry/ws?x=1").refused(422, "invalid")
    await Line(app, world.sensor.token, "/api/v1/telemetry").refused(404, "not_found")
    async with line(world, headers={"Origin": "https://Api.example", "Host": "api.example"}) as socket:
        assert await socket.ask(frame(1)) == good(1, world)
    former = world.sensor.token
    rotated = await world.owner.done("POST", f"/sensors/{world.sensor_id}/rotate-token")
    await Line(app, former).refused(401, "unauthenticated")
    await world.editor.done("POST", f"/sensors/{world.sensor_id}/deactivate")
    await Line(app, rotated["token"]).refused(409, "sensor_inactive")


async def test_browsers_send_the_token_as_a_subprotocol(world: World, app: Litestar, runner: object) -> None:
    socket = Line(app, None, subprotocols=["telemetry", f"bearer.{world.sensor.token}"])
    assert (await socket.shake())["subprotocol"] == "telemetry"  # never the one with the token
    assert await socket.ask(frame(1)) == good(1, world)
    await socket.hang_up()
    await Line(app, None, subprotocols=["telemetry"]).refused(401, "unauthenticated")
    await Line(app, None, subprotocols=["telemetry", "bearer.x"]).refused(401, "unauthenticated")


async def test_a_request_that_is_no_handshake(world: World, runner: object) -> None:
    answer = await world.sensor.get("/telemetry/ws")
    assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"


@pytest.mark.covers("telemetry.ingest_all")
async def test_frames_are_answered_in_order(world: World, runner: object) -> None:
    async with line(world) as socket:
        answers = await socket.ask(*(frame(seq) for seq in range(100)))
        assert answers == [good(seq, world) for seq in range(100)]
        # As MessagePack, with either shape, and with numbers that need not rise.
        rows = [{"timestamp": BASE + 5_000, "value": 1.0}]
        packed = [msgspec.msgpack.encode(one) for one in (frame(7, at=200), {"seq": 0, "readings": rows})]
        assert await socket.ask(*packed) == [good(7, world), good(0, world, count=1)]
        late = {"seq": 2**53 - 1, "readings": [{"timestamp": "2026-03-09T10:14:33.009Z", "value": 1}]}
        assert await socket.ask(late) == good(2**53 - 1, world, count=1)
    assert await stored(world) == 1_012


async def test_frames_that_wait_are_stored_together(
    runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await new_world(app_over(postgres_units_of_work))
    async with line(world) as socket:
        await socket.ask(frame(1_000))
        trips: list[int] = []
        send = Statements.send

        async def counting(self: Statements, *, commit: bool = False) -> None:
            trips.append(len(self._queue))
            await send(self, commit=commit)

        with monkeypatch.context() as patch:
            patch.setattr(Statements, "send", counting)
            answers = await socket.ask(*(frame(seq) for seq in range(FRAMES_AHEAD)))
        assert answers == [good(seq, world) for seq in range(FRAMES_AHEAD)]
        assert len(trips) <= 6  # two for what was read first, two for what came meanwhile, and perhaps two more
    assert await stored(world) == 10 * (FRAMES_AHEAD + 1)


async def test_each_frame_has_its_own_answer(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    bad = frame(3, at=3)
    bad["columns"][0]["values"][4] = "text"
    named = frame(8, at=8, capture_session_id=world.session_id)
    async with line(world) as socket:
        answers = await socket.ask(
            frame(0, batch_id="a"),
            frame(1, batch_id="b"),
            {**frame(0, batch_id="a"), "seq": 2},  # again, in the same moment
            bad,
            frame(4, batch_id="b"),  # other readings under a known name
            frame(5, batch_id="c\0"),
            frame(6, capture_session_id=other.session_id),
            frame(7, capture_session_id=str(uuid4())),
            named,
            frame(9, at=2**50),
            frame(10, at=10),
        )
    errors = [
        (answer["seq"], answer["error"]["status"], answer["error"]["code"]) for answer in answers if "error" in answer
    ]
    assert errors == [
        (3, 422, "bad_readings"),
        (4, 409, "batch_id_reused"),
        (5, 422, "invalid"),
        (6, 404, "not_found"),
        (7, 404, "not_found"),
        (9, 422, "bad_readings"),
    ]
    (wrong,) = answers[3]["error"]["errors"]
    assert (wrong["index"], wrong["signal"]) == (4, "value")
    assert [answer for answer in answers if "error" not in answer] == [
        good(0, world),
        good(1, world),
        good(2, world, duplicate=True),
        good(8, world),
        good(10, world),
    ]
    assert await stored(world) == 40


async def test_what_was_sent_again_is_stored_once(world: World, runner: object) -> None:
    async with line(world) as socket:
        await socket.ask(*(frame(seq) for seq in range(20)))
        await socket.hang_up(1006)
    async with line(world) as first, line(world) as second:
        # The client does not know what had been stored, and perhaps its former socket is still being dealt with.
        first.send(*(frame(seq) for seq in range(10, 40)))
        second.send(*(frame(seq) for seq in range(10, 40)))
        answers = [[await socket.answer() for _ in range(30)] for socket in (first, second)]
    for answered in answers:
        assert [answer["seq"] for answer in answered] == list(range(10, 40))
        assert all(answer["duplicate"] for answer in answered[:10])
    pairs = zip(*answers, strict=True)
    assert all(one["duplicate"] or other["duplicate"] for one, other in pairs)
    assert sum(not answer["duplicate"] for answered in answers for answer in answered) == 20
    assert await stored(world) == 400


async def test_what_was_read_is_stored_though_the_client_has_gone(world: World, runner: object) -> None:
    socket = line(world)
    await socket.shake()
    socket.send(*(frame(seq) for seq in range(30)))
    await socket.hang_up()
    assert await stored(world) == 300


class Slow(UnitsOfWork):
    """Units of work on the real ones, which end when they are let."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units
        self.free = asyncio.Event()
        self.free.set()
        self.fault: Exception | None = None

    @property
    def news(self) -> News:
        return self._units.news

    def begin(self, principal: Principal, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._begin(principal, read_only=read_only)

    @asynccontextmanager
    async def _begin(self, principal: Principal, *, read_only: bool) -> AsyncIterator[UnitOfWork]:
        if self.fault is not None and not read_only:
            raise self.fault
        async with self._units.begin(principal, read_only=read_only) as uow:
            if not read_only:
                await self.free.wait()
            yield uow


async def settled(socket: Line) -> int:
    """How many frames are read, once no more are."""
    before = -1
    while socket.taken != before:
        before = socket.taken
        await asyncio.sleep(0.05)
    return before


@pytest.mark.parametrize("padding", [0, 50_000])
async def test_frames_are_read_only_as_fast_as_they_are_stored(runner: object, padding: int) -> None:
    units = Slow(MemoryUnitsOfWork())
    world = await new_world(app_over(units))
    frames = [json.dumps(frame(seq)) + " " * padding for seq in range(4 * FRAMES_AHEAD)]
    most = min(FRAMES_AHEAD, BYTES_AHEAD // len(frames[0]) + 1)
    async with line(world) as socket:
        units.free.clear()
        socket.send(*frames)
        assert await settled(socket) == most
        units.free.set()
        assert [await socket.answer() for _ in frames] == [good(seq, world) for seq in range(len(frames))]


async def test_answers_that_nobody_reads_end_the_socket(runner: object) -> None:
    world = await new_world(app_over(MemoryUnitsOfWork(), socket_send_timeout=0.2))
    async with line(world) as deaf, line(world) as other:
        deaf.reads.clear()
        deaf.send(*(frame(seq) for seq in range(4 * FRAMES_AHEAD)))
        assert await settled(deaf) <= 2 * FRAMES_AHEAD
        assert await other.ask(frame(1_000)) == good(1_000, world)
        assert await deaf.closing() == (4408, "answers are not read")


async def test_a_silent_socket_is_closed(runner: object) -> None:
    world = await new_world(app_over(MemoryUnitsOfWork(), socket_idle_timeout=0.2, socket_check_every=0.05))
    async with line(world) as socket:
        assert await socket.ask(frame(1)) == good(1, world)
        assert await socket.closing() == (4408, "idle")


@pytest.fixture
def quick(units_of_work: UnitsOfWork) -> Litestar:
    """The application, which looks after its sockets often."""
    return app_over(units_of_work, socket_check_every=0.05)


@pytest.mark.parametrize("is_sending", [False, True])
@pytest.mark.parametrize(
    ("verb", "code", "reason"),
    [
        ("rotate-token", 4401, "unauthenticated"),
        ("deactivate", 4403, "sensor_inactive"),
    ],
)
async def test_who_may_send_no_longer_is_told(
    quick: Litestar, runner: object, verb: str, code: int, reason: str, is_sending: bool
) -> None:
    world = await new_world(quick)
    other = await new_world(quick)
    async with line(world) as socket, line(other) as undisturbed:
        assert await socket.ask(frame(0)) == good(0, world)
        await world.owner.done("POST", f"/sensors/{world.sensor_id}/{verb}")
        if is_sending:
            socket.send(frame(1), frame(2))
        last: Any = None
        message: Any = {"type": "websocket.send", "text": "null"}
        while message["type"] == "websocket.send":
            last = json.loads(message["text"])
            message = await asyncio.wait_for(socket._from.get(), 30)
        assert (message["code"], message["reason"]) == (code, reason)
        assert last is None or (last["seq"], last["error"]["code"]) == (1, reason)
        assert await undisturbed.ask(frame(1)) == good(1, other)
    assert await stored(world) == READINGS


async def test_a_retired_sensor_is_told(quick: Litestar, runner: object) -> None:
    world = await new_world(quick)
    async with line(world) as socket:
        await socket.ask(frame(0))
        await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
        assert (await socket.ask(frame(1)))["error"]["code"] == "no_running_session"  # which may begin again
        assert (await socket.ask(frame(2, capture_session_id=world.session_id)))["late"] == READINGS
        await world.owner.done("POST", f"/sensors/{world.sensor_id}/retire")
        assert await socket.closing() == (4403, "sensor_retired")


async def test_a_database_that_is_away_is_told_frame_by_frame(runner: object) -> None:
    units = Slow(MemoryUnitsOfWork())
    world = await new_world(app_over(units))
    async with line(world) as socket:
        units.fault = Unavailable()
        answers = await socket.ask(frame(0), frame(1))
        assert [(answer["seq"], answer["error"]["status"]) for answer in answers] == [(0, 503), (1, 503)]
        units.fault = None
        assert await socket.ask(frame(0), frame(1)) == [good(0, world), good(1, world)]


async def test_a_fault_of_the_program_ends_the_socket_and_no_other(
    runner: object, capsys: pytest.CaptureFixture[str]
) -> None:
    units = Slow(MemoryUnitsOfWork())
    world = await new_world(app_over(units))
    async with line(world) as socket, line(world) as other:
        units.fault = ZeroDivisionError("secret")
        socket.send(frame(0))
        assert await socket.closing() == (1011, "")
        units.fault = None
        assert await other.ask(frame(0)) == good(0, world)


async def test_the_end_of_the_service_is_told_after_what_was_read(runner: object) -> None:
    units = Slow(MemoryUnitsOfWork())
    app = app_over(units)
    async with app.lifespan():
        world = await new_world(app)
        async with line(world) as socket, line(world) as silent:
            units.free.clear()
            socket.send(*(frame(seq) for seq in range(5)))
            await settled(socket)
            ending = asyncio.create_task(app.sockets.finish())  # pyright: ignore[reportAttributeAccessIssue]
            assert await silent.closing() == (1012, "restart")
            units.free.set()
            assert [await socket.answer() for _ in range(5)] == [good(seq, world) for seq in range(5)]
            assert await socket.closing() == (1012, "restart")
            await ending
            late = line(world)
            assert (await late.shake())["type"] == "websocket.accept"
            assert await late.closing() == (1012, "restart")
    assert await stored(world) == 50


async def refusals_of(world: World, frames: Sequence[Any], *, code: str | None = None) -> None:
    """Each is refused, its socket closed for it or as good as before; nothing is stored, and nobody disturbed."""
    before = await stored(world)
    async with line(world) as undisturbed:
        for data in frames:
            async with line(world) as socket:
                answer = await socket.ask(data)
                error = answer["error"]
                assert 400 <= error["status"] < 500, (data[:80], answer)
                assert code is None or error["code"] == code, (data[:80], answer)
                if answer["seq"] is None:
                    wanted = 1009 if error["status"] == 413 else 1007
                    assert await socket.closing() == (wanted, error["code"]), data[:80]
                else:
                    again = await socket.ask({**frame(0), "seq": answer["seq"]})
                    assert "error" not in again, (data[:80], again)
        assert await undisturbed.ask({**frame(0), "seq": 5}) == good(5, world, duplicate=True)
    assert await stored(world) == before


@pytest.fixture
def sending(world: World, runner: asyncio.Runner) -> World:
    """A world in which the frame 0 has been stored."""

    async def first() -> None:
        async with line(world) as socket:
            await socket.ask(frame(0))

    runner.run(first())
    return world


async def test_frames_that_are_no_json(sending: World, runner: object) -> None:
    example = frame(77, batch_id="x")
    bodies = [body for body in malformed(example).values() if len(body) < LARGEST]
    texts: list[Any] = []
    for body in bodies:
        try:
            texts.append(body.decode())
        except UnicodeDecodeError:
            continue  # no text frame holds it: a server closes the socket by itself
    await refusals_of(sending, texts)


async def test_frames_that_fit_no_schema(sending: World, runner: object) -> None:
    example = frame(77, batch_id="x", capture_session_id=sending.session_id)
    await refusals_of(sending, [body.decode() for body in unfitting(example).values()])
    row = {"timestamp": BASE, "value": 1.0}
    numbers = [{**frame(1), "seq": seq} for seq in (None, "1", 1.5, -1, 2**53, True, [1])]
    await refusals_of(sending, [json.dumps(one) for one in [*numbers, {"readings": [row]}, {}]])
    values: list[Any] = ["text", "1", None, True, [], {}, "NaN"]
    bad = [{"seq": 1, "readings": [{**row, "value": value}]} for value in values]
    times: list[Any] = ["now", None, True, 1.5, 2**63, -(2**70), 253_402_300_800_000_000, BASE * 100, [], "2026-03-09"]
    bad += [{"seq": 1, "readings": [{**row, "timestamp": time}]} for time in times]
    bad += [{"seq": 1, "readings": [{**row, "signal": signal}]} for signal in ("", "x" * 101, "a\0b", "a\nb")]
    await refusals_of(sending, [json.dumps(one) for one in bad], code="bad_readings")


async def test_frames_of_far_too_much(sending: World, runner: object) -> None:
    many = ",".join(f'{{"signal":"s{number}","timestamps":[{BASE}],"values":[1]}}' for number in range(257))
    crowd = ",".join(f'{{"signal":"s{number}","timestamps":[],"values":[]}}' for number in range(300_000))
    rows = ",".join([f'{{"timestamp":{BASE},"value":1}}'] * 100_001)
    await refusals_of(sending, [f'{{"seq":1,"columns":[{many}]}}', f'{{"seq":1,"columns":[{crowd}]}}'], code="invalid")
    await refusals_of(sending, [f'{{"seq":1,"readings":[{rows}]}}'], code="too_many_readings")
    await refusals_of(sending, ["x" * (LARGEST + 1), b"x" * (LARGEST + 1)], code="body_too_large")
    await refusals_of(sending, ["[" * 1_000_000, '{"seq":' * 100_000, '{"seq":1,"readings":' + "[" * 100_000])


def packed(seq: int = 1, **members: Any) -> bytes:
    return msgspec.msgpack.encode({"seq": seq, **members})


async def test_messagepack_that_lies(sending: World, runner: object) -> None:
    row = {"timestamp": BASE, "value": 1.0}
    huge = b"\xff\xff\xff\xff"
    lies = [
        b"",
        b"\xc1",
        b"\xdd" + huge,  # an array of four thousand million entries, of which none follows
        b"\xdf" + huge,
        b"\xdb" + huge,
        b"\xc6" + huge,
        b"\xc9" + huge + b"\x01",
        b"\x82\xa3seq\x01\xa8readings\xdd" + huge,
        b"\x82\xa3seq\x01\xa8readings\xdd" + huge + msgspec.msgpack.encode(row) * 100,
        b"\x82\xa3seq\x01\xa7columns\x91\x82\xaatimestamps\xdd" + huge + b"\xa6values\xdd" + huge,
        b"\x91" * 1_000_000,
        b"\x81\xa1a" * 300_000,
        packed(readings=[row])[:-1],
        packed(readings=[row]) + b"\x00",
        packed(readings=[row]) * 2,
        b"\x83\xa3seq\x01\xa3seq\x02\xa8readings\x91" + msgspec.msgpack.encode(row),
        b"\x82\xa3seq\x01\xa8readings\x91\x83\xa9timestamp\x01\xa5value\x01\xa5value\x02",
        b"\x82\xa3seq\x01\xa8batch_id\xa2\xff\xfe",
        b"\x82\xa3seq\x01\x2a\x01",
    ]
    await refusals_of(sending, lies)
    wrong: list[Any] = [
        {"timestamp": "text", "value": 1.0},
        {"timestamp": BASE, "value": "1"},
        {"value": 1.0},
        {},
        1,
        None,
    ]
    wrong += [{**row, "value": value} for value in (math.nan, math.inf, -math.inf, b"1", True, None)]
    wrong += [{**row, "timestamp": time} for time in (True, 1.5, 2**63, -(2**63), None, b"x")]
    wrong += [{**row, "unit": "V"}, {**row, "signal": 1}, {**row, "signal": "\0"}]
    await refusals_of(sending, [packed(readings=[one]) for one in wrong])
    columns: list[Any] = [
        {"timestamps": [1]},
        {"timestamps": [1], "values": [1, 2]},
        {"timestamps": 1, "values": 1},
        None,
    ]
    columns += [{"timestamps": [1, 2], "values": [1.0, value]} for value in (math.nan, "x", None, True)]
    await refusals_of(sending, [packed(columns=[one]) for one in columns])
    await refusals_of(sending, [packed(readings=[{}] * 100_001)], code="too_many_readings")
    await refusals_of(sending, [packed(), packed(readings=[], columns=[]), packed(more=1), packed(readings={})])


async def test_a_bomb_of_messagepack_is_not_unpacked(sending: World, runner: object) -> None:
    import tracemalloc

    bombs = [b"\x82\xa3seq\x01\xa8readings\xdd\x00\xff\xff\xff" + b"\xc0" * (15 << 20), b"\x91" * (15 << 20)]
    for bomb in bombs:
        tracemalloc.start()
        try:
            await refusals_of(sending, [bomb])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < (16 << 20) + 16_000_000


async def test_clients_of_other_projects_learn_nothing(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    async with line(other) as socket:
        answer = await socket.ask(frame(1, capture_session_id=world.session_id))
        nothing = await socket.ask(frame(1, capture_session_id=str(uuid4())))
        assert answer == nothing
    assert await stored(world) == 0


def test_a_socket_whose_use_case_declares_no_permission_cannot_be_declared() -> None:
    from experiment_http.sockets import Socket
    from experiment_http.v1.telemetry_socket import TelemetryConversation

    async def use_case() -> None:
        """Anything."""

    with pytest.raises(TypeError, match="permission"):
        Socket(path="/x", use_case=use_case, begin=TelemetryConversation)


async def test_several_sensors_at_once(app: Litestar, runner: object) -> None:
    worlds = [await new_world(app) for _ in range(4)]

    async def client(world: World) -> None:
        async with line(world) as socket:
            assert await socket.ask(*(frame(seq) for seq in range(50))) == [good(seq, world) for seq in range(50)]

    await asyncio.gather(*map(client, worlds))
    assert [await stored(world) for world in worlds] == [500] * 4


async def test_the_same_frames_by_socket_and_by_request(world: World, runner: object) -> None:
    body = {"columns": frame(3)["columns"]}
    first = await Client(world.app, world.sensor.token).done("POST", "/telemetry", body)
    async with line(world) as socket:
        assert await socket.ask(frame(3)) == {"seq": 3, **first, "duplicate": True}
