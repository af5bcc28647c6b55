"""Experiments: their states, their history, and lists of them."""

from typing import Any

import pytest

from experiment_domain.experiments import EXPERIMENT
from http_api import World

VERBS = {"running": "start", "finished": "finish", "failed": "fail", "archived": "archive"}
WAYS = {
    "draft": [],
    "running": ["start"],
    "finished": ["start", "finish"],
    "failed": ["start", "fail"],
    "archived": ["archive"],
}


async def new(world: World, **values: Any) -> str:
    """A new experiment."""
    body = {"project_id": world.project_id, "name": "E", **values}
    return (await world.editor.done("POST", "/experiments", body, 201))["id"]


@pytest.mark.covers("experiments.create", "experiments.edit", "experiments.delete")
async def test_an_experiment_is_made_shown_and_edited(world: World, runner: object) -> None:
    body = {
        "project_id": world.project_id,
        "name": "Blades",
        "description": "Why?\nBecause.",
        "experiment_type": "thermal",
        "tags": ["b", "a", "b"],
        "metadata": {"rig": 4, "deep": {"er": [1, None]}},
    }
    made = await world.editor.done("POST", "/experiments", body, 201)
    assert made == {
        **body,
        "tags": ["b", "a"],
        "id": made["id"],
        "version": 1,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
        "created_by": world.names["editor"],
        "status": "draft",
        "started_at": None,
        "finished_at": None,
    }
    path = f"/experiments/{made['id']}"
    assert await world.viewer.done("GET", path) == made
    edited = await world.editor.done("PATCH", path, {"description": None, "tags": [], "metadata": {}})
    assert (edited["description"], edited["tags"], edited["metadata"]) == (None, [], {})
    assert (edited["experiment_type"], edited["version"]) == ("thermal", 2)
    await world.owner.done("DELETE", path, status=204)
    await world.owner.refused("GET", path, 404, "not_found")


@pytest.mark.parametrize("source", WAYS)
@pytest.mark.parametrize("target", VERBS)
async def test_every_transition(drafts: World, runner: object, source: str, target: str) -> None:
    path = f"/experiments/{await new(drafts)}"
    for verb in WAYS[source]:
        await drafts.owner.done("POST", f"{path}/{verb}", {"reason": f"to {verb}"})
    before = await drafts.viewer.done("GET", path)
    steps = {(str(one), str(other)) for one, other in EXPERIMENT.steps()}
    if source == target:
        assert await drafts.owner.done("POST", f"{path}/{VERBS[target]}") == before
    elif (source, target) in steps:
        moved = await drafts.owner.done("POST", f"{path}/{VERBS[target]}", {"reason": "because"})
        assert (moved["status"], moved["version"]) == (target, before["version"] + 1)
    else:
        problem = await drafts.owner.refused("POST", f"{path}/{VERBS[target]}", 409, "invalid_transition")
        assert set(problem["allowed"]) == {other for one, other in steps if one == source}
    history = (await drafts.viewer.done("GET", f"{path}/history"))["items"]
    walked = [entry["to"] for entry in history]
    expected = [status for verb in WAYS[source] for status, name in VERBS.items() if name == verb]
    assert walked == expected + ([target] if (source, target) in steps else [])
    if (source, target) in steps:
        last = history[-1]
        assert last == {
            "from": source,
            "to": target,
            "at": last["at"],
            "actor": drafts.names["owner"],
            "role": "owner",
            "reason": "because",
        }


async def test_running_runs_stand_against_the_end(world: World, runner: object) -> None:
    path = f"/experiments/{world.experiment_id}"
    for verb in ("finish", "fail", "archive"):
        problem = await world.owner.refused("POST", f"{path}/{verb}", 409, "running_runs")
        assert problem["running_runs"] == [world.run_id]


async def test_deleting(drafts: World, runner: object) -> None:
    await drafts.owner.refused("DELETE", f"/experiments/{drafts.experiment_id}", 409, "has_runs")
    path = f"/experiments/{await new(drafts)}"
    await drafts.editor.done("POST", f"{path}/start")
    await drafts.owner.refused("DELETE", path, 409, "not_draft")


@pytest.mark.covers("experiments.start", "experiments.finish", "experiments.archive")
async def test_archived_is_read_only(drafts: World, runner: object) -> None:
    path = f"/experiments/{await new(drafts)}"
    await drafts.owner.done("POST", f"{path}/archive")
    await drafts.editor.refused("PATCH", path, 409, "archived", {"name": "x"})
    await drafts.editor.refused("POST", f"{path}/runs", 409, "archived", {"name": "x"})
    over = f"/experiments/{await new(drafts)}"
    await drafts.editor.done("POST", f"{over}/start")
    await drafts.editor.done("POST", f"{over}/finish")
    await drafts.editor.refused("POST", f"{over}/runs", 409, "experiment_over", {"name": "x"})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "hot cold both"),
        ({"tag": "hot"}, "hot both"),
        ({"tag": ["hot", "cold"]}, "both"),
        ({"any_tag": ["hot", "cold"]}, "hot cold both"),
        ({"any_tag": "warm"}, ""),
        ({"experiment_type": "thermal"}, "hot both"),
        ({"experiment_type": ["thermal", "cryo"]}, "hot cold both"),
        ({"status": "running"}, "cold"),
        ({"status": ["running", "draft"]}, "hot cold both"),
        ({"q": "BLADE"}, "hot"),
        ({"q": "blade nozzle"}, ""),
        ({"q": "%"}, ""),
        ({"created_before": "2020-01-01T00:00:00Z"}, ""),
        ({"created_after": "2020-01-01T00:00:00Z"}, "hot cold both"),
    ],
)
async def test_filters(drafts: World, runner: object, query: dict[str, Any], expected: str) -> None:
    await drafts.owner.done("DELETE", f"/runs/{drafts.run_id}/sensors/{drafts.sensor_id}")
    ids = {
        "hot": await new(drafts, tags=["hot"], experiment_type="thermal", description="of the blade"),
        "cold": await new(drafts, tags=["cold"], experiment_type="cryo"),
        "both": await new(drafts, tags=["hot", "cold"], experiment_type="thermal"),
    }
    await drafts.editor.done("POST", f"/experiments/{ids['cold']}/start")
    query = {**query, "project_id": drafts.project_id, "sort": "created_at"}
    found = await drafts.viewer.done("GET", "/experiments", params=query)
    names = {made: name for name, made in ids.items()}
    assert " ".join(names[item["id"]] for item in found["items"] if item["id"] in names) == expected


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"status": "done"}, "status[0]"),
        ({"project_id": "x"}, "project_id[0]"),
        ({"sort": "colour"}, "sort"),
        ({"created_after": "2020-01-01"}, "created_after"),
        ({"created_after": "1577836800"}, "created_after"),
        ({"q": ["a", "b"]}, "q"),
        ({"q": "x" * 1_001}, "q"),
        ({"param.a": "1"}, "param.a"),
    ],
)
async def test_bad_filters(world: World, runner: object, query: dict[str, Any], path: str) -> None:
    problem = await world.viewer.refused("GET", "/experiments", 422, "invalid", params=query)
    assert problem["errors"][0]["path"] == path


async def test_other_projects_are_not_listed(world: World, runner: object) -> None:
    assert (await world.outsider.done("GET", "/experiments"))["items"] == []
    query = {"project_id": world.project_id}
    assert (await world.outsider.done("GET", "/experiments", params=query))["items"] == []
