"""Sensors: registered with a token that is shown once, rotated, switched off and on, retired."""

from typing import Any

import pytest

from http_api import Client, World

BODY = {"name": "S", "sensor_type": "k", "input_unit": "mV", "display_unit": "°C"}


async def test_a_sensor_is_registered_shown_and_edited(world: World, runner: object) -> None:
    body = {**BODY, "project_id": world.project_id, "signals": ["t", "p"], "metadata": {"a": 1}}
    made = await world.editor.done("POST", "/sensors", body, 201)
    token = made.pop("token")
    assert token.startswith("xps_")
    assert {name: made[name] for name in body} == body
    assert (made["status"], made["last_seen_at"], made["previous_token_dies_at"]) == ("registered", None, None)
    path = f"/sensors/{made['id']}"
    assert await world.viewer.done("GET", path) == made
    for answer in (await world.owner.get(path), await world.owner.get("/sensors"), await world.owner.get("/sensors")):
        assert token not in answer.text
        assert "token_hash" not in answer.text
    edited = await world.editor.done("PATCH", path, {"name": "T", "signals": []})
    assert (edited["name"], edited["signals"], edited["version"]) == ("T", [], 2)
    await world.owner.done("DELETE", path, status=204)
    await world.owner.refused("GET", path, 404, "not_found")
    await Client(world.app, token).refused("POST", f"{path}/heartbeat", 401, "unauthenticated")


async def test_a_heartbeat_activates(world: World, runner: object) -> None:
    path = f"/sensors/{world.sensor_id}"
    for body in (None, {}):
        shown = await world.sensor.done("POST", f"{path}/heartbeat", body)
        assert shown["status"] == "active"
        assert shown["last_seen_at"]
    history = (await world.viewer.done("GET", f"{path}/history"))["items"]
    assert [(entry["from"], entry["to"], entry["role"]) for entry in history] == [("registered", "active", "sensor")]
    assert history[0]["actor"] == f"sensor:{world.sensor_id}"
    other = await world.editor.done("POST", "/sensors", {**BODY, "project_id": world.project_id})
    await world.sensor.refused("POST", f"/sensors/{other['id']}/heartbeat", 404, "not_found")
    await world.owner.refused("POST", f"{path}/heartbeat", 403, "forbidden")


async def test_rotation(world: World, runner: object) -> None:
    path = f"/sensors/{world.sensor_id}"
    first = world.sensor
    rotated = await world.owner.done("POST", f"{path}/rotate-token", {"grace": 3600})
    assert rotated["previous_token_dies_at"]
    second = Client(world.app, rotated["token"])
    for client in (first, second):
        await client.done("POST", f"{path}/heartbeat")
    rotated = await world.owner.done("POST", f"{path}/rotate-token")
    assert rotated["previous_token_dies_at"] is None
    for client in (first, second):
        await client.refused("POST", f"{path}/heartbeat", 401, "unauthenticated")
    await Client(world.app, rotated["token"]).done("POST", f"{path}/heartbeat")
    for grace in (-1, 7 * 86_400 + 1, "1", None):
        await world.owner.refused("POST", f"{path}/rotate-token", 422, "invalid", {"grace": grace})


async def test_states(world: World, runner: object) -> None:
    path = f"/sensors/{world.sensor_id}"
    await world.editor.refused("POST", f"{path}/deactivate", 409, "invalid_transition")
    await world.editor.done("POST", f"{path}/activate", {"reason": "ready"})
    await world.editor.done("POST", f"{path}/deactivate")
    await world.sensor.refused("POST", f"{path}/heartbeat", 409, "sensor_inactive")
    await world.editor.done("POST", f"{path}/activate")
    for method, verb in (("POST", "/retire"), ("DELETE", "")):
        await world.owner.refused(method, path + verb, 409, "sensor_in_use")
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
    await world.owner.refused("DELETE", path, 409, "sensor_has_recorded")
    retired = await world.owner.done("POST", f"{path}/retire")
    assert retired["status"] == "retired"
    await world.editor.refused("POST", f"{path}/activate", 409, "invalid_transition")
    await world.editor.refused("PATCH", path, 409, "sensor_retired", {"name": "x"})
    await world.owner.refused("POST", f"{path}/rotate-token", 409, "sensor_retired")
    await world.sensor.refused("POST", f"{path}/heartbeat", 409, "sensor_retired")
    history = (await world.viewer.done("GET", f"{path}/history"))["items"]
    assert [entry["to"] for entry in history] == ["active", "inactive", "active", "retired"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"sensor_type": ""},
        {"input_unit": "x" * 51},
        {"signals": ["a"] * 65},
        {"signals": ["a\n"]},
        {"signals": "a"},
        {"metadata": []},
        {"token": "xps_mine"},
        {"status": "active"},
    ],
)
async def test_edits_that_break_a_rule(world: World, runner: object, body: dict[str, Any]) -> None:
    problem = await world.editor.refused("PATCH", f"/sensors/{world.sensor_id}", 422, "invalid", body)
    assert problem["errors"][0]["path"].startswith(next(iter(body)))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["Sensor", "hot", "cold"]),
        ({"sensor_type": "k"}, ["hot"]),
        ({"sensor_type": ["k", "pt100"]}, ["hot", "cold"]),
        ({"status": "registered"}, ["Sensor", "hot"]),
        ({"status": ["active", "retired"]}, ["cold"]),
        ({"q": "HO"}, ["hot"]),
    ],
)
async def test_filters(world: World, runner: object, query: dict[str, Any], expected: list[str]) -> None:
    for name, kind in (("hot", "k"), ("cold", "pt100")):
        body = {**BODY, "project_id": world.project_id, "name": name, "sensor_type": kind}
        made = await world.editor.done("POST", "/sensors", body)
    await world.editor.done("POST", f"/sensors/{made['id']}/activate")
    query = {**query, "project_id": world.project_id}
    found = (await world.viewer.done("GET", "/sensors", params=query))["items"]
    assert [item["name"] for item in reversed(found)] == expected
