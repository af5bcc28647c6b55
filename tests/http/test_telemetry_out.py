"""Telemetry out: JSON in pages, CSV as a stream, series and metrics, and the policy for raw values on each of them."""

import asyncio
import csv
import io
import json
import math
from array import array
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.ipc
import pytest
from litestar import Litestar

from experiment_domain.usecases.telemetry import LayerReadings
from experiment_http.arrow import batch_from_arrow
from experiment_http.bodies import ARROW
from experiment_http.tables import Kind, Part, Table, TableStream
from experiment_http.v1.telemetry_out import MOST, Place
from http_api import World, new_world, refusal

BASE = 1_773_051_273_000_000
READINGS = pa.schema(
    [
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("value", pa.float64()),
    ]
)


async def record(world: World, values: list[float], *, signal: str = "value", start: int = BASE, **more: Any) -> None:
    """Send readings, one a second."""
    column = {
        "signal": signal,
        "timestamps": [start + place * 1_000_000 for place in range(len(values))],
        "values": values,
    }
    await world.sensor.done("POST", "/telemetry", {**more, "columns": [column]})


def telemetry(world: World) -> str:
    """The path of the readings."""
    return f"/capture-sessions/{world.session_id}/telemetry"


@pytest.mark.covers("telemetry.read")
async def test_physical_and_raw_values(world: World, runner: object) -> None:
    await record(world, [1.0, 2.5, -200.0])
    found = await world.viewer.done("GET", telemetry(world))
    assert [item["value"] for item in found["items"]] == [3.0, 6.0, None]  # the last one is out of the valid range
    assert found["items"][1]["timestamp"] == "2026-03-09T10:14:34.000000Z"
    assert (found["layer"], found["profile_id"]) == ("physical", world.profile_id)
    assert (found["sensor_id"], found["signal"], found["next_cursor"]) == (world.sensor_id, "value", None)
    raw = await world.editor.done("GET", telemetry(world), params={"layer": "raw"})
    assert [item["value"] for item in raw["items"]] == [1.0, 2.5, -200.0]
    assert (raw["layer"], raw["profile_id"]) == ("raw", None)
    same = await world.viewer.done("GET", telemetry(world), params={"profile_id": world.profile_id})
    assert same["items"] == found["items"]
    await world.viewer.refused("GET", telemetry(world), 404, "not_found", params={"profile_id": world.run_id})
    await world.editor.refused(
        "GET", telemetry(world), 422, "raw_has_no_profile", params={"profile_id": world.profile_id, "layer": "raw"}
    )


@pytest.mark.covers("telemetry.read", "telemetry.metrics")
async def test_the_policy_for_raw_values(world: World, runner: object) -> None:
    await record(world, [1.0])
    metrics = f"/runs/{world.run_id}/metrics"
    raw: dict[str, Any] = {"params": {"layer": "raw"}}
    for path in (telemetry(world), metrics):
        await world.viewer.refused("GET", path, 403, "raw_not_allowed", **raw)
        await world.editor.done("GET", path, **raw)
    await world.viewer.refused("GET", telemetry(world), 403, "raw_not_allowed", headers={"Accept": "text/csv"}, **raw)
    await world.owner.done("PATCH", f"/projects/{world.project_id}", {"raw_readers": ["viewer"]})
    for path in (telemetry(world), metrics):
        await world.viewer.done("GET", path, **raw)
        await world.editor.refused("GET", path, 403, "raw_not_allowed", **raw)
    await world.owner.done(
        "PATCH",
        f"/projects/{world.project_id}",
        {"physical_only": True, "raw_readers": ["viewer", "editor", "owner"]},
    )
    for client in (world.viewer, world.editor, world.owner):
        for path in (telemetry(world), metrics):
            await client.refused("GET", path, 403, "raw_not_allowed", **raw)
            answer = await client.get(path)
            assert '"layer":"raw"' not in answer.text


