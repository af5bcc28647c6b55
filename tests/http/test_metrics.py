"""Metrics over HTTP: by buckets, scalar metrics and their history, and several runs side by side."""

import json
from typing import Any

import pytest
from litestar import Litestar

from experiment_domain.telemetry.batches import EARLIEST, LATEST
from http_api import World, new_world

BASE = 1_773_051_273_000_000
SECOND = 1_000_000


async def record(world: World, values: list[float], start: int = BASE, **more: Any) -> None:
    """Send readings, one a second."""
    stamps = [start + place * SECOND for place in range(len(values))]
    column = {"signal": "value", "timestamps": stamps, "values": values}
    await world.sensor.done("POST", "/telemetry", {**more, "columns": [column]})


def metrics(world: World) -> str:
    """The path of the metrics of the run."""
    return f"/runs/{world.run_id}/metrics"


@pytest.mark.covers("telemetry.metrics")
async def test_by_buckets(world: World, runner: object) -> None:
    await record(world, [1.0, 2.0, -200.0, 5.0])
    await record(world, [3.0], start=BASE + 1 * SECOND)
    found = (await world.viewer.done("GET", metrics(world), params={"bucket": 2}))["items"]
    # 10:14:33 is odd: buckets are aligned to the Unix epoch.
    assert [(item["timestamp"][17:19], item["count"], item["out_of_range"]) for item in found] == [
        ("32", 1, 0),
        ("34", 1, 1),
        ("36", 1, 0),
    ]
    assert [(item["min"], item["max"], item["mean"], item["stddev"]) for item in found] == [
        (3.0, 3.0, 3.0, 0.0),
        (7.0, 7.0, 7.0, 0.0),
        (11.0, 11.0, 11.0, 0.0),
    ]
    assert [item["duration"] for item in found] == [0.0, 1.0, 0.0]
    raw = {"bucket": 86_400.0, "layer": "raw", "signal": "value"}
    (day,) = (await world.editor.done("GET", metrics(world), params=raw))["items"]
    assert (day["timestamp"], day["count"], day["first"], day["last"]) == ("2026-03-09T00:00:00.000000Z", 4, 1.0, 5.0)
    await world.viewer.refused("GET", metrics(world), 403, "raw_not_allowed", params=raw)
    assert (await world.viewer.done("GET", metrics(world), params={"bucket": 1, "signal": "none"}))["items"] == []


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"bucket": "0"}, "bucket"),
        ({"bucket": "-1"}, "bucket"),
        ({"bucket": "1e300"}, "bucket"),
        ({"bucket": "day"}, "bucket"),
        ({"bucket": ""}, "bucket"),
        ({"bucket": ["1", "2"]}, "bucket"),
        ({"bucket": "0.001"}, "bucket"),
        ({"layer": "cooked"}, "layer"),
        ({"limit": "10"}, "limit"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"name": "loss", "bucket": "1"}, "bucket"),
        ({"name": "loss", "layer": "raw"}, "layer"),
        ({"name": "loss", "signal": "value"}, "signal"),
        ({"name": "loss", "limit": "0"}, "limit"),
        ({"name": ""}, "name[0]"),
        ({"start": "2026-03-09T10:14:35Z"}, "start"),
    ],
)
async def test_bad_queries(world: World, runner: object, query: dict[str, Any], path: str) -> None:
    stamps = [BASE + place * 1_000 for place in range(10_001)]
    column = {"signal": "value", "timestamps": stamps, "values": [0.5] * len(stamps)}
    await world.sensor.done("POST", "/telemetry", {"columns": [column]})
    problem = await world.editor.refused("GET", metrics(world), 422, "invalid", params=query)
    assert problem["errors"][0]["path"] == path


