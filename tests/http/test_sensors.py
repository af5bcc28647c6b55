"""Sensors: registered with a token that is shown once, rotated, switched off and on, retired."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from attrs import define
from litestar import Litestar

from entities import SettableClock
from experiment_domain.sensors import minute_of
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_http.times import text
from http_api import Client, World, app_over, new_world

BODY = {"name": "S", "sensor_type": "k", "input_unit": "mV", "display_unit": "°C"}


@pytest.mark.covers("sensors.register", "sensors.edit", "sensors.delete")
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


@pytest.mark.covers("sensors.heartbeat")
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


@pytest.mark.covers("sensors.rotate_token")
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


@pytest.mark.covers("sensors.activate", "sensors.deactivate", "sensors.retire")
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


@define
class Rig:
    """A world whose clock is set by hand."""

    world: World
    clock: SettableClock
    path: str

    @classmethod
    async def build(cls, units_of_work: UnitsOfWork) -> "Rig":
        clock = SettableClock()
        world = await new_world(app_over(units_of_work, clock=clock))
        return cls(world, clock, f"/sensors/{world.sensor_id}")

    async def rotate(self, grace: float, **more: Any) -> Client:
        rotated = await self.world.owner.done("POST", f"{self.path}/rotate-token", {"grace": grace}, **more)
        return Client(self.world.app, rotated["token"])

    async def beat(self, *clients: Client) -> None:
        for client in clients:
            await client.done("POST", f"{self.path}/heartbeat")

    async def is_dead(self, *clients: Client) -> None:
        readings = {"readings": [{"timestamp": 1, "value": 1}]}
        for client in clients:
            await client.refused("POST", f"{self.path}/heartbeat", 401, "unauthenticated")
            await client.refused("POST", "/telemetry", 401, "unauthenticated", readings)

    async def counts(self, **query: Any) -> list[int]:
        found = await self.world.viewer.done("GET", f"{self.path}/heartbeats", params=query)
        return [item["count"] for item in found["items"]]


async def test_both_tokens_live_until_the_grace_is_over(units_of_work: UnitsOfWork, runner: object) -> None:
    rig = await Rig.build(units_of_work)
    first, second = rig.world.sensor, await rig.rotate(60)
    await rig.beat(first, second)
    rig.clock.pass_by(59.999999)
    await rig.beat(first, second)
    assert (await rig.counts())[-2:] == [2, 2]  # both are the sensor's
    rig.clock.pass_by(0.000001)
    await rig.is_dead(first)
    await rig.beat(second)
    # Of two rotations within a grace the second ends the oldest at once, and without a grace any other.
    third = await rig.rotate(60)
    fourth = await rig.rotate(60)
    await rig.is_dead(first, second)
    await rig.beat(third, fourth)
    fifth = await rig.rotate(0)
    await rig.is_dead(third, fourth)
    await rig.beat(fifth)
    assert (await rig.world.viewer.done("GET", rig.path))["previous_token_dies_at"] is None


async def test_a_rotation_that_is_sent_again_gives_the_same_token(units_of_work: UnitsOfWork, runner: object) -> None:
    rig = await Rig.build(units_of_work)
    key = {"headers": {"Idempotency-Key": str(uuid4())}}
    second = await rig.rotate(60, **key)
    rig.clock.pass_by(30)
    again = await rig.rotate(60, **key)
    assert again.token == second.token
    await rig.beat(rig.world.sensor, second)  # the first one lives: nothing was rotated twice
    rig.clock.pass_by(30)
    await rig.is_dead(rig.world.sensor)


async def test_a_batch_is_the_same_under_either_token(units_of_work: UnitsOfWork, runner: object) -> None:
    rig = await Rig.build(units_of_work)
    first, second = rig.world.sensor, await rig.rotate(60)
    body = {"batch_id": "b-1", "readings": [{"timestamp": 1, "value": 1}]}
    taken = await first.done("POST", "/telemetry", body)
    again = await second.done("POST", "/telemetry", body)
    assert again == {**taken, "duplicate": True}
    rig.clock.pass_by(60)
    assert (await second.done("POST", "/telemetry", body))["duplicate"] is True
    shown = await rig.world.viewer.done("GET", rig.path)
    assert (shown["status"], (await rig.counts())[-2:]) == ("active", [1, 0])
    other = {**body, "readings": [{"timestamp": 2, "value": 1}]}
    await second.refused("POST", "/telemetry", 409, "batch_id_reused", other)


async def test_a_sensor_is_online_delayed_and_offline(units_of_work: UnitsOfWork, runner: object) -> None:
    rig = await Rig.build(units_of_work)
    viewer = rig.world.viewer

    async def told() -> tuple[str, dict[str, int]]:
        summary = await viewer.done("GET", "/sensors/status-summary")
        (found,) = [name for name in ("online", "delayed", "offline") if summary[name]]
        for name in ("online", "delayed", "offline"):
            listed = (await viewer.done("GET", "/sensors", params={"connection": name}))["items"]
            assert [item["id"] for item in listed] == ([rig.world.sensor_id] if name == found else [])
        both = await viewer.done("GET", "/sensors", params={"connection": ["online", "offline"]})
        assert len(both["items"]) == (found != "delayed")
        return found, summary

    assert (await told())[0] == "offline"
    await rig.beat(rig.world.sensor)
    assert await told() == ("online", {"online": 1, "delayed": 0, "offline": 0, "total": 1})
    rig.clock.pass_by(29.999999)
    assert (await told())[0] == "online"
    rig.clock.pass_by(0.000001)
    assert (await told())[0] == "delayed"
    rig.clock.pass_by(270)
    assert (await told())[0] == "offline"
    elsewhere = {"project_id": str(uuid4())}
    assert (await viewer.done("GET", "/sensors/status-summary", params=elsewhere))["total"] == 0
    ours = {"project_id": [rig.world.project_id, str(uuid4())]}
    assert (await viewer.done("GET", "/sensors/status-summary", params=ours))["total"] == 1
    await rig.world.editor.done("POST", f"/capture-sessions/{rig.world.session_id}/stop", {"outcome": "succeeded"})
    await rig.world.owner.done("POST", f"{rig.path}/retire")
    assert (await viewer.done("GET", "/sensors/status-summary"))["total"] == 0
    await rig.world.sensor.refused("GET", "/sensors/status-summary", 403, "forbidden")
    await viewer.refused("GET", "/sensors/status-summary", 422, "invalid", params={"project_id": "x"})
    await viewer.refused("GET", "/sensors/status-summary", 422, "invalid", params={"limit": 1})
    await viewer.refused("GET", "/sensors", 422, "invalid", params={"connection": "away"})


async def test_pages_by_connection_hold_each_sensor_once(units_of_work: UnitsOfWork, runner: object) -> None:
    rig = await Rig.build(units_of_work)
    made = [
        await rig.world.editor.done("POST", "/sensors", {**BODY, "project_id": rig.world.project_id, "name": f"S{n}"})
        for n in range(6)
    ]

    async def beat(*numbers: int) -> None:
        for n in numbers:
            await Client(rig.world.app, made[n]["token"]).done("POST", f"/sensors/{made[n]['id']}/heartbeat")

    await beat(*range(6))
    query: dict[str, Any] = {"connection": "online", "limit": 2}
    names: list[str] = []
    while True:
        page = await rig.world.viewer.done("GET", "/sensors", params=query)
        names += [item["name"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        # Time goes on between pages: all but one give signs again, and each page tells what is true when it is asked.
        rig.clock.pass_by(20)
        await beat(0, 2, 3, 4, 5)
    assert names == ["S5", "S4", "S3", "S2", "S0"]


async def test_heartbeats_are_there_to_be_drawn(units_of_work: UnitsOfWork, runner: object) -> None:
    rig = await Rig.build(units_of_work)
    rig.clock.at = now = minute_of(rig.clock.at)
    for seconds in (0, 10, 120):
        rig.clock.at = now + timedelta(seconds=seconds)
        await rig.beat(rig.world.sensor)
    found = await rig.world.viewer.done("GET", f"{rig.path}/heartbeats")
    assert [item["count"] for item in found["items"]] == [*[0] * 57, 2, 0, 1]
    assert found["items"][-1] == {
        "timestamp": text(now + timedelta(minutes=2)),
        "end": text(now + timedelta(minutes=3)),
        "count": 1,
    }
    assert all(one["end"] == other["timestamp"] for one, other in zip(found["items"], found["items"][1:], strict=False))
    assert await rig.counts(start=text(now), bucket=120) == [2, 1]
    assert await rig.counts(start="2026-03-09T11:14:00+01:00", end="2026-03-09T11:16:00.000001+01:00") == [2, 0, 1]
    assert await rig.counts(start=text(now - timedelta(days=3650)), bucket=604_800) == [*[0] * 521, 3]
    future = {"start": "2999-01-01T00:00:00Z", "end": "2999-01-01T00:03:00Z"}
    assert await rig.counts(**future) == [0, 0, 0]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("bucket", {"bucket": "0"}),
        ("bucket", {"bucket": "61"}),
        ("bucket", {"bucket": "-60"}),
        ("bucket", {"bucket": "60.0"}),
        ("bucket", {"bucket": "hour"}),
        ("bucket", {"bucket": ""}),
        ("bucket", {"bucket": "9" * 30}),
        ("bucket", {"bucket": ["60", "120"]}),
        ("bucket", {"start": "2020-01-01T00:00:00Z"}),
        ("bucket", {"start": "0001-01-02T00:00:00Z", "end": "9999-12-30T00:00:00Z", "bucket": "604800"}),
        ("start", {"start": "2999-01-01T00:00:00Z"}),
        ("start", {"start": "2026-03-09T10:00:00Z", "end": "2026-03-09T10:00:00Z"}),
        ("start", {"start": "2026-03-09T10:00:01Z", "end": "2026-03-09T10:00:00Z"}),
        ("start", {"start": "2026-03-09T10:00:00"}),
        ("start", {"start": "yesterday"}),
        ("start", {"start": "0001-01-01T00:00:00+23:59"}),
        ("end", {"end": "9999-12-31T23:59:59.999999Z"}),
        ("end", {"end": "9999-12-31T23:59:59-23:59"}),
        ("since", {"since": "2026-03-09T10:00:00Z"}),
    ],
)
async def test_windows_that_are_none_are_refused(
    world: World, runner: object, path: str, query: dict[str, Any]
) -> None:
    url = f"/sensors/{world.sensor_id}/heartbeats"
    problem = await world.viewer.refused("GET", url, 422, "invalid", params=query)
    assert [error["path"] for error in problem["errors"]] == [path]
    await world.outsider.refused("GET", f"/sensors/{world.sensor_id}/heartbeats", 404, "not_found")


async def test_heartbeats_are_for_who_may_see_the_sensor(world: World, runner: object) -> None:
    path = f"/sensors/{world.sensor_id}/heartbeats"
    await world.outsider.refused("GET", path, 404, "not_found")
    await world.sensor.refused("GET", path, 404, "not_found")
    await world.anonymous.refused("GET", path, 401, "unauthenticated")
    await world.owner.refused("GET", f"/sensors/{uuid4()}/heartbeats", 404, "not_found")
    await world.owner.refused("GET", "/sensors/status/heartbeats", 404, "not_found")


async def test_a_sensor_is_always_sent(world: World, runner: object) -> None:
    path = f"/sensors/{world.sensor_id}"
    await world.sensor.done("POST", f"{path}/heartbeat")
    first = await world.viewer.get(path)
    await world.sensor.done("POST", f"{path}/heartbeat")
    second = await world.viewer.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.headers["etag"] == first.headers["etag"]
    assert second.json()["last_seen_at"] > first.json()["last_seen_at"]
    # Its tag is still what a change is made conditional by.
    edited = await world.editor.patch(path, {"name": "T"}, headers={"If-Match": second.headers["etag"]})
    assert edited.status_code == 200
    stale = {"headers": {"If-Match": first.headers["etag"]}}
    await world.editor.refused("PATCH", path, 412, "version_mismatch", {"name": "U"}, **stale)


async def test_a_session_keeps_the_profile_version_that_it_began_with(world: World, runner: object) -> None:
    path = f"/capture-sessions/{world.session_id}"
    pins = [{"sensor_id": world.sensor_id, "profile_id": world.profile_id, "profile_version": 1}]
    assert (await world.viewer.done("GET", path))["pins"] == pins
    body = {"kind": "linear", "parameters": {"a": 10, "b": 0}}
    newer = await world.editor.done("POST", f"/sensors/{world.sensor_id}/conversion-profiles", body)
    await world.owner.done("POST", f"/conversion-profiles/{newer['id']}/publish")
    assert (await world.viewer.done("GET", path))["pins"] == pins
    await world.editor.done("POST", f"{path}/stop", {"outcome": "succeeded"})
    assert (await world.viewer.done("GET", path))["pins"] == pins
    body = {"start": True}
    following = await world.editor.done("POST", f"/runs/{world.run_id}/capture-sessions", body)
    shown = await world.viewer.done("GET", f"/capture-sessions/{following['id']}")
    assert shown["pins"] == [{"sensor_id": world.sensor_id, "profile_id": newer["id"], "profile_version": 2}]
    listed = (await world.viewer.done("GET", f"/runs/{world.run_id}/capture-sessions"))["items"]
    assert [item["pins"] for item in listed] == [shown["pins"], pins]


async def test_a_shared_sensor_records_in_both_projects(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    path = f"/sensors/{world.sensor_id}"
    await other.owner.done("PUT", f"/projects/{other.project_id}/members/{world.names['owner']}", {"role": "editor"})
    await world.owner.done("PUT", f"{path}/projects/{other.project_id}")
    run = await other.editor.done("POST", f"/experiments/{other.experiment_id}/runs", {"name": "with theirs"})
    await other.editor.done("PUT", f"/runs/{run['id']}/sensors/{world.sensor_id}")
    await other.editor.done("POST", f"/runs/{run['id']}/start")
    session = await other.editor.done("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
    readings = {"readings": [{"timestamp": 1, "value": 1}]}
    for session_id in (world.session_id, session["id"]):
        taken = await world.sensor.done("POST", "/telemetry", {**readings, "capture_session_id": session_id})
        assert taken["accepted"] == 1
    more = {"readings": [{"timestamp": 3, "value": 1}]}
    await world.sensor.refused("POST", "/telemetry", 409, "ambiguous_session", more)

    # There it is read, with its signs of life, and changed by nobody.
    assert (await other.viewer.done("GET", path))["project_id"] == world.project_id
    signs = (await other.viewer.done("GET", f"{path}/heartbeats"))["items"]
    assert sum(item["count"] for item in signs) == 1
    for method, more, body in (
        ("GET", "/history", None),
        ("GET", "/projects", None),
        ("PATCH", "", {"name": "ours"}),
        ("POST", "/rotate-token", None),
        ("POST", "/deactivate", None),
        ("POST", "/retire", None),
        ("PUT", f"/projects/{other.project_id}", None),
        ("DELETE", f"/projects/{other.project_id}", None),
        ("DELETE", "", None),
    ):
        await other.owner.refused(method, path + more, 404, "not_found", body)
    await world.editor.refused("POST", f"{path}/rotate-token", 403, "forbidden")

    # While it records in either project it stays, whoever asks, and nobody is told where.
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
    await other.owner.done("DELETE", f"/projects/{other.project_id}/members/{world.names['owner']}")
    refusals = [
        await world.owner.refused("POST", f"{path}/retire", 409, "sensor_in_use"),
        await world.owner.refused("DELETE", path, 409, "sensor_in_use"),
        await other.editor.refused("DELETE", f"/runs/{run['id']}/sensors/{world.sensor_id}", 409, "sensor_in_use"),
    ]
    for problem in refusals[:2]:
        assert not any(it in str(problem) for it in (session["id"], run["id"], other.project_id))

    # Taken back, it delivers to the session that it is in, and takes part in no other.
    await world.owner.done("DELETE", f"{path}/projects/{other.project_id}")
    late = {"readings": [{"timestamp": 2, "value": 1}], "capture_session_id": session["id"]}
    assert (await world.sensor.done("POST", "/telemetry", late))["accepted"] == 1
    for hidden in (path, f"{path}/heartbeats"):
        await other.viewer.refused("GET", hidden, 404, "not_found")
    await other.editor.done("POST", f"/capture-sessions/{session['id']}/stop", {"outcome": "succeeded"})
    listing = f"/runs/{run['id']}/capture-sessions"
    await other.editor.refused("POST", listing, 409, "no_bound_sensors", {"start": True})
    await other.editor.done("DELETE", f"/runs/{run['id']}/sensors/{world.sensor_id}")
    await other.editor.refused("PUT", f"/runs/{run['id']}/sensors/{world.sensor_id}", 404, "not_found")
    assert (await world.owner.done("POST", f"{path}/retire"))["status"] == "retired"
