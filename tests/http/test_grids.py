"""Grids over HTTP: several series at the same moments, as JSON, CSV and Arrow, in pages and whole."""

import csv
import io
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pytest
from litestar import Litestar

from experiment_http.bodies import ARROW
from http_api import World, new_world

BASE = 1_773_051_273_000_000
SECOND = 1_000_000


async def record(world: World, values: list[float], signal: str = "value", *, start: int = BASE, **more: Any) -> None:
    """Send readings, one a second."""
    stamps = [start + place * SECOND for place in range(len(values))]
    column = {"signal": signal, "timestamps": stamps, "values": values}
    await world.sensor.done("POST", "/telemetry", {**more, "columns": [column]})


def grid(world: World) -> str:
    """The path of the grid of the run."""
    return f"/runs/{world.run_id}/telemetry"


@pytest.mark.covers("telemetry.grid")
async def test_several_series_at_the_same_moments(world: World, runner: object) -> None:
    await record(world, [1.0, 2.0, 3.0], "b")
    await record(world, [10.0, -200.0], "a", start=BASE + SECOND)
    found = await world.viewer.done("GET", grid(world), params={"grid": 0.5, "tolerance": "0.5"})
    assert found["columns"] == [
        {
            "name": f"{world.sensor_id}/{signal}",
            "sensor_id": world.sensor_id,
            "signal": signal,
            "layer": "physical",
            "profile_ids": [world.profile_id],
        }
        for signal in ("a", "b")
    ]
    assert found["items"] == [
        {"timestamp": "2026-03-09T10:14:33.000000Z", "values": [None, 3.0]},
        {"timestamp": "2026-03-09T10:14:33.500000Z", "values": [None, 3.0]},
        {"timestamp": "2026-03-09T10:14:34.000000Z", "values": [21.0, 5.0]},
        {"timestamp": "2026-03-09T10:14:34.500000Z", "values": [21.0, 5.0]},
        {"timestamp": "2026-03-09T10:14:35.000000Z", "values": [None, 7.0]},
    ]
    assert found["next_cursor"] is None
    only = await world.viewer.done("GET", grid(world), params={"grid": 1, "signals": "a", "fill": "linear"})
    assert [item["values"] for item in only["items"]] == [[21.0], [None]]
    both = await world.viewer.done("GET", grid(world), params={"grid": 1, "signals": "a,b"})
    assert len(both["columns"]) == 2
    raw = await world.editor.done("GET", grid(world), params={"grid": 1, "signals": ["a", "b"], "layer": "raw"})
    assert [column["profile_ids"] for column in raw["columns"]] == [[], []]
    assert [item["values"] for item in raw["items"]] == [[None, 1.0], [10.0, 2.0], [-200.0, 3.0]]


async def test_a_part_of_the_time(world: World, runner: object) -> None:
    await record(world, [float(n) for n in range(10)])
    query = {"grid": 2, "layer": "raw", "start": "2026-03-09T10:14:35Z", "end": BASE + 7 * SECOND}
    found = await world.editor.done("GET", grid(world), params=query)
    assert [item["values"] for item in found["items"]] == [[2.0], [4.0], [6.0]]