@pytest.mark.covers("scalars.log")
async def test_scalar_metrics(world: World, runner: object) -> None:
    body = {
        "metrics": [
            {"name": "rmse", "value": 0.5, "step": 3, "timestamp": "2026-03-09T11:14:33+01:00"},
            {"name": "rmse", "value": 5e-324},
            {"name": "seconds", "value": 7, "step": None, "timestamp": BASE},
        ]
    }
    key = {"Idempotency-Key": "once"}
    logged = await world.editor.done("POST", metrics(world), body, headers=key)
    assert logged == {"accepted": 3, "last_steps": {"rmse": 4, "seconds": 0}}
    again = await world.editor.post(metrics(world), body, headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (logged, "true")
    found = await world.viewer.done("GET", metrics(world), params={"name": "rmse"})
    assert [(item["step"], item["value"]) for item in found["items"]] == [(3, 0.5), (4, 5e-324)]
    assert found["items"][0]["timestamp"] == "2026-03-09T10:14:33.000000Z"
    latest = (await world.viewer.done("GET", f"{metrics(world)}/latest"))["items"]
    assert [(item["name"], item["step"], item["value"]) for item in latest] == [
        ("rmse", 4, 5e-324),
        ("seconds", 0, 7.0),
    ]
    query: dict[str, Any] = {"name": ["rmse", "seconds"], "limit": 2}
    page = await world.viewer.done("GET", metrics(world), params=query)
    rest = await world.viewer.done("GET", metrics(world), params={**query, "cursor": page["next_cursor"]})
    names = [item["name"] for item in [*page["items"], *rest["items"]]]
    assert (names, rest["next_cursor"]) == (["seconds", "rmse", "rmse"], None)
    await world.viewer.refused("GET", metrics(world), 400, "invalid_cursor", params={**query, "cursor": "AAAA"})
    assert (await world.viewer.done("GET", metrics(world), params={"name": "unheard"}))["items"] == []
    # They are results, and not what sensors measured.
    assert (await world.viewer.done("GET", metrics(world)))["items"] == []


@pytest.mark.parametrize(
    ("metric", "path"),
    [
        ({"name": "a"}, "metrics[0].value"),
        ({"value": 1.0}, "metrics[0].name"),
        ({"name": "", "value": 1.0}, "metrics[0].name"),
        ({"name": "a", "value": "1"}, "metrics[0].value"),
        ({"name": "a", "value": None}, "metrics[0].value"),
        ({"name": "a", "value": 1.0, "step": 1.5}, "metrics[0].step"),
        ({"name": "a", "value": 1.0, "step": 2**63}, "metrics[0].step"),
        ({"name": "a", "value": 1.0, "timestamp": "now"}, "metrics[0].timestamp"),
        ({"name": "a", "value": 1.0, "timestamp": "0001-01-01T00:00:00+01:00"}, "metrics[0].timestamp"),
        ({"name": "a", "value": 1.0, "timestamp": EARLIEST - 1}, "metrics[0].timestamp"),
        ({"name": "a", "value": 1.0, "timestamp": LATEST + 1}, "metrics[0].timestamp"),
        ({"name": "a", "value": 1.0, "timestamp": 2**70}, "metrics[0].timestamp"),
        ({"name": "a", "value": 1.0, "unit": "V"}, "metrics[0].unit"),
    ],
)
async def test_bad_scalar_metrics(world: World, runner: object, metric: dict[str, Any], path: str) -> None:
    problem = await world.editor.refused("POST", metrics(world), 422, "invalid", {"metrics": [metric]})
    assert problem["errors"][0]["path"] == path
    assert (await world.viewer.done("GET", f"{metrics(world)}/latest"))["items"] == []


async def test_times_of_scalar_metrics_are_kept_to_the_ends_of_time(world: World, runner: object) -> None:
    logged = [
        {"name": f"at {place}", "value": 1.0, "timestamp": at} for place, at in enumerate((EARLIEST, -1, 0, LATEST))
    ]
    await world.editor.done("POST", metrics(world), {"metrics": logged})
    found = (await world.viewer.done("GET", f"{metrics(world)}/latest"))["items"]
    assert [item["timestamp"] for item in found] == [
        "0001-01-01T00:00:00.000000Z",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
    ]


async def test_numbers_that_are_none(world: World, runner: object) -> None:
    for text in ("NaN", "1e400", "-Infinity"):
        content = b'{"metrics": [{"name": "a", "value": %s}]}' % text.encode()
        headers = {"Content-Type": "application/json"}
        answer = await world.editor.send("POST", metrics(world), content=content, headers=headers)
        assert answer.status_code in (400, 422), answer.text


@pytest.mark.covers("comparisons.of_runs")
async def test_runs_side_by_side(app: Litestar, runner: object) -> None:
    world = await new_world(app)
    await record(world, [1.0, 2.0])
    body = {"name": "Other", "params": {"rpm": 600, "fluid": "oil"}}
    other = await world.editor.done("POST", f"/experiments/{world.experiment_id}/runs", body, 201)
    await world.editor.done("POST", f"/runs/{other['id']}/metrics", {"metrics": [{"name": "rmse", "value": 0.5}]})
    query: dict[str, Any] = {"run_id": [other["id"], world.run_id]}
    first, second = (await world.viewer.done("GET", "/runs:compare", params=query))["items"]
    assert (first["run_id"], first["name"], first["params"]) == (other["id"], "Other", {"rpm": 600, "fluid": "oil"})
    assert [(scalar["name"], scalar["value"]) for scalar in first["scalars"]] == [("rmse", 0.5)]
    assert (first["metrics"], second["params"], second["scalars"]) == ([], {}, [])
    assert second["metrics"] == (await world.viewer.done("GET", metrics(world)))["items"]
    await world.viewer.refused("GET", "/runs:compare", 403, "raw_not_allowed", params={**query, "layer": "raw"})
    raw = await world.editor.done("GET", "/runs:compare", params={**query, "layer": "raw", "signal": "value"})
    assert raw["items"][1]["metrics"][0]["max"] == 2.0
    head = await world.viewer.send("HEAD", "/runs:compare", params=query)
    assert (head.status_code, head.content) == (200, b"")
    stranger = await new_world(app, start=False)
    for client, ids in (
        (world.viewer, [world.run_id, stranger.run_id]),
        (stranger.viewer, [world.run_id, other["id"]]),
    ):
        await client.refused("GET", "/runs:compare", 404, "not_found", params={"run_id": ids})
    for ids in ([], [world.run_id], [world.run_id] * 2, ["x", world.run_id], [world.run_id] * 21):
        await world.viewer.refused("GET", "/runs:compare", 422, "invalid", params={"run_id": ids})


async def test_nothing_of_an_answer_is_no_json(world: World, runner: object) -> None:
    await record(world, [1.7e308, -1.7e308])
    answer = await world.editor.get(metrics(world), params={"layer": "raw"})
    (item,) = json.loads(answer.text, parse_constant=pytest.fail)["items"]
    assert (item["mean"], item["min"], item["max"]) == (0.0, -1.7e308, 1.7e308)