async def test_without_a_profile_there_are_only_raw_values(app: Litestar, runner: object) -> None:
    world = await new_world(app, start=False)
    await world.owner.done("POST", f"/conversion-profiles/{world.profile_id}/retire")
    await world.editor.done("POST", f"/runs/{world.run_id}/start")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/start")
    await record(world, [7.0])
    found = await world.editor.done("GET", telemetry(world))
    assert (found["layer"], [item["value"] for item in found["items"]]) == ("raw", [7.0])
    (metrics,) = (await world.editor.done("GET", f"/runs/{world.run_id}/metrics"))["items"]
    assert (metrics["layer"], metrics["count"]) == ("raw", 1)
    hidden = await world.viewer.done("GET", telemetry(world))
    assert (hidden["layer"], hidden["items"]) == ("physical", [])


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_pages_are_whole(world: World, runner: object, limit: int) -> None:
    values = [float(n) for n in range(7)]
    await record(world, values)
    found: list[float] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        page = await world.viewer.done("GET", telemetry(world), params=query)
        assert len(page["items"]) <= limit
        found += [item["value"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        # Readings that arrive behind the cursor do not disturb.
        await record(world, [100.0], start=BASE - 1_000_000 * len(found))
        query["cursor"] = page["next_cursor"]
    assert found == [2 * value + 1 for value in values]
    forged = {**query, "cursor": "AAAA"}
    await world.viewer.refused("GET", telemetry(world), 400, "invalid_cursor", params=forged)


async def test_limits(world: World, runner: object) -> None:
    await record(world, [float(n) for n in range(1_001)])
    page = await world.viewer.done("GET", telemetry(world))
    assert len(page["items"]) == 1_000
    page = await world.viewer.done("GET", telemetry(world), params={"limit": 10_000})
    assert len(page["items"]) == 1_001
    for limit in ("0", "10001", "x"):
        await world.viewer.refused("GET", telemetry(world), 422, "invalid", params={"limit": limit})


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ({"start": "2026-03-09T10:14:35Z"}, [2, 3, 4]),
        ({"end": "2026-03-09T10:14:35Z"}, [0, 1]),
        ({"start": str(BASE + 1_000_000), "end": str(BASE + 3_000_000)}, [1, 2]),
        ({"start": "2026-03-09T11:14:36.000001+01:00"}, [4]),
        ({"start": "2026-03-09T10:14:35.000001Z", "end": "2026-03-09T10:14:36Z"}, []),
        ({"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59.999999Z"}, [0, 1, 2, 3, 4]),
        ({"start": "-62135596800000000", "end": "253402300799999999"}, [0, 1, 2, 3, 4]),
    ],
)
async def test_a_range_of_time(world: World, runner: object, query: dict[str, str], values: list[int]) -> None:
    await record(world, [0, 1, 2, 3, 4])
    query = {**query, "layer": "raw"}
    found = await world.editor.done("GET", telemetry(world), params=query)
    assert [item["value"] for item in found["items"]] == values
    answer = await world.editor.get(telemetry(world), params=query, headers={"Accept": "text/csv"})
    assert [float(row["value"]) for row in csv.DictReader(io.StringIO(answer.text))] == values


@pytest.mark.parametrize(
    "query",
    [
        {"start": "yesterday"},
        {"start": "2026-03-09T10:14:35"},
        {"start": "1.5"},
        {"start": "253402300800000000"},
        {"end": "-62135596800000001"},
        {"end": ""},
        {"layer": "cooked"},
        {"signal": ""},
        {"sensor_id": "x"},
        {"start": ["1", "2"]},
        {"end": "2026-03-09T10:14:35Z", "start": "2026-03-09T10:14:35Z"},
        {"end": str(BASE), "start": str(BASE + 1)},
    ],
)
async def test_bad_queries(world: World, runner: object, query: dict[str, Any]) -> None:
    problem = await world.viewer.refused("GET", telemetry(world), 422, "invalid", params=query)
    assert problem["errors"][0]["path"] == next(iter(query))


