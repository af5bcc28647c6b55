"""Telemetry in MessagePack and in Arrow streams: the same batches as in JSON, and whatever lies is refused."""

import gzip
import json
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from experiment_domain.kernel.errors import Refusal
from experiment_http.arrow import batch_from_arrow
from experiment_http.bodies import ARROW, MESSAGE_PACK
from experiment_http.problems import Malformed
from experiment_http.v1.batches import batch_from, batch_from_packed
from http_api import World, refusal

BASE = 1_773_051_273_000_000
MOMENTS = pa.timestamp("us", tz="UTC")


def stream(*batches: pa.RecordBatch, metadata: dict[str, str] | None = None, options: Any = None) -> bytes:
    """The stream that Arrow's own library writes."""
    sink = pa.BufferOutputStream()
    schema = batches[0].schema.with_metadata(metadata)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    return sink.getvalue().to_pybytes()


def records(times: Sequence[Any], values: Sequence[Any], signals: Any = None, *, kind: Any = MOMENTS) -> pa.RecordBatch:
    columns = {"timestamp": pa.array(times, kind), "value": pa.array(values, pa.float64())}
    if signals is not None:
        columns["signal"] = signals
    return pa.record_batch(columns)


def shape(batch: Any) -> list[tuple[str, list[int], list[float]]]:
    return [(column.signal, column.timestamps.tolist(), column.values.tolist()) for column in batch.columns]


async def send(world: World, content: bytes, media_type: str, **headers: str) -> Any:
    more = {"Content-Type": media_type, **headers}
    return await world.sensor.send("POST", "/telemetry", content=content, headers=more)


@pytest.mark.covers("telemetry.ingest")
async def test_all_formats_say_the_same(world: World, runner: object) -> None:
    times, values = [BASE, BASE + 1], [1.5, -0.0]
    message: dict[str, Any] = {"columns": [{"timestamps": times, "values": values}]}
    named = {"capture_session_id": world.session_id}
    sent = [
        (stream(records(times, values), metadata=named), ARROW),
        (stream(records(times, values, kind=pa.int64())), ARROW),
        (stream(records(times, values, pa.array(["value"] * 2))), ARROW),
        (msgspec.msgpack.encode({**message, **named}), MESSAGE_PACK),
        (
            msgspec.msgpack.encode(
                {"readings": [{"timestamp": t, "value": v} for t, v in zip(times, values, strict=True)]}
            ),
            MESSAGE_PACK,
        ),
        (json.dumps(message).encode(), "application/json"),
    ]
    for place, (content, media_type) in enumerate(sent):
        for packed, encoding in ((content, "identity"), (gzip.compress(content), "gzip")):
            answer = await send(world, packed, media_type, **{"Content-Encoding": encoding})
            first = place == 0 and encoding == "identity"
            told = {"accepted": 2, "late": 0, "duplicate": not first, "capture_session_id": world.session_id}
            assert answer.json() == told, (place, answer.text)


