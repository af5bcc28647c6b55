"""Backfills: requested once, shown with their progress, cancelled and retried."""

from uuid import uuid4

import pytest

from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases import Services
from experiment_domain.usecases.backfilling import work_off_backfills
from http_api import World


@pytest.fixture
def services(units_of_work: UnitsOfWork) -> Services:
    """What the worker works with."""
    return Services(units_of_work=units_of_work)


async def a_second_profile(world: World) -> str:
    made = await world.editor.done(
        "POST",
        f"/sensors/{world.sensor_id}/conversion-profiles",
        {"kind": "linear", "parameters": {"a": 1.0, "b": 100.0}},
        201,
    )
    await world.owner.done("POST", f"/conversion-profiles/{made['id']}/publish")
    return made["id"]


async def recorded(world: World) -> str:
    """A second profile; the session has readings of the first, and is over."""
    readings = [{"timestamp": f"2026-03-09T10:14:3{second}Z", "value": float(second)} for second in range(4)]
    await world.sensor.done("POST", "/telemetry", {"readings": readings})
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
    return await a_second_profile(world)


@pytest.mark.covers("backfills.request")
async def test_a_backfill_is_requested_worked_off_and_read(world: World, runner: object, services: Services) -> None:
    profile_id = await recorded(world)
    path = f"/capture-sessions/{world.session_id}/backfills"
    wanted = {"profile_id": profile_id, "sensor_id": world.sensor_id}
    answer = await world.editor.post(path, wanted)
    asked = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/api/v1/backfills/{asked['id']}")
    assert answer.headers["etag"] == '"1"'
    assert (asked["status"], asked["profile_version"], asked["error"]) == ("queued", 2, None)
    again = await world.owner.post(path, wanted)
    assert (again.status_code, again.json()) == (200, asked)
    # The run has an active session, which keeps it and the sensor from being put away.
    refused = await world.editor.refused("POST", f"/runs/{world.run_id}/finish", 409, "active_capture_sessions")
    assert refused["active_capture_sessions"] == [world.session_id]
    await world.editor.refused("DELETE", f"/runs/{world.run_id}/sensors/{world.sensor_id}", 409, "sensor_in_use")
    refused = await world.owner.refused(
        "POST", f"/capture-sessions/{world.session_id}/archive", 409, "active_backfills"
    )
    assert refused["active_backfills"] == [asked["id"]]

    assert await work_off_backfills(services) == 1
    done = await world.viewer.done("GET", f"/backfills/{asked['id']}")
    assert (done["status"], done["chunks_done"], done["chunks_total"]) == ("succeeded", 1, 1)
    assert (done["readings_converted"], done["version"]) == (4, 3)
    assert done["queued_at"] < done["started_at"] <= done["finished_at"]
    listed = await world.viewer.done("GET", path, params={"status": ["succeeded", "failed"]})
    assert listed == {"items": [done], "next_cursor": None}
    assert (await world.viewer.done("GET", path, params={"status": "queued"}))["items"] == []
    history = (await world.viewer.done("GET", f"/backfills/{asked['id']}/history"))["items"]
    assert [(step["from"], step["to"], step["actor"]) for step in history] == [
        ("queued", "running", "system"),
        ("running", "succeeded", "system"),
    ]
    telemetry = f"/capture-sessions/{world.session_id}/telemetry"
    now = await world.viewer.done("GET", telemetry)
    assert ([point["value"] for point in now["items"]], now["profile_id"]) == ([100, 101, 102, 103], profile_id)
    old = await world.viewer.done("GET", telemetry, params={"profile_id": world.profile_id})
    assert [point["value"] for point in old["items"]] == [1, 3, 5, 7]
    timeline = (await world.viewer.done("GET", f"/capture-sessions/{world.session_id}/events"))["items"]
    assert [event["type"] for event in timeline][-2:] == ["capture.backfill.started", "capture.backfill.finished"]
    await world.editor.done("POST", f"/runs/{world.run_id}/finish")


async def test_what_cannot_be_converted_is_refused(world: World, runner: object) -> None:
    path = f"/capture-sessions/{world.session_id}/backfills"
    wanted = {"profile_id": world.profile_id, "sensor_id": world.sensor_id}
    await world.editor.refused("POST", path, 409, "session_running", wanted)
    await world.editor.refused("POST", path, 422, "invalid", {"profile_id": world.profile_id})
    await world.editor.refused("POST", path, 422, "invalid", {**wanted, "layer": "raw"})
    await recorded(world)
    await world.editor.refused("POST", path, 404, "not_found", {**wanted, "profile_id": str(uuid4())})
    await world.editor.refused("POST", path, 409, "sensor_not_in_session", {**wanted, "sensor_id": str(uuid4())})
    await world.editor.refused("POST", f"/capture-sessions/{uuid4()}/backfills", 404, "not_found", wanted)


@pytest.mark.covers("backfills.cancel", "backfills.retry")
async def test_cancel_and_retry(world: World, runner: object, services: Services) -> None:
    profile_id = await recorded(world)
    wanted = {"profile_id": profile_id, "sensor_id": world.sensor_id}
    asked = await world.editor.done("POST", f"/capture-sessions/{world.session_id}/backfills", wanted, 201)
    path = f"/backfills/{asked['id']}"
    # It is queued: trying it again is what happens anyway.
    assert await world.editor.done("POST", f"{path}/retry") == asked
    await world.editor.refused("POST", f"{path}/cancel", 412, "version_mismatch", headers={"If-Match": '"7"'})
    cancelled = await world.editor.done("POST", f"{path}/cancel", {"reason": "wrong"}, headers={"If-Match": '"1"'})
    assert (cancelled["status"], cancelled["version"]) == ("cancelled", 2)
    assert await world.editor.done("POST", f"{path}/cancel") == cancelled
    await world.editor.refused("POST", f"{path}/retry", 409, "invalid_transition")
    assert await work_off_backfills(services) == 0
    fresh = await world.editor.done("POST", f"/capture-sessions/{world.session_id}/backfills", wanted, 201)
    assert fresh["id"] != asked["id"]
    await world.editor.done("POST", f"/backfills/{fresh['id']}/cancel")


async def test_progress_is_never_hidden_by_a_tag(world: World, runner: object) -> None:
    profile_id = await recorded(world)
    wanted = {"profile_id": profile_id, "sensor_id": world.sensor_id}
    asked = await world.editor.done("POST", f"/capture-sessions/{world.session_id}/backfills", wanted, 201)
    path = f"/backfills/{asked['id']}"
    answer = await world.viewer.get(path)
    assert (await world.viewer.get(path, headers={"If-None-Match": answer.headers["etag"]})).status_code == 200
    await world.editor.done("POST", f"{path}/cancel")


async def test_one_key_is_one_request(world: World, runner: object) -> None:
    profile_id = await recorded(world)
    wanted = {"profile_id": profile_id, "sensor_id": world.sensor_id}
    path, key = f"/capture-sessions/{world.session_id}/backfills", {"Idempotency-Key": uuid4().hex}
    first = await world.editor.post(path, wanted, headers=key)
    again = await world.editor.post(path, wanted, headers=key)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    await world.editor.done("POST", f"/backfills/{first.json()['id']}/cancel")
