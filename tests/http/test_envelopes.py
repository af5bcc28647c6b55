"""Envelopes over HTTP: JSON, CSV and Arrow, what is refused, and who may see which layer."""

import csv
import io
import json
from typing import Any

import pyarrow.ipc
import pytest
from litestar import Litestar

from experiment_http.bodies import ARROW
from http_api import World, new_world

BASE = 1_773_051_273_000_000
SECOND = 1_000_000


async def record(world: World, values: list[float], start: int = BASE, **more: Any) -> None:
    """Send readings, one a second."""
    stamps = [start + place * SECOND for place in range(len(values))]
    column = {"signal": "value", "timestamps": stamps, "values": values}
    await world.sensor.done("POST", "/telemetry", {**more, "columns": [column]})


def telemetry(world: World) -> str:
    """The path of the readings."""
    return f"/capture-sessions/{world.session_id}/telemetry"


@pytest.mark.covers("telemetry.envelope")
async def test_parts_tell_what_they_hold(world: World, runner: object) -> None:
    await record(world, [1.0, 4.0, -200.0, 2.0, -200.0, -200.0])
    found = await world.viewer.done("GET", telemetry(world), params={"points": 3})
    assert found == {
        "items": [
            {
                "timestamp": "2026-03-09T10:14:33.000000Z",
                "end": "2026-03-09T10:14:35.000000Z",
                "count": 2,
                "min": 3.0,
                "max": 9.0,
                "first": 3.0,
                "last": 9.0,
                "mean": 6.0,
            },
            {
                "timestamp": "2026-03-09T10:14:35.000000Z",
                "end": "2026-03-09T10:14:37.000000Z",
                "count": 1,
                "min": 5.0,
                "max": 5.0,
                "first": 5.0,
                "last": 5.0,
                "mean": 5.0,
            },
            {
                "timestamp": "2026-03-09T10:14:37.000000Z",
                "end": "2026-03-09T10:14:39.000000Z",
                "count": 0,
                **dict.fromkeys(("min", "max", "first", "last", "mean")),
            },
        ],
        "sensor_id": world.sensor_id,
        "signal": "value",
        "layer": "physical",
        "profile_id": world.profile_id,
    }


async def test_a_spike_shows_at_every_zoom(world: World, runner: object) -> None:
    values = [0.0] * 5_000
    values[3_217] = 1e6
    for start in range(0, len(values), 613):
        await record(world, values[start : start + 613], start=BASE + start * SECOND)
    for points in (1, 2, 3, 7, 10, 99, 1_000, 10_000):
        items = (await world.editor.done("GET", telemetry(world), params={"points": points, "layer": "raw"}))["items"]
        assert len(items) <= points
        assert max(item["max"] for item in items) == 1e6
        assert sum(item["count"] for item in items) == len(values)


async def test_a_window(world: World, runner: object) -> None:
    await record(world, [float(n) for n in range(10)])
    window = {"points": 2, "layer": "raw", "start": BASE + 3 * SECOND, "end": "2026-03-09T10:14:38Z"}
    items = (await world.editor.done("GET", telemetry(world), params=window))["items"]
    assert (items[0]["timestamp"], items[-1]["end"]) == ("2026-03-09T10:14:36.000000Z", "2026-03-09T10:14:38.000000Z")
    assert sum(item["count"] for item in items) == 2
    elsewhere = {"points": 2, "start": "2027-01-01T00:00:00Z"}
    assert (await world.viewer.done("GET", telemetry(world), params=elsewhere))["items"] == []


async def test_csv_and_arrow_say_the_same(world: World, runner: object) -> None:
    await record(world, [0.1, 5e-324, 1.5, -200.0, 7.0])
    query = {"points": 5}
    items = (await world.viewer.done("GET", telemetry(world), params=query))["items"]
    answer = await world.viewer.get(telemetry(world), params=query, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [
        {name: text if name in ("timestamp", "end") else json.loads(text or "null") for name, text in row.items()}
        for row in rows
    ] == items
    answer = await world.viewer.get(telemetry(world), params=query, headers={"Accept": ARROW})
    table = pyarrow.ipc.open_stream(answer.content).read_all()
    assert table.schema.metadata[b"profile_id"] == world.profile_id.encode()
    for name in ("count", "min", "max", "first", "last", "mean"):
        assert table[name].to_pylist() == [item[name] for item in items]
    assert table["timestamp"].cast("int64").to_pylist() == [BASE + place * SECOND for place in range(5)]
    assert table["end"].cast("int64").to_pylist() == [BASE + (place + 1) * SECOND for place in range(5)]


async def test_nothing_recorded_is_no_part(world: World, runner: object) -> None:
    assert (await world.viewer.done("GET", telemetry(world), params={"points": 10}))["items"] == []
    answer = await world.viewer.get(telemetry(world), params={"points": 10}, headers={"Accept": "text/csv"})
    assert answer.text == "timestamp,end,count,min,max,first,last,mean\n"
    answer = await world.viewer.get(telemetry(world), params={"points": 10}, headers={"Accept": ARROW})
    assert pyarrow.ipc.open_stream(answer.content).read_all().num_rows == 0


async def test_head_has_no_content(world: World, runner: object) -> None:
    await record(world, [1.0])
    for accept in ("application/json", "text/csv", ARROW):
        head = await world.viewer.send("HEAD", telemetry(world), params={"points": 10}, headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith(accept)


@pytest.mark.parametrize(
    "query",
    [
        {"points": "0"},
        {"points": "-1"},
        {"points": "10001"},
        {"points": "1000000000000000000000000"},
        {"points": "many"},
        {"points": "1.5"},
        {"points": ""},
        {"points": ["1", "2"]},
        {"limit": "10", "points": "10"},
        {"cursor": "AAAA", "points": "10"},
        {"end": "2026-03-09T10:14:35Z", "start": "2026-03-09T10:14:35Z", "points": "10"},
    ],
)
async def test_bad_queries(world: World, runner: object, query: dict[str, Any]) -> None:
    problem = await world.viewer.refused("GET", telemetry(world), 422, "invalid", params=query)
    assert problem["errors"][0]["path"] == next(iter(query))


async def test_raw_values_leave_as_the_project_says(app: Litestar, runner: object) -> None:
    world = await new_world(app)
    await record(world, [1.0])
    raw = {"points": 10, "layer": "raw"}
    for accept in ("application/json", "text/csv", ARROW):
        more: dict[str, Any] = {"params": raw, "headers": {"Accept": accept}}
        await world.viewer.refused("GET", telemetry(world), 403, "raw_not_allowed", **more)
        assert (await world.editor.get(telemetry(world), **more)).status_code == 200
    await world.owner.done("PATCH", f"/projects/{world.project_id}", {"physical_only": True})
    for client in (world.viewer, world.editor, world.owner):
        await client.refused("GET", telemetry(world), 403, "raw_not_allowed", params=raw)
        assert (await client.done("GET", telemetry(world), params={"points": 10}))["layer"] == "physical"
    for query in ({**raw}, {"points": 10}, {"points": 10, "sensor_id": world.sensor_id}):
        await world.outsider.refused("GET", telemetry(world), 404, "not_found", params=query)


async def test_another_layer_is_named(world: World, runner: object) -> None:
    await record(world, [1.0])
    query = {"points": 10, "profile_id": world.profile_id}
    assert (await world.viewer.done("GET", telemetry(world), params=query))["items"][0]["max"] == 3.0
    query["profile_id"] = world.run_id
    await world.viewer.refused("GET", telemetry(world), 404, "not_found", params=query)