async def test_refusals_are_those_of_json(world: World, runner: object) -> None:
    ahead = int(datetime(9000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    for content, media_type in (
        (stream(records([BASE, ahead], [1.0, 2.0])), ARROW),
        (msgspec.msgpack.encode({"columns": [{"timestamps": [BASE, ahead], "values": [1.0, 2.0]}]}), MESSAGE_PACK),
        (stream(records([BASE, BASE], [1.0, math.nan])), ARROW),
        (stream(records([BASE, BASE], [1.0, math.inf], pa.array(["a", "b"]))), ARROW),
    ):
        problem = refusal(await send(world, content, media_type), 422, "bad_readings")
        assert [error["index"] for error in problem["errors"]] == [1]
    elsewhere = {"capture_session_id": world.run_id}
    refusal(await send(world, stream(records([BASE], [1.0]), metadata=elsewhere), ARROW), 404, "not_found")
    refusal(await send(world, b"", ARROW), 400, "body_required")
    refusal(await send(world, b"ARROW1\0\0", ARROW), 400, "malformed_body")
    refusal(await send(world, b"\x82\xa3seq", MESSAGE_PACK), 400, "malformed_body")
    refusal(await send(world, b"{}", "application/msgpack"), 415, "unsupported_media_type")
    many = {"columns": [{"timestamps": list(range(100_001)), "values": [0.0] * 100_001}]}
    refusal(await send(world, msgspec.msgpack.encode(many), MESSAGE_PACK), 413, "too_many_readings")
    refusal(await send(world, stream(records([BASE] * 100_001, [0.0] * 100_001)), ARROW), 413, "too_many_readings")
    seq = msgspec.msgpack.encode({"seq": 1, "columns": [{"timestamps": [BASE], "values": [0.0]}]})
    refusal(await send(world, seq, MESSAGE_PACK), 422, "invalid")
    refusal(await send(world, b" " * (17 << 20), MESSAGE_PACK), 413, "body_too_large")


def test_messagepack_has_moments_of_its_own() -> None:
    moment = datetime(2026, 3, 9, 10, 14, 33, 1, tzinfo=UTC)
    body = msgspec.msgpack.encode({"readings": [{"timestamp": moment, "value": 1}]})
    assert shape(batch_from_packed(body)) == [("value", [BASE + 1], [1.0])]


SIGNALS: dict[str, Callable[[Sequence[str]], Any]] = {
    "utf8": pa.array,
    "large utf8": lambda names: pa.array(names, pa.large_utf8()),
    "dictionary": lambda names: pa.array(names).dictionary_encode(),
    "dictionary by bytes": lambda names: pa.array(names).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.utf8())),
    "dictionary by large unsigned": lambda names: pa.array(names).dictionary_encode().cast(
        pa.dictionary(pa.uint32(), pa.large_utf8())
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIGNALS)
def test_signals_of_an_arrow_stream(kind: str) -> None:
    names = ["a", "°C", "a", "b", "°C"]
    times, values = list(range(BASE, BASE + 5)), [0.5, 1.5, 2.5, 3.5, 4.5]
    first, second = (
        records(times[part], values[part], SIGNALS[kind](names[part])) for part in (slice(0, 3), slice(3, 5))
    )
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    batch = batch_from_arrow(stream(first, second, metadata={"batch_id": "x"}, options=options))
    assert batch.batch_id == "x"
    assert shape(batch) == [
        ("a", [BASE, BASE + 2], [0.5, 2.5]),
        ("°C", [BASE + 1, BASE + 4], [1.5, 4.5]),
        ("b", [BASE + 3], [3.5]),
    ]
    assert [column.index(len(column) - 1) for column in batch.columns] == [2, 4, 3]


def test_parts_of_larger_arrays_are_read_as_parts() -> None:
    whole = records(list(range(BASE, BASE + 100)), [float(n) for n in range(100)], pa.array(["a", "b"] * 50))
    batch = batch_from_arrow(stream(whole.slice(10, 4), whole.slice(99)))
    assert shape(batch) == [
        ("a", [BASE + 10, BASE + 12], [10.0, 12.0]),
        ("b", [BASE + 11, BASE + 13, BASE + 99], [11.0, 13.0, 99.0]),
    ]
    empty = batch_from_arrow(stream(whole.slice(0, 0)))
    assert len(empty) == 0


def _compressed(codec: str) -> bytes:
    return stream(records([BASE] * 99, [1.0] * 99), options=pa.ipc.IpcWriteOptions(compression=codec))


def _of(schema: list[Any], *arrays: Any) -> bytes:
    return stream(pa.record_batch(list(arrays), schema=pa.schema(schema)))


_TIMES, _VALUES = pa.array([BASE], MOMENTS), pa.array([1.0])
_TIME, _VALUE = ("timestamp", MOMENTS), ("value", pa.float64())
_MILLI, _BARE = pa.timestamp("ms", tz="UTC"), pa.timestamp("us")
UNFITTING: dict[str, Callable[[], bytes]] = {
    "null values": lambda: stream(records([BASE, BASE + 1], [1.0, None])),
    "null times": lambda: stream(records([BASE, None], [1.0, 2.0])),
    "null signals": lambda: stream(records([BASE, BASE], [1.0, 2.0], pa.array(["a", None]))),
    "lz4": lambda: _compressed("lz4"),
    "zstd": lambda: _compressed("zstd"),
    "float32": lambda: _of([_TIME, ("value", pa.float32())], _TIMES, _VALUES.cast(pa.float32())),
    "integers as values": lambda: _of([_TIME, ("value", pa.int64())], _TIMES, _VALUES.cast(pa.int64())),
    "text as values": lambda: _of([_TIME, ("value", pa.utf8())], _TIMES, pa.array(["1"])),
    "milliseconds": lambda: _of(
        [("timestamp", _MILLI), _VALUE], _TIMES.cast(_MILLI), _VALUES
    ),
    "no time zone": lambda: _of(
        [("timestamp", _BARE), _VALUE], pa.array([BASE], _BARE), _VALUES
    ),
    "int32 times": lambda: _of([("timestamp", pa.int32()), _VALUE], pa.array([1], pa.int32()), _VALUES),
    "no value": lambda: _of([_TIME], _TIMES),
    "no timestamp": lambda: _of([_VALUE], _VALUES),
    "another column": lambda: _of([_TIME, _VALUE, ("unit", pa.float64())], _TIMES, _VALUES, _VALUES),
    "a column twice": lambda: _of([_TIME, _VALUE, _VALUE], _TIMES, _VALUES, _VALUES),
    "numbers as signals": lambda: stream(records([BASE], [1.0], pa.array([1]))),
    "binary signals": lambda: stream(records([BASE], [1.0], pa.array([b"a"]))),
    "a dictionary of numbers": lambda: stream(records([BASE], [1.0], pa.array([1]).dictionary_encode())),
    "values in a dictionary": lambda: _of(
        [_TIME, ("value", pa.dictionary(pa.int32(), pa.float64()))], _TIMES, _VALUES.dictionary_encode()
    ),
    "a long signal": lambda: stream(records([BASE], [1.0], pa.array(["x" * 500]))),
    "no session": lambda: stream(records([BASE], [1.0]), metadata={"capture_session_id": "x"}),
    "a long batch id": lambda: stream(records([BASE], [1.0]), metadata={"batch_id": "x" * 201}),
    "a struct": lambda: _of([_TIME, ("value", pa.list_(pa.float64()))], _TIMES, pa.array([[1.0]])),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFITTING)
async def test_unfitting_arrow_streams(world: World, runner: object, name: str) -> None:
    answer = await send(world, UNFITTING[name](), ARROW)
    refusal(answer, 422, "invalid")
    assert answer.json()["errors"]


@pytest.mark.parametrize("place", [1, -1, 2**31 - 1, -(2**31)])
def test_a_dictionary_with_places_that_it_does_not_have(place: int) -> None:
    indexes = pa.array([0, place], pa.int32())
    lying = pa.DictionaryArray.from_arrays(indexes, pa.array(["a"]), safe=False)
    with pytest.raises(Malformed, match="not in the dictionary"):
        batch_from_arrow(stream(records([BASE, BASE], [1.0, 2.0], lying)))


def test_huge_claims_allocate_nothing() -> None:
    import tracemalloc

    honest = stream(records([BASE, BASE + 1], [1.0, 2.0], pa.array(["a", "b"])))
    tracemalloc.start()
    try:
        for place in range(0, len(honest) - 8, 4):
            for claim in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x00\x00\x00\x40"):
                _refused_or_read(honest[:place] + claim + honest[place + len(claim) :])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def _refused_or_read(body: bytes) -> bool:
    try:
        batch_from_arrow(body)
    except Refusal:
        return False
    return True


def test_torn_and_bent_streams_are_refused_or_read_and_nothing_else() -> None:
    dice = random.Random(20260309)
    dictionary = pa.array(["a", "b", "a"]).dictionary_encode()
    honest = [
        stream(records([BASE, BASE + 1], [1.0, 2.0])),
        stream(
            records([BASE, BASE + 1, BASE + 2], [1.0, 2.0, 3.0], pa.array(["a", "b", "a"])), metadata={"batch_id": "x"}
        ),
        stream(records([BASE, BASE + 1, BASE + 2], [1.0, 2.0, 3.0], dictionary)),
    ]
    for body in honest:
        assert _refused_or_read(body)
        assert not any(_refused_or_read(body[:end]) for end in range(len(body)))
        assert not _refused_or_read(body + b"\0")
        assert not _refused_or_read(body * 2)
        for _ in range(3_000):
            bent = bytearray(body)
            for _ in range(dice.randint(1, 8)):
                bent[dice.randrange(len(bent))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            _refused_or_read(bytes(bent))


def test_torn_and_bent_messages_are_refused_or_read_and_nothing_else() -> None:
    dice = random.Random(20260309)
    message = {
        "batch_id": "x",
        "columns": [{"signal": "a", "timestamps": [BASE, "2026-03-09T10:14:33Z"], "values": [1, 2.5]}],
    }
    for body, read in (
        (json.dumps(message).encode(), batch_from),
        (msgspec.msgpack.encode(message), batch_from_packed),
    ):
        read(body)
        for end in range(len(body)):
            with pytest.raises(Refusal):
                read(body[:end])
        for _ in range(5_000):
            bent = bytearray(body)
            for _ in range(dice.randint(1, 4)):
                bent[dice.randrange(len(bent))] = dice.randrange(256)
            try:
                read(bytes(bent))
            except Refusal:
                continue
