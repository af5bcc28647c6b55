"""The WebSocket for telemetry under a real server: broken frames, clients that send too fast, and a server killed."""

import asyncio
import json
import os
import signal
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import httpx
import psutil
import pytest
from attrs import frozen
from websockets import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.asyncio.client import ClientConnection, connect

from fix_up import Up

pytestmark = pytest.mark.e2e

BASE = 1_773_051_273_000_000
READINGS = 500
PATIENCE = 60.0
TEXT, BINARY, CONTINUATION, CLOSE, PING = 1, 2, 0, 8, 9


@frozen
class Rig:
    """A sensor that records, and how it and its owner come in."""

    url: str
    owner: httpx.Client
    sensor_id: str
    token: str
    session_id: str

    @classmethod
    def of(cls, up: Up) -> "Rig":
        owner = httpx.Client(
            base_url=f"{up.url.rstrip('/')}/api/v1", headers={"Authorization": f"Bearer {up.token()}"}, timeout=PATIENCE
        )

        def done(method: str, path: str, body: Any = None) -> Any:
            return owner.request(method, path, json=body).raise_for_status().json()

        project = done("POST", "/projects", {"name": "Sockets"})
        experiment = done("POST", "/experiments", {"project_id": project["id"], "name": "Sockets"})
        kind = {"project_id": project["id"], "sensor_type": "load", "input_unit": "V", "display_unit": "bar"}
        sensor = done("POST", "/sensors", {"name": "one", **kind})
        run = done("POST", f"/experiments/{experiment['id']}/runs", {"name": "one"})
        owner.put(f"/runs/{run['id']}/sensors/{sensor['id']}").raise_for_status()
        done("POST", f"/runs/{run['id']}/start")
        session = done("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
        return cls(up.url, owner, sensor["id"], sensor["token"], session["id"])

    def connect(self, token: str | None = None, **more: Any) -> connect:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        url = f"{self.url.rstrip('/').replace('http', 'ws', 1)}/api/v1/telemetry/ws"
        return connect(url, additional_headers=headers, max_size=None, compression=None, **more)

    def series(self) -> list[dict[str, Any]]:
        return self.owner.get(f"/capture-sessions/{self.session_id}/series").raise_for_status().json()["items"]

    def count(self) -> int:
        return sum(one["count"] for one in self.series())


def frame(seq: int, count: int = READINGS) -> str:
    start = BASE + seq * count
    column = {"timestamps": list(range(start, start + count)), "values": [seq + n / 7 for n in range(count)]}
    return json.dumps({"seq": seq, "columns": [column]})


@pytest.fixture
def rig(shared_up: Up) -> Iterator[Rig]:
    rig = Rig.of(shared_up)
    with closing(rig.owner):
        yield rig


def raw(kind: int, payload: bytes, *, length: int | None = None, rsv: int = 0, is_masked: bool = True) -> bytes:
    """A frame as it stands on the wire, whether RFC 6455 allows it or not."""
    size = len(payload) if length is None else length
    mask = 0x80 if is_masked else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | rsv | kind, mask | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | rsv | kind, mask | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | rsv | kind, mask | 127, size)
    return head + (b"\0\0\0\0" if is_masked else b"") + payload


async def ending(socket: ClientConnection) -> tuple[int | None, list[Any]]:
    """With which code the server closes, and what it said before."""
    said: list[Any] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                said.append(json.loads(await socket.recv()))
    except ConnectionClosed as closed:
        return (closed.rcvd.code if closed.rcvd else None), said


BROKEN: dict[str, tuple[bytes, int | None]] = {
    "no UTF-8": (raw(TEXT, b"\xff\xfe"), 1009),
    "compressed though nothing was agreed on": (raw(TEXT, b"{}", rsv=0x40), 1009),
    "not masked": (raw(TEXT, b"{}", is_masked=False), 1009),
    "of an unknown kind": (raw(3, b"{}"), 1009),
    "the continuation of nothing": (raw(CONTINUATION, b"{}"), 1009),
    "as long as no memory": (raw(BINARY, b"", length=1 << 62), 1009),
    "longer than allowed": (raw(BINARY, b"", length=(16 << 20) + 1), 1009),
    "a long ping": (raw(PING, b"x" * 200), 1009),
    "no MessagePack": (raw(BINARY, b"\xc1"), 1007),
    "no JSON": (raw(TEXT, b"{"), 1007),
    "zlib": (raw(BINARY, b"\x78\x9c" + bytes(100)), 1007),
    "empty": (raw(BINARY, b""), 1007),
}


def test_broken_frames_end_their_socket_and_no_other(rig: Rig) -> None:
    async def scene() -> None:
        async with rig.connect() as other:
            for number, (name, (data, code)) in enumerate(BROKEN.items()):
                async with rig.connect() as socket:
                    socket.transport.write(data)
                    found, _ = await ending(socket)
                    assert found == code, name
                await other.send(frame(number, 10))
                assert json.loads(await other.recv())["accepted"] == 10
            # A frame that ends in its middle, and one that comes after the end.
            async with rig.connect() as torn:
                torn.transport.write(raw(TEXT, b'{"seq"', length=1 << 20))
                torn.transport.abort()
            async with rig.connect() as late:
                late.transport.write(raw(CLOSE, struct.pack("!H", 1000)) + raw(TEXT, frame(10_000).encode()))
                assert await ending(late) == (1000, [])
            async with rig.connect() as long:
                with suppress(ConnectionClosed):
                    await long.send(["x" * (1 << 20)] * 17)  # one message of many frames
                found, said = await ending(long)
                assert (found, [answer["error"]["code"] for answer in said]) == (1009, ["body_too_large"])
            await other.send(frame(len(BROKEN), 10))
            assert json.loads(await other.recv())["accepted"] == 10

    asyncio.run(scene())
    assert rig.count() == 10 * (len(BROKEN) + 1)