async def test_which_series_is_meant(app: Litestar, runner: object) -> None:
    world = await new_world(app, start=False)
    body = {"name": "S2", "sensor_type": "t", "input_unit": "V", "display_unit": "V", "project_id": world.project_id}
    other = await world.editor.done("POST", "/sensors", body)
    path = telemetry(world)
    # Nothing takes part yet.
    problem = await world.viewer.refused("GET", path, 422, "invalid")
    assert problem["errors"][0]["path"] == "sensor_id"
    await world.viewer.refused("GET", path, 404, "not_found", params={"sensor_id": world.sensor_id})
    await world.editor.done("POST", f"/runs/{world.run_id}/start")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/start")
    assert (await world.viewer.done("GET", path))["items"] == []
    await record(world, [1.0], signal="a")
    assert (await world.viewer.done("GET", path))["signal"] == "a"
    await record(world, [2.0], signal="b")
    problem = await world.viewer.refused("GET", path, 422, "invalid")
    assert problem["errors"][0]["path"] == "signal"
    assert (await world.viewer.done("GET", path, params={"signal": "b"}))["items"][0]["value"] == 5.0
    await record(world, [3.0])
    assert (await world.viewer.done("GET", path))["signal"] == "value"
    named = {"sensor_id": world.sensor_id, "signal": "none"}
    assert (await world.viewer.done("GET", path, params=named))["items"] == []
    await world.viewer.refused("GET", path, 404, "not_found", params={"sensor_id": other["id"]})
    for query in ({"sensor_id": world.sensor_id}, {}, {"sensor_id": world.sensor_id, "signal": "value"}):
        await world.outsider.refused("GET", path, 404, "not_found", params=query)


