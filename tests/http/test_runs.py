"""Runs: their states, their sensors, and lists of them by everything they can be found by."""

from typing import Any

import pytest
from litestar import Litestar

from http_api import World, new_world


async def new(world: World, name: str = "R", **values: Any) -> str:
    """A new run."""
    path = f"/experiments/{world.experiment_id}/runs"
    return (await world.editor.done("POST", path, {"name": name, **values}, 201))["id"]


@pytest.mark.covers("runs.create", "runs.edit", "runs.delete")
async def test_a_run_is_made_shown_and_edited(drafts: World, runner: object) -> None:
    body = {
        "name": "Full load",
        "params": {"speed": 12000, "fuel": "A1"},
        "tags": ["x"],
        "metadata": {"a": 1},
        "git_sha": "4F2A91C",
        "env": {"python": "3.13"},
        "notes": "n",
        "participants": ["ada", "grace"],
        "auto_close_after": 60,
    }
    path = f"/experiments/{drafts.experiment_id}/runs"
    made = await drafts.editor.done("POST", path, body, 201)
    expected = {**body, "git_sha": "4f2a91c", "experiment_id": drafts.experiment_id, "project_id": drafts.project_id}
    assert {name: made[name] for name in expected} == expected
    assert (made["status"], made["started_at"], made["finished_at"], made["version"]) == ("draft", None, None, 1)
    assert await drafts.viewer.done("GET", f"/runs/{made['id']}") == made
    changes = {"git_sha": None, "notes": None, "auto_close_after": None, "params": {}, "participants": []}
    edited = await drafts.editor.done("PATCH", f"/runs/{made['id']}", changes)
    assert edited == {**made, **changes, "version": 2, "updated_at": edited["updated_at"]}
    await drafts.owner.done("DELETE", f"/runs/{made['id']}", status=204)
    await drafts.owner.refused("DELETE", f"/runs/{made['id']}", 404, "not_found")


@pytest.mark.covers("runs.start", "runs.fail", "experiments.finish")
async def test_starting_a_run_starts_its_experiment(drafts: World, runner: object) -> None:
    started = await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start", {"reason": "go"})
    assert started["status"] == "running"
    assert started["started_at"]
    experiment = await drafts.viewer.done("GET", f"/experiments/{drafts.experiment_id}")
    assert (experiment["status"], experiment["started_at"]) == ("running", started["started_at"])
    history = (await drafts.viewer.done("GET", f"/runs/{drafts.run_id}/history"))["items"]
    assert [(entry["from"], entry["to"], entry["reason"]) for entry in history] == [("draft", "running", "go")]
    second = await new(drafts)
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/fail")
    await drafts.editor.done("POST", f"/experiments/{drafts.experiment_id}/finish")
    await drafts.editor.refused("POST", f"/runs/{second}/start", 409, "experiment_not_running")


async def test_active_sessions_stand_against_the_end(world: World, runner: object) -> None:
    for verb in ("finish", "fail", "archive"):
        problem = await world.owner.refused("POST", f"/runs/{world.run_id}/{verb}", 409, "active_capture_sessions")
        assert problem["active_capture_sessions"] == [world.session_id]


@pytest.mark.covers("runs.archive", "captures.stop")
async def test_archiving_a_run_archives_its_sessions(world: World, runner: object) -> None:
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "failed"})
    draft = (await world.editor.done("POST", f"/runs/{world.run_id}/capture-sessions"))["id"]
    await world.owner.done("POST", f"/runs/{world.run_id}/archive", {"reason": "done with it"})
    for session_id in (world.session_id, draft):
        assert (await world.viewer.done("GET", f"/capture-sessions/{session_id}"))["status"] == "archived"
        last = (await world.viewer.done("GET", f"/capture-sessions/{session_id}/history"))["items"][-1]
        assert (last["to"], last["reason"]) == ("archived", "done with it")
    await world.editor.refused("PATCH", f"/runs/{world.run_id}", 409, "archived", {"tags": ["x"]})
    await world.editor.refused("PUT", f"/runs/{world.run_id}/sensors/{world.sensor_id}", 409, "archived")
    await world.editor.refused("POST", f"/runs/{world.run_id}/start", 409, "invalid_transition")