async def test_pages(world: World, runner: object) -> None:
    await record(world, [float(n) for n in range(10)])
    query: dict[str, Any] = {"grid": 1, "limit": 4}
    found: list[float] = []
    while True:
        page = await world.viewer.done("GET", grid(world), params=query)
        assert len(page["items"]) <= 4
        found += [item["values"][0] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == [2.0 * n + 1 for n in range(10)]
    query["cursor"] = "AAAA"
    await world.viewer.refused("GET", grid(world), 400, "invalid_cursor", params=query)
    for accept in ("text/csv", ARROW):
        url = f"{grid(world)}?grid=1&limit=4"
        counts: list[int] = []
        while url:
            answer = await world.viewer.get(url, headers={"Accept": accept})
            if accept == ARROW:
                counts.append(pa.ipc.open_stream(answer.content).read_all().num_rows)
            else:
                counts.append(len(answer.text.splitlines()) - 1)
            url = answer.links.get("next", {}).get("url", "").removeprefix("/api/v1")
        assert counts == [4, 4, 2]


@pytest.mark.covers("telemetry.grid")
async def test_csv_and_arrow_come_whole(world: World, runner: object) -> None:
    await record(world, [0.1, 5e-324, 1.5], "=1+1")
    await record(world, [7.0] * 3, 'a,"b"', start=BASE + 25_000 * SECOND)
    query = {"grid": 1, "layer": "raw"}
    names = [f"{world.sensor_id}/{signal}" for signal in ("=1+1", 'a,"b"')]
    answer = await world.editor.get(grid(world), params=query, headers={"Accept": "text/csv"})
    header, *rows = csv.reader(io.StringIO(answer.text))
    # What a spreadsheet takes for a formula begins a cell: these begin with an id.
    assert header == ["timestamp", *names]
    assert len(rows) == 25_003
    assert rows[0] == ["2026-03-09T10:14:33.000000Z", "0.1", ""]
    assert rows[-1][1:] == ["1.5", "7.0"]
    answer = await world.editor.get(grid(world), params=query, headers={"Accept": ARROW})
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema.names == header
    assert table.schema.metadata == {b"run_id": world.run_id.encode()}
    for place, name in enumerate(names, start=1):
        assert table[name].to_pylist() == [float(row[place]) if row[place] else None for row in rows]
    assert table["timestamp"].cast("int64").to_pylist() == list(range(BASE, BASE + 25_003 * SECOND, SECOND))


async def test_nothing_recorded(world: World, runner: object) -> None:
    for query in ({"grid": 1}, {"grid": 1, "signals": "value"}):
        found = await world.viewer.done("GET", grid(world), params=query)
        assert found == {"columns": [], "items": [], "next_cursor": None}
    answer = await world.viewer.get(grid(world), params={"grid": 1}, headers={"Accept": "text/csv"})
    assert answer.text == "timestamp\n"
    answer = await world.viewer.get(grid(world), params={"grid": 1}, headers={"Accept": ARROW})
    assert pa.ipc.open_stream(answer.content).read_all().num_rows == 0
    await record(world, [1.0])
    later = {"grid": 1, "start": "2027-01-01T00:00:00Z"}
    found = await world.viewer.done("GET", grid(world), params=later)
    assert (len(found["columns"]), found["items"]) == (1, [])
    answer = await world.viewer.get(grid(world), params=later, headers={"Accept": "text/csv"})
    assert len(answer.text.splitlines()) == 1


async def test_head_has_no_content(world: World, runner: object) -> None:
    await record(world, [1.0])
    for accept in ("application/json", "text/csv", ARROW):
        head = await world.viewer.send("HEAD", grid(world), params={"grid": 1}, headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith(accept)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({}, "grid"),
        ({"grid": "0"}, "grid"),
        ({"grid": "-1"}, "grid"),
        ({"grid": "1e-9"}, "grid"),
        ({"grid": "1e300"}, "grid"),
        ({"grid": "often"}, "grid"),
        ({"grid": ["1", "2"]}, "grid"),
        ({"grid": "0.000001", "end": "2026-03-09T10:14:53Z"}, "grid"),
        ({"grid": "1", "start": "0001-01-01T00:00:00Z"}, "grid"),
        ({"grid": "1", "signals": "unheard"}, "signals"),
        ({"grid": "1", "signals": "value,unheard"}, "signals"),
        ({"grid": "1", "signals": ""}, "signals[0]"),
        ({"grid": "1", "tolerance": "-1"}, "tolerance"),
        ({"grid": "1", "tolerance": "x"}, "tolerance"),
        ({"grid": "1", "fill": "cubic"}, "fill"),
        ({"grid": "1", "layer": "cooked"}, "layer"),
        ({"grid": "1", "limit": "0"}, "limit"),
        ({"grid": "1", "limit": "10001"}, "limit"),
        ({"grid": "1", "sensor_id": "x"}, "sensor_id[0]"),
        ({"grid": "1", "start": "yesterday"}, "start"),
        ({"grid": "1", "start": str(BASE), "end": str(BASE)}, "end"),
        ({"grid": "1", "points": "3"}, "points"),
    ],
)
async def test_bad_queries(world: World, runner: object, query: dict[str, Any], path: str) -> None:
    await record(world, [1.0])
    problem = await world.viewer.refused("GET", grid(world), 422, "invalid", params=query)
    assert problem["errors"][0]["path"] == path


async def test_too_many_columns(world: World, runner: object) -> None:
    readings = [{"signal": f"s{number}", "timestamp": BASE, "value": 1.0} for number in range(101)]
    await world.sensor.done("POST", "/telemetry", {"readings": readings})
    problem = await world.viewer.refused("GET", grid(world), 422, "invalid", params={"grid": 1})
    assert problem["errors"][0]["path"] == "signals"
    some = [f"s{number}" for number in range(100)]
    found = await world.viewer.done("GET", grid(world), params={"grid": 1, "signals": ",".join(some)})
    assert sorted(column["signal"] for column in found["columns"]) == sorted(some)


async def test_what_cannot_be_had(world: World, runner: object) -> None:
    headers = {"Accept": "text/html"}
    await world.viewer.refused("GET", grid(world), 406, "not_acceptable", params={"grid": 1}, headers=headers)


async def test_raw_values_leave_as_the_project_says(app: Litestar, runner: object) -> None:
    world = await new_world(app, start=False)
    await world.owner.done("POST", f"/conversion-profiles/{world.profile_id}/retire")
    await world.editor.done("POST", f"/runs/{world.run_id}/start")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/start")
    await record(world, [7.0])
    raw: dict[str, Any] = {"params": {"grid": 1, "layer": "raw"}}
    for accept in ("application/json", "text/csv", ARROW):
        more: dict[str, Any] = {**raw, "headers": {"Accept": accept}}
        await world.viewer.refused("GET", grid(world), 403, "raw_not_allowed", **more)
        assert (await world.editor.get(grid(world), **more)).status_code == 200
    # Of a series that has raw values alone, who may not read them sees no column.
    assert (await world.viewer.done("GET", grid(world), params={"grid": 1}))["columns"] == []
    (column,) = (await world.editor.done("GET", grid(world), params={"grid": 1}))["columns"]
    assert column["layer"] == "raw"
    await world.owner.done("PATCH", f"/projects/{world.project_id}", {"physical_only": True})
    for client in (world.viewer, world.editor, world.owner):
        await client.refused("GET", grid(world), 403, "raw_not_allowed", **raw)
        assert (await client.done("GET", grid(world), params={"grid": 1}))["columns"] == []
    await world.outsider.refused("GET", grid(world), 404, "not_found", params={"grid": 1})