@pytest.mark.covers("telemetry.read")
async def test_csv_comes_whole(world: World, runner: object) -> None:
    values = [math.sin(n) * 10 ** (n % 30 - 15) for n in range(25_000)]
    for start in range(0, len(values), 5_000):
        await record(world, values[start : start + 5_000], start=BASE + start * 1_000_000)
    query = {"layer": "raw"}
    answer = await world.editor.get(telemetry(world), params=query, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    assert "link" not in answer.headers
    header, *rows = answer.text.splitlines()
    assert header == "timestamp,value"
    assert [float(row.split(",")[1]) for row in rows] == values  # to the bit
    assert rows[1].startswith("2026-03-09T10:14:34.000000Z,")
    physical = await world.viewer.get(telemetry(world), headers={"Accept": "text/csv"})
    expected = [value for value in values if value >= -100]
    present = [row for row in csv.DictReader(io.StringIO(physical.text)) if row["value"]]
    assert [float(row["value"]) for row in present] == [2 * value + 1 for value in expected]
    assert len(physical.text.splitlines()) == len(values) + 1


async def test_head_reads_no_more_than_it_needs(world: World, runner: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in range(0, 3 * MOST, MOST):
        await record(world, [1.0] * MOST, start=BASE + start * 1_000_000)
    reads: list[int] = []
    read = Place.read

    async def counted(self: Place, call: Any, limit: int) -> LayerReadings:
        reads.append(limit)
        return await read(self, call, limit)

    monkeypatch.setattr(Place, "read", counted)
    headers = {"Accept": "text/csv"}
    head = await world.viewer.send("HEAD", telemetry(world), headers=headers)
    assert (head.status_code, head.content, len(reads)) == (200, b"", 1)
    whole = await world.viewer.get(telemetry(world), headers=headers)
    assert len(whole.text.splitlines()) == 3 * MOST + 1
    assert len(reads) > 3
    assert head.headers["content-type"] == whole.headers["content-type"]


async def test_csv_in_pages(world: World, runner: object) -> None:
    await record(world, [float(n) for n in range(5)])
    url = f"{telemetry(world)}?limit=2&start=2026-03-09T10:14:33Z&signal=value"
    found: list[float] = []
    while url:
        answer = await world.viewer.get(url, headers={"Accept": "text/csv;q=1, application/json;q=0.5"})
        assert answer.status_code == 200, answer.text
        found += [float(row["value"]) for row in csv.DictReader(io.StringIO(answer.text))]
        following = answer.links.get("next", {}).get("url", "")
        url = following.removeprefix("/api/v1")
    assert found == [1.0, 3.0, 5.0, 7.0, 9.0]


async def test_what_cannot_be_had(world: World, runner: object) -> None:
    for accept in ("application/vnd.apache.arrow.file", "text/html", "text/csv;q=0, application/json;q=0"):
        for query in ({}, {"points": "10"}):
            answer = await world.viewer.get(telemetry(world), headers={"Accept": accept}, params=query)
            refusal(answer, 406, "not_acceptable")
    assert (await world.viewer.get(telemetry(world), headers={"Accept": "text/*"})).text.startswith("timestamp")


async def test_series(app: Litestar, runner: object) -> None:
    world = await new_world(app)
    path = f"/capture-sessions/{world.session_id}/series"
    assert (await world.viewer.done("GET", path))["items"] == []
    await record(world, [1.0, -200.0, 3.0])
    await record(world, [9.0], signal="other")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
    await record(world, [5.0], start=BASE + 60_000_000, capture_session_id=world.session_id)
    first, second = (await world.viewer.done("GET", path))["items"]
    assert first == {
        "capture_session_id": world.session_id,
        "sensor_id": world.sensor_id,
        "signal": "other",
        "count": 1,
        "late": 0,
        "out_of_range": 0,
        "first_timestamp": "2026-03-09T10:14:33.000000Z",
        "last_timestamp": "2026-03-09T10:14:33.000000Z",
        "profile_id": world.profile_id,
    }
    assert (second["signal"], second["count"], second["late"], second["out_of_range"]) == ("value", 4, 1, 1)
    assert second["last_timestamp"] == "2026-03-09T10:15:33.000000Z"


@pytest.mark.covers("telemetry.metrics")
async def test_metrics(world: World, runner: object) -> None:
    path = f"/runs/{world.run_id}/metrics"
    assert (await world.viewer.done("GET", path))["items"] == []
    values = [1.0, 4.0, -200.0, 2.5]
    await record(world, values)
    await record(world, [8.0], signal="other")
    other, physical = (await world.viewer.done("GET", path))["items"]
    assert (other["signal"], other["count"], other["stddev"]) == ("other", 1, 0.0)
    converted = [3.0, 9.0, 6.0]
    assert physical == {
        "sensor_id": world.sensor_id,
        "signal": "value",
        "layer": "physical",
        "profile_id": world.profile_id,
        "count": 3,
        "late": 0,
        "out_of_range": 1,
        "duration": 3.0,
        "min": 3.0,
        "max": 9.0,
        "mean": pytest.approx(6.0),
        "stddev": pytest.approx(math.sqrt(sum((value - 6.0) ** 2 for value in converted) / 3)),
        "first": 3.0,
        "last": 6.0,
    }
    query = {"layer": "raw", "signal": ["value", "unheard"]}
    (raw,) = (await world.editor.done("GET", path, params=query))["items"]
    assert (raw["layer"], raw["profile_id"], raw["count"], raw["min"]) == ("raw", None, 4, -200.0)
    await world.viewer.refused("GET", path, 422, "invalid", params={"bucket": "0"})


async def test_a_late_batch_is_in_its_place(world: World, runner: object) -> None:
    await record(world, [3.0, 4.0], start=BASE + 2_000_000)
    await record(world, [1.0, 2.0])
    await record(world, [40.0], start=BASE + 3_000_000)
    found = await world.editor.done("GET", telemetry(world), params={"layer": "raw"})
    assert [item["value"] for item in found["items"]] == [1.0, 2.0, 3.0, 40.0]
    (metrics,) = (await world.editor.done("GET", f"/runs/{world.run_id}/metrics", params={"layer": "raw"}))["items"]
    assert (metrics["count"], metrics["first"], metrics["last"], metrics["max"]) == (4, 1.0, 40.0, 40.0)


async def test_numbers_round_trip_as_json(world: World, runner: object) -> None:
    values = [0.1, 5e-324, 1.7976931348623157e308, -1e-7, 2.0**53]
    await record(world, values)
    answer = await world.editor.get(telemetry(world), params={"layer": "raw"})
    assert [item["value"] for item in json.loads(answer.text)["items"]] == values


@pytest.mark.parametrize(
    "edge",
    [
        {"start": "0001-01-01T00:00:00+23:59"},
        {"end": "0001-01-01T00:00:00+23:59"},
        {"start": "9999-12-31T23:59:59.999999-23:59"},
        {"end": "9999-12-31T23:59:59.999999-23:59"},
    ],
)
async def test_ends_of_a_range_beyond_the_years(world: World, runner: object, edge: dict[str, str]) -> None:
    await world.viewer.refused("GET", telemetry(world), 422, "invalid", params=edge)


async def test_arrow_comes_whole(world: World, runner: object) -> None:
    values = [math.sin(n) * 10 ** (n % 30 - 15) for n in range(2 * MOST + 1)]
    for start in range(0, len(values), MOST):
        await record(world, values[start : start + MOST], start=BASE + start * 1_000_000)
    answer = await world.viewer.get(telemetry(world), headers={"Accept": ARROW})
    assert answer.headers["content-type"] == ARROW
    with pa.ipc.open_stream(answer.content) as stream:
        assert stream.schema.equals(READINGS)
        assert stream.schema.metadata == {
            b"capture_session_id": world.session_id.encode(),
            b"sensor_id": world.sensor_id.encode(),
            b"signal": b"value",
            b"layer": b"physical",
            b"profile_id": world.profile_id.encode(),
        }
        batches = list(stream)
    assert [len(batch) for batch in batches] == [MOST, MOST, 1]
    found = pa.Table.from_batches(batches)
    assert found["timestamp"].cast("int64").to_pylist() == [BASE + n * 1_000_000 for n in range(len(values))]
    assert found["value"].to_pylist() == [2 * value + 1 if value >= -100 else None for value in values]


async def test_what_comes_out_as_arrow_can_be_sent_again(world: World, runner: object) -> None:
    await record(world, [1.0, -2.5, 5e-324])
    answer = await world.editor.get(telemetry(world), params={"layer": "raw"}, headers={"Accept": ARROW})
    batch = batch_from_arrow(answer.content)
    (column,) = batch.columns
    assert batch.capture_session_id == UUID(world.session_id)
    assert (list(column.timestamps), list(column.values)) == (
        [BASE, BASE + 1_000_000, BASE + 2_000_000],
        [1.0, -2.5, 5e-324],
    )


async def test_arrow_in_pages(world: World, runner: object) -> None:
    await record(world, [float(n) for n in range(5)])
    url = f"{telemetry(world)}?limit=2&signal=value"
    found: list[float] = []
    while url:
        answer = await world.viewer.get(url, headers={"Accept": ARROW})
        found += pa.ipc.open_stream(answer.content).read_all()["value"].to_pylist()
        url = answer.links.get("next", {}).get("url", "").removeprefix("/api/v1")
    assert found == [1.0, 3.0, 5.0, 7.0, 9.0]


@pytest.mark.parametrize("accept", ["text/csv", ARROW])
async def test_no_readings_are_a_table_without_rows(world: World, runner: object, accept: str) -> None:
    answer = await world.viewer.get(telemetry(world), headers={"Accept": accept})
    if accept == ARROW:
        assert pa.ipc.open_stream(answer.content).read_all().num_rows == 0
    else:
        assert answer.text == "timestamp,value\n"


@pytest.mark.parametrize("accept", ["text/csv", ARROW])
async def test_a_stream_ends_when_its_reader_has_left(runner: object, accept: str) -> None:
    reads: list[int] = []

    async def endless() -> AsyncGenerator[Part]:
        try:
            while True:
                reads.append(1)
                await asyncio.sleep(0)
                yield part
        finally:
            reads.append(0)

    part = array("q", [BASE]), array("d", [1.0])
    arriving = asyncio.Event()

    async def receive() -> Any:
        await arriving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if len(reads) == 3:
            arriving.set()

    table = Table(columns={"timestamp": Kind.TIME, "value": Kind.NUMBER})
    stream = TableStream(table=table, media_type=accept, first=part, rest=endless())
    scope: Any = {}
    await asyncio.wait_for(stream(scope, receive, send), 10)
    assert 3 <= sum(reads) <= 5
    assert reads[-1] == 0  # the reading has ended as well
