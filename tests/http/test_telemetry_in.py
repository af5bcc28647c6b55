"""Telemetry in: two shapes of the same thing, whole or not at all, and refusals that say which reading and why."""

import json
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from litestar import Litestar

from experiment_domain.kernel.errors import Refusal
from experiment_domain.telemetry.batches import Column
from experiment_http.v1.batches import batch_from
from http_api import World, new_world, refusal

BASE = 1_773_051_273_000_000
TEXT = "2026-03-09T10:14:33.000000Z"


def shape(batch: Any) -> list[tuple[str, list[int], list[float]]]:
    """What a batch holds."""
    return [(column.signal, column.timestamps.tolist(), column.values.tolist()) for column in batch.columns]


async def send(world: World, body: Any, **more: Any) -> Any:
    """What is answered to a batch."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    return await world.sensor.send("POST", "/telemetry", content=content, headers=headers, **more)


async def stored(world: World, **query: Any) -> list[tuple[str, float | None]]:
    """What is read back."""
    path = f"/capture-sessions/{world.session_id}/telemetry"
    found = await world.editor.done("GET", path, params={"sensor_id": world.sensor_id, "layer": "raw", **query})
    return [(item["timestamp"], item["value"]) for item in found["items"]]


@pytest.mark.covers("telemetry.ingest")
async def test_both_shapes_and_both_kinds_of_time(app: Litestar, runner: object) -> None:
    wanted = [(TEXT, 1.5), ("2026-03-09T10:14:34.000001Z", -2.0)]
    times: list[list[Any]] = [
        [BASE, BASE + 1_000_001],
        [TEXT, "2026-03-09T10:14:34.000001Z"],
        [BASE, "2026-03-09T10:14:34.000001Z"],
        ["2026-03-09T11:14:33+01:00", "2026-03-09 04:14:34.000001-06:00"],
    ]
    for first, second in times:
        rows = [{"timestamp": first, "value": 1.5}, {"timestamp": second, "value": -2, "signal": "value"}]
        for body in (
            {"readings": rows},
            {"columns": [{"timestamps": [first, second], "values": [1.5, -2]}]},
            {"capture_session_id": None, "batch_id": None, "readings": rows},
        ):
            world = await new_world(app)
            answer = await send(world, body)
            assert answer.json() == {
                "accepted": 2,
                "late": 0,
                "duplicate": False,
                "capture_session_id": world.session_id,
            }
            assert await stored(world) == wanted
            # The other shape of the same readings is the same batch.
            same = await send(world, {"columns": [{"timestamps": [BASE, BASE + 1_000_001], "values": [1.5, -2.0]}]})
            assert same.json()["duplicate"] is True


@pytest.mark.covers("telemetry.ingest")
async def test_a_batch_again_changes_nothing(world: World, runner: object) -> None:
    body = {"batch_id": "b-1", "capture_session_id": world.session_id, "readings": [{"timestamp": BASE, "value": 1}]}
    first = (await send(world, body)).json()
    assert (await send(world, body)).json() == {**first, "duplicate": True}
    other = {**body, "readings": [{"timestamp": BASE, "value": 2}]}
    refusal(await send(world, other), 409, "batch_id_reused")
    # Of one timestamp, the reading received last is read.
    await send(world, {"readings": [{"timestamp": BASE, "value": 3}, {"timestamp": BASE, "value": 4}]})
    assert await stored(world) == [(TEXT, 4.0)]


async def test_signals(app: Litestar, runner: object) -> None:
    world = await new_world(app, signals=["temperature", "pressure"])
    rows = [
        {"signal": "pressure", "timestamp": BASE, "value": 1},
        {"signal": "temperature", "timestamp": BASE, "value": 2},
        {"signal": "pressure", "timestamp": BASE + 1, "value": 3},
    ]
    assert (await send(world, {"readings": rows})).json()["accepted"] == 3
    assert await stored(world, signal="pressure") == [(TEXT, 1.0), (TEXT.replace("000Z", "001Z"), 3.0)]
    bad = [*rows, {"signal": "speed", "timestamp": BASE, "value": 4}, {"timestamp": BASE, "value": 5}]
    problem = refusal(await send(world, {"readings": bad}), 422, "bad_readings")
    assert [(error["index"], error["signal"]) for error in problem["errors"]] == [(3, "speed"), (4, "value")]


def _row(**values: Any) -> dict[str, Any]:
    return {"timestamp": BASE, "value": 1.0, **values}


TOO_LATE = int(time.time() * 1e6) + 10**13
BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "true": (_row(timestamp=True), "neither a whole number"),
    "float": (_row(timestamp=1.5), "neither a whole number"),
    "float of an integer": (_row(timestamp=float(BASE)), "neither a whole number"),
    "null": (_row(timestamp=None), "neither a whole number"),
    "list": (_row(timestamp=[BASE]), "neither a whole number"),
    "digits": (_row(timestamp=str(BASE)), "neither a whole number"),
    "no zone": (_row(timestamp="2026-03-09T10:14:33"), "neither a whole number"),
    "no time": (_row(timestamp="2026-03-09"), "neither a whole number"),
    "not a day": (_row(timestamp="2026-02-30T10:14:33Z"), "neither a whole number"),
    "words": (_row(timestamp="now"), "neither a whole number"),
    "after 9999": (_row(timestamp=253_402_300_800_000_000), "years 1 to 9999"),
    "beyond 64 bits": (_row(timestamp=2**63), "years 1 to 9999"),
    "far beyond": (_row(timestamp=-(10**30)), "years 1 to 9999"),
    "before year 1": (_row(timestamp="0001-01-01T00:00:00+14:00"), "years 1 to 9999"),
    "in the future": (_row(timestamp=TOO_LATE), "in the future"),
    "a true value": (_row(value=True), "not a number"),
    "a text value": (_row(value="1"), "not a number"),
    "a null value": (_row(value=None), "not a number"),
    "an object": (_row(value={}), "not a number"),
    "an empty signal": (_row(signal=""), "characters"),
    "a long signal": (_row(signal="x" * 101), "characters"),
    "a control character": (_row(signal="a\nb"), "control character"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
async def test_bad_readings_are_named(world: World, runner: object, name: str) -> None:
    bad, message = BAD_ROWS[name]
    rows = [_row(timestamp=BASE + place) for place in range(10)]
    rows[7] = bad
    problem = refusal(await send(world, {"readings": rows}), 422, "bad_readings")
    (error,) = problem["errors"]
    assert error["index"] == 7
    assert message in error["message"]
    column = {"timestamps": [row["timestamp"] for row in rows], "values": [row["value"] for row in rows]}
    if "signal" in bad:
        column["signal"] = bad["signal"]
    problem = refusal(await send(world, {"columns": [column]}), 422, "bad_readings")
    assert problem["errors"][0]["index"] == (0 if "signal" in bad else 7)
    assert message in problem["errors"][0]["message"]
    assert await stored(world) == []  # whole or not at all


async def test_a_number_beyond_64_bits_before_a_text_is_named(world: World, runner: object) -> None:
    for beyond in (2**63, -(2**63) - 1):
        body = {"columns": [{"timestamps": [beyond, TEXT], "values": [1, 2]}]}
        (error,) = refusal(await send(world, body), 422, "bad_readings")["errors"]
        assert (error["index"], "years 1 to 9999" in error["message"]) == (0, True)


async def test_the_first_twenty_bad_readings_are_named(world: World, runner: object) -> None:
    rows = [_row(value="x") for _ in range(50)]
    problem = refusal(await send(world, {"readings": rows}), 422, "bad_readings")
    assert [error["index"] for error in problem["errors"]] == list(range(20))
    rows = [_row(timestamp=TOO_LATE + place) for place in range(50)]
    problem = refusal(await send(world, {"readings": rows}), 422, "bad_readings")
    assert [error["index"] for error in problem["errors"]] == list(range(20))


UNFITTING: dict[str, Any] = {
    "neither shape": {},
    "both shapes": {"readings": [_row()], "columns": [{"timestamps": [BASE], "values": [1]}]},
    "no readings": {"readings": []},
    "no columns": {"columns": []},
    "an empty column": {"columns": [{"timestamps": [], "values": []}]},
    "fewer values": {"columns": [{"timestamps": [BASE, BASE + 1], "values": [1]}]},
    "a signal twice": {
        "columns": [{"signal": "a", "timestamps": [BASE], "values": [1]} for _ in range(2)],
    },
    "an unknown field of a reading": {"readings": [_row(unit="V")]},
    "an unknown field of a column": {"columns": [{"timestamps": [BASE], "values": [1], "unit": "V"}]},
    "no value": {"readings": [{"timestamp": BASE}]},
    "no timestamps": {"columns": [{"values": [1]}]},
    "a number as signal": {"readings": [_row(signal=1)]},
    "null as signal": {"readings": [_row(signal=None)]},
    "no session's id": {"capture_session_id": "x", "readings": [_row()]},
    "a number as batch": {"batch_id": 1, "readings": [_row()]},
    "an empty batch id": {"batch_id": "", "readings": [_row()]},
    "a long batch id": {"batch_id": "x" * 201, "readings": [_row()]},
    "a NUL in the batch id": {"batch_id": "a\0", "readings": [_row()]},
    "readings as object": {"readings": {"0": _row()}},
    "257 signals": {"columns": [{"signal": f"s{n}", "timestamps": [BASE], "values": [1]} for n in range(257)]},
}


@pytest.mark.parametrize("name", UNFITTING)
async def test_unfitting_messages(world: World, runner: object, name: str) -> None:
    problem = refusal(await send(world, UNFITTING[name]), 422, "invalid")
    assert problem["errors"]


REPEATED = [
    '{"readings": [], "readings": [{"timestamp": 1, "value": 1}]}',
    '{"readings": [{"timestamp": 1, "value": 1, "value": 1}]}',
    '{"readings": [{"timestamp": 1, "value": 1, "\\u0076alue": 1}]}',
    '{"readings": [{"timestamp": "2026-03-09T10:14:33Z", "timestamp": 1, "value": 1}]}',
    '{"readings": [{"signal": "a", "signal": "b", "timestamp": 1, "value": 1}]}',
    '{"readings": [{"signal": "a\\"b", "signal": "b", "timestamp": 1, "value": 1}]}',
    '{"batch_id": "x", "batch_id": null, "readings": [{"timestamp": 1, "value": 1}]}',
    '{"batch_id": null, "batch_id": "\\"\\"", "readings": [{"timestamp": 1, "value": 1}]}',
    '{"columns": [{"timestamps": [1], "timestamps": [1], "values": [1]}]}',
    '{"columns": [{"timestamps": [1], "values": [1], "values": [1]}]}',
    '{"columns": [], "columns": [{"timestamps": ["2026-03-09T10:14:33Z"], "values": [1]}]}',
]


@pytest.mark.parametrize("body", REPEATED)
async def test_names_that_occur_twice(world: World, runner: object, body: str) -> None:
    problem = refusal(await send(world, body.encode()), 400, "malformed_body")
    assert "twice" in problem["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"batch_id": 'a "quoted" \\ id: é', "readings": [_row(signal='a"b\\"'), _row(signal="°C"), _row()]},
        {"batch_id": "\\", "columns": [{"signal": '"', "timestamps": [TEXT, BASE], "values": [1, 2]}]},
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_escapes_are_not_taken_for_names(body: Any, ascii_only: bool) -> None:
    batch = batch_from(json.dumps(body, ensure_ascii=ascii_only).encode())
    assert len(batch) == 3 - ("columns" in body)
    assert batch.batch_id == body["batch_id"]


def test_rows_are_grouped_and_keep_their_places() -> None:
    rows = [_row(signal=signal, value=value) for value, signal in enumerate("abacab")]
    batch = batch_from(json.dumps({"readings": rows}).encode())
    columns: list[Column] = list(batch.columns)
    assert [(column.signal, column.values.tolist()) for column in columns] == [
        ("a", [0.0, 2.0, 4.0]),
        ("b", [1.0, 5.0]),
        ("c", [3.0]),
    ]
    assert [column.index(len(column) - 1) for column in columns] == [4, 5, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-09T10:14:33Z", BASE),
        ("2026-03-09t10:14:33z", BASE),
        ("2026-03-09T10:14:33.5Z", BASE + 500_000),
        ("2026-03-09T10:14:33.0000004Z", BASE),
        ("2026-03-09T10:14:33.0000006Z", BASE + 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
    ],
)
def test_times_are_read_exactly(text: str, expected: int) -> None:
    body = {"readings": [{"timestamp": text, "value": 0}]}
    assert shape(batch_from(json.dumps(body).encode())) == [("value", [expected], [0.0])]


async def test_numbers_arrive_as_they_were_sent(world: World, runner: object) -> None:
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e-7, 123456789.123456789, 2**53 + 1, -1]
    rows = [_row(timestamp=BASE + place, value=value) for place, value in enumerate(values)]
    await send(world, {"readings": rows})
    back = [value for _, value in await stored(world)]
    assert [math.copysign(1, value) for value in back if value is not None] == [
        math.copysign(1, value) for value in values
    ]
    assert back == [float(value) for value in values]


async def test_too_many_readings(world: World, runner: object) -> None:
    column = {"timestamps": list(range(BASE, BASE + 100_001)), "values": [1] * 100_001}
    refusal(await send(world, {"columns": [column]}), 413, "too_many_readings")
    column = {"timestamps": column["timestamps"][:-1], "values": column["values"][:-1]}
    assert (await send(world, {"columns": [column]})).json()["accepted"] == 100_000


async def test_states_of_session_and_sensor(drafts: World, runner: object) -> None:
    one = {"readings": [_row()]}
    named = {**one, "capture_session_id": drafts.session_id}
    refusal(await send(drafts, one), 409, "no_running_session")
    refusal(await send(drafts, named), 409, "session_not_started")
    refusal(await send(drafts, {**one, "capture_session_id": drafts.run_id}), 404, "not_found")
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
    await drafts.editor.done("POST", f"/capture-sessions/{drafts.session_id}/start")
    assert (await send(drafts, one)).json()["late"] == 0
    assert (await drafts.viewer.done("GET", f"/sensors/{drafts.sensor_id}"))["status"] == "active"
    await drafts.editor.done("POST", f"/sensors/{drafts.sensor_id}/deactivate")
    refusal(await send(drafts, {"readings": [_row(value=2)]}), 409, "sensor_inactive")
    await drafts.editor.done("POST", f"/sensors/{drafts.sensor_id}/activate")
    await drafts.editor.done("POST", f"/capture-sessions/{drafts.session_id}/stop", {"outcome": "succeeded"})
    refusal(await send(drafts, {"readings": [_row(value=2)]}), 409, "no_running_session")
    late = await send(drafts, {**named, "readings": [_row(value=2)]})
    assert late.json()["late"] == 1
    await drafts.owner.done("POST", f"/capture-sessions/{drafts.session_id}/archive")
    refusal(await send(drafts, {**named, "readings": [_row(value=3)]}), 409, "archived")


async def test_a_session_of_others_is_not_found(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    body = {"capture_session_id": other.session_id, "readings": [_row()]}
    refusal(await send(world, body), 404, "not_found")


async def test_several_running_sessions(world: World, runner: object) -> None:
    run = await world.editor.done("POST", f"/experiments/{world.experiment_id}/runs", {"name": "second"})
    await world.editor.done("PUT", f"/runs/{run['id']}/sensors/{world.sensor_id}")
    await world.editor.done("POST", f"/runs/{run['id']}/start")
    session = await world.editor.done("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
    problem = refusal(await send(world, {"readings": [_row()]}), 409, "ambiguous_session")
    assert set(problem["running_capture_sessions"]) == {world.session_id, session["id"]}
    named = {"capture_session_id": session["id"], "readings": [_row()]}
    assert (await send(world, named)).json()["capture_session_id"] == session["id"]


async def test_future_tolerance_is_the_projects(world: World, runner: object) -> None:
    ahead = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    refusal(await send(world, {"readings": [_row(timestamp=ahead)]}), 422, "bad_readings")
    await world.owner.done("PATCH", f"/projects/{world.project_id}", {"future_tolerance": 3600})
    assert (await send(world, {"readings": [_row(timestamp=ahead)]})).status_code == 200


def test_decoding_is_fast() -> None:
    columns = {"timestamps": list(range(BASE, BASE + 1_000)), "values": [n / 7 for n in range(1_000)]}
    body = json.dumps({"columns": [columns]}).encode()
    best = min(_timed(body) for _ in range(50))
    assert best < 0.002  # a quarter of a millisecond on a quiet core


def _timed(body: bytes) -> float:
    begun = time.perf_counter()
    assert len(batch_from(body)) == 1_000
    return time.perf_counter() - begun


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"readings": [NaN]}'])
def test_whatever_arrives_is_refused_in_the_words_of_the_domain(body: bytes) -> None:
    with pytest.raises(Refusal):
        batch_from(body)