def test_a_refused_handshake_is_a_problem(rig: Rig) -> None:
    async def scene() -> None:
        for token, status, code in ((f"xps_{'a' * 43}", 401, "unauthenticated"), (_user(rig), 403, "forbidden")):
            with pytest.raises(InvalidStatus) as refused:
                await rig.connect(token)
            response = refused.value.response
            assert (response.status_code, json.loads(response.body)["code"]) == (status, code)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["x-request-id"]

    asyncio.run(scene())


def _user(rig: Rig) -> str:
    return rig.owner.headers["authorization"].removeprefix("Bearer ")


def test_a_token_that_is_rotated_ends_its_socket(rig: Rig) -> None:
    async def scene() -> float:
        async with rig.connect() as socket:
            await socket.send(frame(0))
            await socket.recv()
            rig.owner.post(f"/sensors/{rig.sensor_id}/rotate-token").raise_for_status()
            began = time.monotonic()
            assert await ending(socket) == (4401, [])
            return time.monotonic() - began

    assert asyncio.run(scene()) < 5


def test_who_sends_too_fast_is_slowed_down_and_memory_stays_flat(rig: Rig, shared_up: Up) -> None:
    """A client that writes whatever the network takes, and reads no answer until all is sent."""
    frames = [frame(seq, 10_000) for seq in range(40)]
    worker = shared_up.api_processes()[-1]
    rounds = 6  # of the same frames: what is a duplicate is read and answered like any other

    async def scene() -> tuple[list[int], list[int]]:
        ahead: list[int] = []
        memory: list[int] = []
        async with rig.connect(write_limit=0) as socket:
            answered = 0

            async def read() -> None:
                nonlocal answered
                for expected in range(rounds * len(frames)):
                    answer = json.loads(await socket.recv())
                    assert answer["seq"] == expected % len(frames)
                    assert answer["accepted"] == 10_000
                    answered += 1

            reading = asyncio.create_task(read())
            for place in range(rounds * len(frames)):
                await socket.send(frames[place % len(frames)])  # waits while the network takes nothing
                ahead.append(place + 1 - answered)
                if place >= len(frames):
                    memory.append(worker.memory_info().rss)
            async with asyncio.timeout(PATIENCE):
                await reading
        return ahead, memory

    ahead, memory = asyncio.run(scene())
    print(f"frames sent and not answered: at most {max(ahead)}; memory {min(memory) >> 20} to {max(memory) >> 20} MiB")
    # Of some 90 MiB, what lies between is 1 MiB in hand, a frame more, and what both ends' kernels hold.
    assert max(ahead) < len(ahead) / 4
    assert max(memory) - min(memory) < 32 << 20
    assert rig.count() == 400_000


def test_killed_in_the_middle_of_a_stream_nothing_is_lost_or_doubled(rig: Rig, shared_up: Up) -> None:
    frames = [frame(seq) for seq in range(900)]
    kills = 3

    async def scene() -> int:
        acknowledged = 0
        resent = 0
        for kill in range(kills + 1):
            async with reopened(rig) as socket:
                first, sent = acknowledged, acknowledged

                async def send(socket: ClientConnection, first: int) -> None:
                    nonlocal sent
                    for place in range(first, len(frames)):
                        await socket.send(frames[place])
                        sent = place + 1

                sending = asyncio.create_task(send(socket, first))
                until = len(frames) if kill == kills else min(first + 150, len(frames))
                with suppress(ConnectionClosed):
                    while acknowledged < len(frames):
                        answer = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
                        assert (answer["seq"], answer.get("accepted")) == (acknowledged, READINGS), answer
                        acknowledged += 1
                        if acknowledged == until and kill < kills:
                            for worker in shared_up.api_processes()[1:]:
                                with suppress(psutil.NoSuchProcess):
                                    os.kill(worker.pid, signal.SIGKILL)
                sending.cancel()
                with suppress(ConnectionClosed, asyncio.CancelledError):
                    await sending
                resent += sent - acknowledged
        assert acknowledged == len(frames)
        return resent

    resent = asyncio.run(scene())
    print(f"{resent} frames were on their way when the server was killed, and were sent again")
    assert resent > 0
    (series,) = rig.series()
    assert (series["count"], series["late"]) == (len(frames) * READINGS, 0)


@asynccontextmanager
async def reopened(rig: Rig) -> AsyncIterator[ClientConnection]:
    """A socket, as soon as there is a server again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket = await rig.connect()
            break
        except (OSError, InvalidHandshake):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    try:
        yield socket
    finally:
        with suppress(ConnectionClosed):
            await socket.close()