async def test_deleting(drafts: World, runner: object) -> None:
    await drafts.owner.refused("DELETE", f"/runs/{drafts.run_id}", 409, "has_capture_sessions")
    other = await new(drafts)
    await drafts.editor.done("POST", f"/runs/{other}/start")
    await drafts.owner.refused("DELETE", f"/runs/{other}", 409, "not_draft")


async def test_a_heartbeat_changes_nothing_that_is_shown(world: World, runner: object) -> None:
    path = f"/runs/{world.run_id}"
    before = await world.viewer.done("GET", path)
    for body in (None, {}):
        assert await world.editor.done("POST", f"{path}/heartbeat", body) == before
    await world.viewer.refused("POST", f"{path}/heartbeat", 403, "forbidden")
    draft = await new(world)
    await world.editor.refused("POST", f"/runs/{draft}/heartbeat", 409, "run_not_running")


@pytest.mark.covers("runs.bind", "runs.unbind", "runs.finish")
async def test_bound_sensors(world: World, app: Litestar, runner: object) -> None:
    path = f"/runs/{world.run_id}/sensors"
    (bound,) = (await world.viewer.done("GET", path))["items"]
    assert (bound["run_id"], bound["sensor_id"], bound["bound_by"]) == (
        world.run_id,
        world.sensor_id,
        world.names["editor"],
    )
    assert await world.editor.done("PUT", f"{path}/{world.sensor_id}") == bound
    await world.editor.refused("DELETE", f"{path}/{world.sensor_id}", 409, "sensor_in_use")
    foreign = await new_world(app, start=False)
    await world.editor.refused("PUT", f"{path}/{foreign.sensor_id}", 404, "not_found")
    await world.editor.refused("DELETE", f"{path}/{foreign.sensor_id}", 404, "not_found")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
    await world.editor.done("DELETE", f"{path}/{world.sensor_id}", status=204)
    assert (await world.viewer.done("GET", path))["items"] == []
    await world.owner.done("POST", f"/sensors/{world.sensor_id}/retire")
    await world.editor.refused("PUT", f"{path}/{world.sensor_id}", 409, "sensor_retired")
    await world.editor.done("POST", f"/runs/{world.run_id}/finish")
    await world.editor.refused("PUT", f"{path}/{world.sensor_id}", 409, "run_over")


