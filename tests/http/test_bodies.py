"""Bodies: what is no JSON, or ambiguous JSON, is refused on every operation that reads one; so are bombs."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from backports import zstd

from experiment_domain.kernel.errors import Unauthenticated
from experiment_http import bodies
from experiment_http.problems import Malformed
from http_api import API, Client, World, documented, refusal
from nasty_json import NO_VALUES, VALUES, malformed, unfitting

OPERATIONS = [(method, path, found) for method, path, found in documented() if "requestBody" in found]
IDS = [found["operationId"] for _, _, found in OPERATIONS]
DEEP = 64


def limit_of(path: str, operation: Any) -> int:
    """How many bytes the body of an operation may have."""
    if operation["x-permission"] == "report":
        return 1 << 16
    powers = {"telemetry": 24, "metrics": 22}
    return 1 << powers.get(path.rpartition("/")[2], 20)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=IDS)
async def test_nasty_bodies(drafts: World, runner: object, method: str, path: str, operation: Any) -> None:
    example = drafts.example(operation)
    client = drafts.caller(operation)
    headers = {"Content-Type": "application/json"}
    for name, body in malformed(example).items():
        answer = await client.send(method, drafts.path(path), content=body, headers=headers)
        if len(body) > limit_of(path, operation):
            refusal(answer, 413, "body_too_large")
            continue
        # What has names that nobody knows may be refused for them first.
        assert answer.status_code == 400 or (answer.status_code == 422 and "is unknown" in answer.text), (
            f"{name}: {answer.status_code} {answer.text}"
        )
        if b'"x": ' not in body:
            assert answer.status_code == 400, f"{name}: {answer.status_code} {answer.text}"
        assert answer.json()["code"] in ("malformed_body", "invalid")
    for name, body in unfitting(example).items():
        answer = await client.send(method, drafts.path(path), content=body, headers=headers)
        assert answer.status_code == 422, f"{name}: {answer.status_code} {answer.text}"
        assert answer.json()["errors"], name


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=IDS)
async def test_what_a_body_must_be(drafts: World, runner: object, method: str, path: str, operation: Any) -> None:
    example = json.dumps(drafts.example(operation)).encode()
    client = drafts.caller(operation)
    for media_type in ("text/plain", "", "application/xml", "application/json; charset=latin-1", "application/jsonx"):
        answer = await client.send(method, drafts.path(path), content=example, headers={"Content-Type": media_type})
        refusal(answer, 415, "unsupported_media_type")
    packed = "br" if operation["x-permission"] == "ingest" else "gzip"
    more: dict[str, Any] = {"Content-Type": "application/json", "Content-Encoding": packed}
    answer = await client.send(method, drafts.path(path), content=gzip.compress(example), headers=more)
    refusal(answer, 415, "unsupported_media_type")
    answer = await client.send(method, drafts.path(path))
    if operation["requestBody"]["required"]:
        refusal(answer, 400, "body_required")
    else:
        assert answer.status_code not in (400, 415, 422), answer.text


async def test_it_is_said_what_a_body_has_at_least(drafts: World, runner: object) -> None:
    path = f"/capture-sessions/{drafts.session_id}/stop"
    told = refusal(await drafts.editor.send("POST", path), 400, "body_required")
    assert told["detail"] == "This operation needs a body with outcome."


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=IDS)
async def test_bodies_are_bounded(drafts: World, runner: object, method: str, path: str, operation: Any) -> None:
    client = drafts.caller(operation)
    limit = limit_of(path, operation)
    headers = {"Content-Type": "application/json"}
    answer = await client.send(method, drafts.path(path), content=b" " * (limit + 1), headers=headers)
    refusal(answer, 413, "body_too_large")
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 2 * limit:
            read += 1 << 16
            yield b" " * (1 << 16)

    # No Content-Length: it is noticed while reading, not afterwards.
    answer = await client.send(method, drafts.path(path), content=endless(), headers=headers)
    refusal(answer, 413, "body_too_large")
    assert read <= limit + (1 << 17)
    answer = await client.send(
        method, drafts.path(path), content=b"{}", headers={**headers, "Content-Length": "9" * 30}
    )
    refusal(answer, 413, "body_too_large")


async def test_names_the_place_of_an_error(drafts: World, runner: object) -> None:
    async def paths(path: str, body: Any, method: str = "POST") -> list[str]:
        problem = await drafts.owner.refused(method, path, 422, "invalid", body)
        return [error["path"] for error in problem["errors"]]

    runs = f"/experiments/{drafts.experiment_id}/runs"
    assert await paths(runs, {}) == ["name"]
    assert await paths(runs, {"name": 1}) == ["name"]
    assert await paths(runs, {"name": "R", "tags": ["a", 1]}) == ["tags[1]"]
    assert await paths(runs, {"name": "R", "tags": ["a", " b"]}) == ["tags[1]"]
    assert await paths(runs, {"name": "R", "tags": ["a", ""]}) == ["tags[1]"]
    assert await paths(runs, {"name": "R", "params": {"a": {"b": "\u0000"}}}) == ["params.a.b"]
    assert await paths(runs, {"name": "R", "git_sha": "xyz"}) == ["git_sha"]
    assert await paths(runs, {"name": "R", "git_sha": "0123456z"}) == ["git_sha"]
    assert await paths(runs, {"name": "R", "auto_close_after": -1}) == ["auto_close_after"]
    assert await paths(runs, {"name": "R", "auto_close_after": True}) == ["auto_close_after"]
    assert await paths(runs, {"name": None}) == ["name"]
    assert await paths("/experiments", {"project_id": "x", "name": "E"}) == ["project_id"]
    assert await paths(f"/runs/{drafts.run_id}", {"name": None}, "PATCH") == ["name"]
    profiles = f"/sensors/{drafts.sensor_id}/conversion-profiles"
    assert await paths(profiles, {"kind": "cubic", "parameters": {}}) == ["kind"]
    assert await paths(profiles, {"kind": "linear", "parameters": {"a": 1}}) == ["parameters.b"]
    assert await paths(profiles, {"kind": "linear", "parameters": {"a": 1, "b": "x", "c": 1}}) == [
        "parameters.c",
        "parameters.b",
    ]
    assert await paths(profiles, {"kind": "identity", "parameters": {}, "valid_range": {"min": 2, "max": 1}}) == [
        "valid_range"
    ]
    assert await paths(profiles, {"kind": "identity", "parameters": {}, "valid_range": {"mid": 2}}) == [
        "valid_range.mid"
    ]
    members = f"/projects/{drafts.project_id}/members/someone"
    assert await paths(members, {"role": "sensor"}, "PUT") == ["role"]
    assert await paths(members, {}, "PUT") == ["role"]


async def test_what_json_allows_is_taken(drafts: World, runner: object) -> None:
    metadata = {
        "deep": json.loads("[" * 18 + "]" * 18),
        "text": 'Größe 漢字 🚀 \u2028 \\ " /',
        "numbers": [0, -0.0, 1e-400, 1.7976931348623157e308, 2**63 - 1, -(2**63)],
        "constants": [True, False, None],
        "": None,
    }
    del metadata[""]
    for body in (
        json.dumps({"metadata": metadata}).encode(),
        json.dumps({"metadata": metadata}, ensure_ascii=False).encode(),
        b' \t\r\n{"metadata": {"a": "\\u00b0\\/\\ud83d\\ude80"}} \n',
    ):
        answer = await drafts.editor.send(
            "PATCH", f"/runs/{drafts.run_id}", content=body, headers={"Content-Type": "Application/JSON;charset=UTF-8"}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"] == json.loads(body)["metadata"]


@pytest.mark.parametrize("family", NO_VALUES)
async def test_what_is_no_json_value_is_refused(drafts: World, runner: object, family: str) -> None:
    headers = {"Content-Type": "application/json"}
    for value in NO_VALUES[family]:
        body = b'{"metadata": {"a": ' + value + b"}}"
        answer = await drafts.editor.send("PATCH", f"/runs/{drafts.run_id}", content=body, headers=headers)
        refusal(answer, 400, "malformed_body")
    assert (await drafts.viewer.done("GET", f"/runs/{drafts.run_id}"))["metadata"] == {}


@pytest.mark.parametrize("text", VALUES)
async def test_every_json_value_is_kept_as_it_is(drafts: World, runner: object, text: str) -> None:
    body = b'{"metadata": {"a": ' + text.encode() + b"}}"
    headers = {"Content-Type": "application/json"}
    await drafts.editor.done("PATCH", f"/runs/{drafts.run_id}", content=body, headers=headers)
    kept = (await drafts.viewer.done("GET", f"/runs/{drafts.run_id}"))["metadata"]["a"]
    assert kept == VALUES[text]
    assert isinstance(kept, bool) is isinstance(VALUES[text], bool)


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ('{"a": ' + "[" * 18 + "]" * 18 + "}", 200),
        ('{"a": ' + "[" * 30 + "]" * 30 + "}", 422),
        ('{"a": ' + "[" * (DEEP - 2) + "]" * (DEEP - 2) + "}", 422),
        ('{"a": ' + "[" * (DEEP - 1) + "]" * (DEEP - 1) + "}", 400),
        ('{"a": "' + "[" * 200 + '"}', 200),
        ('{"a": "' + '\\"[' * 200 + '"}', 200),
        ('{"a": [' + "[]," * 300 + "[]]}", 200),
        ('{"a": "' + "x" * 70_000 + '"}', 422),
        ('{"a": 9223372036854775808}', 422),
    ],
)
async def test_depth_and_size_of_free_values(drafts: World, runner: object, metadata: str, status: int) -> None:
    body = b'{"metadata": ' + metadata.encode() + b"}"
    answer = await drafts.editor.send(
        "PATCH", f"/runs/{drafts.run_id}", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status, answer.text


def _gzip_bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([packer.compress(b" " * (1 << 20)) for _ in range(size >> 20)]) + packer.flush()


def _zstd_bomb(size: int) -> bytes:
    packer = zstd.ZstdCompressor(level=19)
    return b"".join([packer.compress(b" " * (1 << 20)) for _ in range(size >> 20)]) + packer.flush()


BOMBS = {
    "gzip": ("gzip", lambda: _gzip_bomb(512 << 20)),
    "zstd": ("zstd", lambda: _zstd_bomb(512 << 20)),
    "gzip members": ("gzip", lambda: gzip.compress(b" " * (1 << 20)) * 64),
    "zstd frames": ("zstd", lambda: zstd.compress(b" " * (1 << 20)) * 64),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_are_defused(world: World, runner: object, name: str) -> None:
    encoding, made = BOMBS[name]
    bomb = made()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    tracemalloc.start()
    try:
        answer = await world.sensor.send("POST", "/telemetry", content=bomb, headers=headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    refusal(answer, 413, "body_too_large")
    assert peak < (16 << 20) + 16_000_000


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_packed_bodies(world: World, runner: object, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zstd.compress
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}

    async def send(content: Any) -> Any:
        return await world.sensor.send("POST", "/telemetry", content=content, headers=headers)

    def message(value: float) -> bytes:
        return json.dumps({"readings": [{"timestamp": 1_700_000_000_000_000, "value": value}]}).encode()

    assert (await send(pack(message(1.0)))).json()["accepted"] == 1
    half = len(message(2.0)) // 2
    members = pack(message(2.0)[:half]) + pack(message(2.0)[half:])
    assert (await send(members)).json()["accepted"] == 1

    async def byte_by_byte() -> AsyncIterator[bytes]:
        for byte in pack(message(3.0)[:half]) + pack(message(3.0)[half:]):
            yield bytes([byte])

    assert (await send(byte_by_byte())).json()["accepted"] == 1
    for broken in (pack(message(4.0))[:-1], pack(message(4.0)) + b"garbage", b"garbage", message(4.0)):
        refusal(await send(broken), 400, "malformed_encoding")
    refusal(await send(pack(b"") * 1_001 + pack(message(5.0))), 400, "malformed_encoding")
    refusal(await send(b""), 400, "body_required")
    refusal(await send(pack(b"")), 400, "body_required")
    assert (await send(pack(message(6.0)))).status_code == 200


async def test_a_zstd_window_is_bounded(world: World, runner: object) -> None:
    options: Any = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.compression_level: 3}
    packer = zstd.ZstdCompressor(options=options)
    body = packer.compress(b" " * (1 << 20)) + packer.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
    answer = await world.sensor.send("POST", "/telemetry", content=body, headers=headers)
    refusal(answer, 400, "malformed_encoding")


async def test_a_body_that_does_not_come_is_not_waited_for(runner: object) -> None:
    import asyncio

    from experiment_adapters.memory import MemoryUnitsOfWork
    from http_api import Client, app_over, token_of

    client = Client(app_over(MemoryUnitsOfWork(), body_timeout=0.05), token_of("ada"))

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"name": '
        await asyncio.sleep(30)
        yield b'"P"}'

    answer = await client.send("POST", "/projects", content=slow(), headers={"Content-Type": "application/json"})
    refusal(answer, 408, "body_too_slow")


@pytest.mark.parametrize("is_packed", [False, True])
async def test_a_large_body_of_a_stranger_is_not_waited_for(world: World, runner: object, is_packed: bool) -> None:
    content = b" " * (4 << 20)
    sent = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal sent
        whole = gzip.compress(content) if is_packed else content
        for place in range(0, len(whole), len(whole) // 8):
            sent += 1
            yield whole[place : place + len(whole) // 8]

    headers = {"Content-Type": "application/json", **({"Content-Encoding": "gzip"} if is_packed else {})}
    for caller, status, code in (
        (Client(world.app, "xps_nobodys"), 401, "unauthenticated"),
        (world.editor, 403, "forbidden"),
        (world.sensor, 400, "malformed_body"),
    ):
        sent = 0
        refusal(await caller.send("POST", "/telemetry", content=parts(), headers=headers), status, code)
        assert (sent < 8) is (caller is not world.sensor)


async def test_a_large_body_of_a_stranger_is_not_parsed(world: World, runner: object) -> None:
    """It may be packed in so few bytes that it arrives at once, and to parse it takes a second."""
    packed = zstd.compress(b" " * (4 << 20))
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
    for caller, status, code in (
        (Client(world.app, "xps_nobodys"), 401, "unauthenticated"),
        (world.editor, 403, "forbidden"),
        (world.sensor, 400, "malformed_body"),
    ):
        refusal(await caller.send("POST", "/telemetry", content=packed, headers=headers), status, code)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("first", [0, 5, 500])
async def test_of_a_stranger_no_more_is_unpacked_than_of_an_ordinary_body(
    runner: object, encoding: str, first: int
) -> None:
    """However few bytes it is packed in, and in however many parts they come: many strangers would fill the memory."""
    made = _gzip_bomb if encoding == "gzip" else _zstd_bomb
    packed = made(12 << 20)
    kind = bodies.BodyKind(schema=object, decode=bytes, limit=16 << 20, packed=True)
    headers = {b"content-type": b"application/json", b"content-encoding": encoding.encode()}

    async def read(let_in: Callable[[], Awaitable[None]]) -> bodies.Buffer:
        messages = [
            {"type": "http.request", "body": packed[:first], "more_body": True},
            {"type": "http.request", "body": packed[first:], "more_body": False},
        ]

        async def receive() -> Any:
            return messages.pop(0)

        return await bodies.read(receive, headers, kind, 1.0, let_in)

    async def refuse() -> None:
        raise Unauthenticated("A stranger.")

    tracemalloc.start()
    try:
        with pytest.raises(Unauthenticated):
            await read(refuse)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * bodies.ORDINARY
    asked = 0

    async def let_in() -> None:
        nonlocal asked
        asked += 1

    assert await read(let_in) == b" " * (12 << 20)
    assert asked == 1


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
@pytest.mark.parametrize("more", [-1, 0, 1, 2])
async def test_members_behind_an_ordinary_body_are_unpacked_as_well(
    runner: object, pack: Callable[[bytes], bytes], more: int
) -> None:
    """Wherever the first one ends: what is left when the caller is asked for begins within a member, or behind one."""
    parts = [b"a" * (bodies.ORDINARY + more), b"", b"bcd"]
    encoding = b"gzip" if pack is gzip.compress else b"zstd"
    kind = bodies.BodyKind(schema=object, decode=bytes, limit=2 << 20, packed=True)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"".join(map(pack, parts)), "more_body": False}

    headers = {b"content-type": b"application/json", b"content-encoding": encoding}
    assert await bodies.read(receive, headers, kind, 1.0) == b"".join(parts)


@pytest.mark.parametrize(
    ("headers", "is_whole"),
    [
        ({b"content-length": b"3"}, True),
        ({b"content-length": b"4"}, False),
        ({b"content-length": b"03"}, False),
        ({}, False),
        ({b"content-length": b"3", b"transfer-encoding": b"chunked"}, False),
    ],
)
async def test_of_a_body_whose_length_is_known_the_end_is_not_asked_for(
    runner: object, headers: dict[bytes, bytes], is_whole: bool
) -> None:
    messages = [
        {"type": "http.request", "body": b"{} ", "more_body": True},
        {"type": "http.request", "body": b" ", "more_body": False},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    kind = bodies.BodyKind(schema=dict, decode=json.loads)
    body = await bodies.read(receive, {b"content-type": b"application/json", **headers}, kind, 1.0)
    assert body == (b"{} " if is_whole else b"{}  ")
    assert bool(messages) is is_whole


async def test_of_a_caller_who_goes_away_before_anything_came_no_body_is_taken(runner: object) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    kind = bodies.BodyKind(schema=dict, decode=json.loads, required=False)
    with pytest.raises(Malformed) as raised:
        await bodies.read(receive, {}, kind, 1.0)
    assert raised.value.code == "body_incomplete"


async def test_a_caller_who_goes_away_leaves_nothing(world: World, runner: object) -> None:
    messages = [
        {"type": "http.request", "body": b'{"name": "half', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": f"{API}/projects",
        "raw_path": f"{API}/projects".encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [
            (b"authorization", f"Bearer {world.owner.token}".encode()),
            (b"content-type", b"application/json"),
        ],
        "client": None,
        "server": ("api.example", 80),
    }
    await world.app(scope, receive, send)  # pyright: ignore[reportArgumentType]
    assert sent[0]["status"] == 400
