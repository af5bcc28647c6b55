"""Capture sessions: their states, what is pinned at their start, and what deleting one means."""

import pytest

from http_api import World

STEPS = {
    ("draft", "start"): "running",
    ("running", "stop"): "succeeded",
    ("draft", "archive"): "archived",
    ("succeeded", "archive"): "archived",
}
BODIES = {"stop": {"outcome": "succeeded", "reason": "enough"}}
TARGETS = {"start": "running", "stop": "succeeded", "archive": "archived"}


@pytest.mark.covers("captures.create", "captures.start", "captures.stop")
async def test_a_session_is_made_started_and_stopped(drafts: World, runner: object) -> None:
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
    path = f"/runs/{drafts.run_id}/capture-sessions"
    made = await drafts.editor.done("POST", path, {"notes": "warm"}, 201)
    assert (made["ordinal"], made["status"], made["notes"], made["pins"]) == (2, "draft", "warm", [])
    started = await drafts.editor.done("POST", f"/capture-sessions/{made['id']}/start", {"reason": "go"})
    assert started["pins"] == [{"sensor_id": drafts.sensor_id, "profile_id": drafts.profile_id, "profile_version": 1}]
    assert started["started_at"]
    stopped = await drafts.editor.done("POST", f"/capture-sessions/{made['id']}/stop", BODIES["stop"])
    assert (stopped["status"], stopped["pins"]) == ("succeeded", started["pins"])
    assert stopped["stopped_at"] > started["started_at"]
    history = (await drafts.viewer.done("GET", f"/capture-sessions/{made['id']}/history"))["items"]
    assert [(entry["from"], entry["to"], entry["reason"]) for entry in history] == [
        ("draft", "running", "go"),
        ("running", "succeeded", "enough"),
    ]
    listed = (await drafts.viewer.done("GET", path))["items"]
    assert [item["ordinal"] for item in listed] == [2, 1]
    found = (await drafts.viewer.done("GET", path, params={"status": ["succeeded", "failed"]}))["items"]
    assert [item["id"] for item in found] == [made["id"]]


@pytest.mark.parametrize("source", ["draft", "running", "succeeded", "archived"])
@pytest.mark.parametrize("verb", ["start", "stop", "archive"])
async def test_every_transition(drafts: World, runner: object, source: str, verb: str) -> None:
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
    path = f"/capture-sessions/{drafts.session_id}"
    ways = {"draft": [], "running": ["start"], "succeeded": ["start", "stop"], "archived": ["archive"]}
    for step in ways[source]:
        await drafts.owner.done("POST", f"{path}/{step}", BODIES.get(step))
    before = await drafts.viewer.done("GET", path)
    if source == TARGETS[verb]:
        assert await drafts.owner.done("POST", f"{path}/{verb}", BODIES.get(verb)) == before
    elif (source, verb) in STEPS:
        assert (await drafts.owner.done("POST", f"{path}/{verb}", BODIES.get(verb)))["status"] == STEPS[source, verb]
    else:
        await drafts.owner.refused("POST", f"{path}/{verb}", 409, "invalid_transition", BODIES.get(verb))


async def test_guards_of_the_start(drafts: World, runner: object) -> None:
    path = f"/runs/{drafts.run_id}/capture-sessions"
    await drafts.editor.refused("POST", path, 409, "run_not_running", {"start": True})
    # The session that could not start has not been made either.
    assert len((await drafts.viewer.done("GET", path))["items"]) == 1
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
    await drafts.editor.done("POST", f"/capture-sessions/{drafts.session_id}/start")
    problem = await drafts.editor.refused("POST", path, 409, "session_already_running", {"start": True})
    assert problem["active_capture_sessions"] == [drafts.session_id]
    await drafts.editor.done("POST", f"/capture-sessions/{drafts.session_id}/stop", {"outcome": "failed"})
    await drafts.editor.done("DELETE", f"/runs/{drafts.run_id}/sensors/{drafts.sensor_id}")
    await drafts.editor.refused("POST", path, 409, "no_bound_sensors", {"start": True})
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/finish")
    await drafts.editor.refused("POST", path, 409, "run_over")


async def test_a_stop_needs_an_outcome(world: World, runner: object) -> None:
    path = f"/capture-sessions/{world.session_id}/stop"
    await world.editor.refused("POST", path, 422, "invalid", {"outcome": "archived"})
    await world.editor.refused("POST", path, 422, "invalid", {"reason": "x"})
    await world.editor.refused("POST", path, 400, "body_required")


@pytest.mark.covers("captures.delete", "captures.restore")
async def test_deleting_and_restoring(drafts: World, runner: object) -> None:
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
    listing = f"/runs/{drafts.run_id}/capture-sessions"
    path = f"/capture-sessions/{drafts.session_id}"
    await drafts.editor.done("POST", f"{path}/start")
    await drafts.owner.refused("DELETE", path, 409, "not_deletable")
    await drafts.sensor.done("POST", "/telemetry", {"readings": [{"timestamp": 1, "value": 1}]})
    await drafts.editor.done("POST", f"{path}/stop", {"outcome": "failed"})
    await drafts.owner.done("DELETE", path, status=204)
    await drafts.owner.refused("GET", path, 404, "not_found")
    await drafts.owner.refused("GET", f"{path}/telemetry", 404, "not_found")
    assert (await drafts.viewer.done("GET", listing))["items"] == []
    await drafts.editor.refused("POST", f"{path}/restore", 403, "forbidden")
    restored = await drafts.owner.done("POST", f"{path}/restore", {"reason": "a mistake"})
    assert restored["status"] == "failed"
    assert len((await drafts.viewer.done("GET", f"{path}/telemetry"))["items"]) == 1
    assert len((await drafts.viewer.done("GET", f"{path}/history"))["items"]) == 2
    draft = await drafts.editor.done("POST", listing)
    assert draft["ordinal"] == 2
    await drafts.owner.done("DELETE", f"/capture-sessions/{draft['id']}", status=204)
    await drafts.owner.refused("POST", f"/capture-sessions/{draft['id']}/restore", 404, "not_found")


async def test_the_pinned_profile_stays(world: World, runner: object) -> None:
    body = {"kind": "linear", "parameters": {"a": 10, "b": 0}}
    second = await world.editor.done("POST", f"/sensors/{world.sensor_id}/conversion-profiles", body)
    await world.owner.done("POST", f"/conversion-profiles/{second['id']}/publish")
    await world.sensor.done("POST", "/telemetry", {"readings": [{"timestamp": 1, "value": 1}]})
    found = await world.viewer.done("GET", f"/capture-sessions/{world.session_id}/telemetry")
    assert (found["profile_id"], found["items"][0]["value"]) == (world.profile_id, 3.0)
    assert (await world.viewer.done("GET", f"/conversion-profiles/{world.profile_id}"))["status"] == "retired"