QUERIES: list[tuple[dict[str, Any], str]] = [
    ({}, "a b c"),
    ({"status": "running"}, "b"),
    ({"status": ["running", "failed"]}, "b c"),
    ({"tag": "x"}, "a b"),
    ({"tag": ["x", "y"]}, "b"),
    ({"any_tag": ["x", "y"]}, "a b"),
    ({"git_sha": "0123456"}, "a b"),
    ({"git_sha": "01234567"}, "a"),
    ({"git_sha": "0123456F"}, "b"),
    ({"git_sha": ["01234567", "0123456f"]}, "a b"),
    ({"git_sha": "ffffffff"}, ""),
    ({"participant": "ada"}, "a"),
    ({"participant": ["ada", "grace"]}, "a b"),
    ({"param.speed": "12"}, "a"),
    ({"param.speed": ["12", "13"]}, "a b"),
    ({"param.fuel": "A1"}, "a b"),
    ({"param.speed": "13", "param.fuel": "A1"}, "b"),
    ({"param.flag": "true"}, "c"),
    ({"param.none": "x"}, ""),
    ({"param.a.b": "dotted"}, "c"),
    ({"q": "alpha"}, "a"),
    ({"q": "gamma rays"}, "c"),
    ({"q": "' OR 1=1 --"}, ""),
    ({"started_after": "2020-01-01T00:00:00Z"}, "b c"),
    ({"started_before": "2020-01-01T00:00:00Z"}, ""),
    ({"created_after": "9999-12-31T23:59:59Z"}, ""),
    ({"created_before": "0001-01-01T00:00:00+14:00"}, ""),
    ({"tag": "x", "status": "running", "participant": "grace"}, "b"),
    ({"sort": "-name"}, "c b a"),
    ({"sort": "-started_at"}, "c b a"),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
async def test_filters(drafts: World, runner: object, query: dict[str, Any], expected: str) -> None:
    ids = {
        "a": await new(
            drafts,
            "alpha",
            tags=["x"],
            git_sha="0123456789",
            participants=["ada"],
            params={"speed": 12, "fuel": "A1"},
        ),
        "b": await new(
            drafts,
            "beta",
            tags=["x", "y"],
            git_sha="0123456f",
            participants=["grace"],
            params={"speed": 13, "fuel": "A1"},
        ),
        "c": await new(drafts, "gamma", notes="of rays", params={"flag": True, "a.b": "dotted"}),
    }
    for name in "bc":
        await drafts.editor.done("POST", f"/runs/{ids[name]}/start")
    await drafts.editor.done("POST", f"/runs/{ids['c']}/fail")
    names = {made: name for name, made in ids.items()}
    for path in ("/runs", f"/experiments/{drafts.experiment_id}/runs"):
        wanted = {"sort": "created_at", "project_id": drafts.project_id, **query}
        found = await drafts.viewer.done("GET", path, params=wanted)
        assert " ".join(names[item["id"]] for item in found["items"] if item["id"] in names) == expected
        assert "alpha" not in [item["name"] for item in (await drafts.outsider.done("GET", "/runs"))["items"]]


async def test_filters_by_other_things(world: World, runner: object) -> None:
    other = await new(world)
    for query, expected in (
        ({"sensor_id": world.sensor_id}, [world.run_id]),
        ({"profile_id": world.profile_id}, [world.run_id]),
        ({"experiment_id": world.experiment_id}, [other, world.run_id]),
        ({"experiment_id": world.run_id}, []),
        ({"project_id": world.project_id}, [other, world.run_id]),
        ({"project_id": world.run_id}, []),
        ({"sensor_id": world.run_id}, []),
    ):
        found = await world.viewer.done("GET", "/runs", params=query)
        assert [item["id"] for item in found["items"]] == expected, query


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"git_sha": "012345"}, "git_sha[0]"),
        ({"git_sha": "0123456g"}, "git_sha[0]"),
        ({"git_sha": "0" * 65}, "git_sha[0]"),
        ({"status": "Running"}, "status[0]"),
        ({"sensor_id": "1"}, "sensor_id[0]"),
        ({"sort": "status"}, "sort"),
        ({"param.": "1"}, "param."),
        ({"param": "1"}, "param"),
        ({"q": "a\0"}, "q"),
        ({"q": "x" * 1_001}, "q"),
        ({"tag": ["a", "b\0"]}, "tag"),
        ({"colour": "red"}, "colour"),
        ({"participants": "grace"}, "participants"),
        ({"project_id": ["1", "2"]}, "project_id[0]"),
        ({"started_after": "10:14"}, "started_after"),
    ],
)
async def test_bad_filters(world: World, runner: object, query: dict[str, Any], path: str) -> None:
    problem = await world.viewer.refused("GET", "/runs", 422, "invalid", params=query)
    assert problem["errors"][0]["path"] == path


@pytest.mark.parametrize(
    "query",
    [
        {"tag": ["'", '"', "{", "\\", ",", " ", "", "NULL", "漢"]},
        {"any_tag": [f"t{number}" for number in range(190)]},
        {"git_sha": [f"{number:07d}" for number in range(190)]},
        {"param.speed": [f"{number}" for number in range(190)]},
        {"param." + "x" * 300: "1"},
        {
            "param.speed": [
                "9" * 400,
                "9" * 4_400,
                "1e400",
                "NaN",
                "-Infinity",
                "[" * 3_000,
                '{"a":',
                "\ufeff1",
                "\\u0000",
            ]
        },
        {"q": "' \\ : & | ! ( ) <-> * ''"},
        {"q": " ".join(f"w{number}" for number in range(200))},
    ],
)
async def test_odd_and_many_filters_find_nothing(world: World, runner: object, query: dict[str, Any]) -> None:
    for sort in ("-created_at", "started_at"):
        assert (await world.viewer.done("GET", "/runs", params={**query, "sort": sort}))["items"] == []


async def test_too_many_filters_are_refused(world: World, runner: object) -> None:
    many = {"tag": [f"t{number}" for number in range(201)]}
    await world.viewer.refused("GET", "/runs", 400, "malformed_query", params=many)
