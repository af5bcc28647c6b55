"""Every operation × everybody who may call: as in the table of roles, and nobody learns what is not theirs."""

from typing import Any

import pytest
from litestar import Litestar

from experiment_domain.usecases.runs import RunUseCases
from experiment_http.answers import Nothing
from experiment_http.operations import Operations
from http_api import API, Client, World, documented, new_world, token_of, with_backfill, with_export

VIEWERS, EDITORS, OWNERS, SENSORS = {"viewer", "editor", "owner"}, {"editor", "owner"}, {"owner"}, {"sensor"}
TABLE = {
    "read": VIEWERS,
    "edit": EDITORS,
    "administer": OWNERS,
    "own": OWNERS,
    "ingest": SENSORS,
    "report": {"service"},
    "sign_in": {*VIEWERS, "outsider", "revoked"},
}
OPEN = {"/health/live", "/health/ready", "/metrics", "/schema", "/schema/openapi.json", "/schema/asyncapi.json"}
GUARDED = [(method, path, operation) for method, path, operation in documented() if path.startswith(API)]
BULK = {f"{API}/runs:batch-status", f"{API}/runs:bulk-tags"}
OF_PROJECTS = {f"{API}/audit", f"{API}/audit/verify", f"{API}/webhooks"}
"""Lists of what the caller owns: only a project that is named may be refused."""
COMPARE = f"{API}/runs:compare"
GRID = f"{API}/runs/{{run_id}}/telemetry"
FEEDS = {f"{API}/events", f"{API}/events/stream"}
READINGS = f"{API}/telemetry/stream"
NAMING = {*OF_PROJECTS, *FEEDS, COMPARE, READINGS}
"""Whose query names what is asked for, so that it is refused as a path would be."""
NO_AUDIT = {"ok": True, "records": 0, "first_broken": None, "items": []}
NO_SENSORS = {"online": 0, "delayed": 0, "offline": 0, "total": 0}
ROLES = ("anonymous", "rotated", "service", "outsider", "revoked", "sensor", "viewer", "editor", "owner")


def row(method: str, path: str) -> str:
    """The row of the domain's table of roles that an operation belongs to."""
    path = path.removeprefix(API)
    last = path.rsplit("/", maxsplit=1)[-1]
    if (method, path) == ("POST", "/projects"):
        return "sign_in"
    if (method == "POST" and path in ("/telemetry", "/sensors/{sensor_id}/heartbeat")) or path == "/telemetry/ws":
        return "ingest"
    if path.startswith("/integrations/"):
        return "report"
    if last.startswith("audit") or path.startswith("/audit/"):
        return "own"
    if path.startswith("/webhook"):
        return "administer"
    if method == "GET" or last == "preview" or path.startswith("/exports"):
        return "read"
    if last in ("publish", "rotate-token", "approve", "reject", "revoke") or (
        last == "retire" and "conversion-profiles" in path
    ):
        return "administer"
    if last in ("archive", "restore", "retire"):
        return "own"
    if "/members/" in path or path == "/projects/{project_id}" or "/projects/" in path.removeprefix("/projects"):
        return "own"
    if method == "DELETE" and path != "/runs/{run_id}/sensors/{sensor_id}":
        return "own"
    return "edit"


def test_only_the_listed_paths_are_open() -> None:
    assert {path for _, path, _ in documented() if not path.startswith(API)} == OPEN
    for _, path, operation in documented():
        assert (operation.get("security") == []) is (path in OPEN)


@pytest.mark.parametrize(
    ("method", "path", "operation"), GUARDED, ids=[operation["operationId"] for _, _, operation in GUARDED]
)
async def test_matrix(app: Litestar, runner: object, method: str, path: str, operation: Any) -> None:
    assert operation["x-permission"] == row(method, path)
    world = await new_world(app)
    if "{backfill_id}" in path:
        world = await with_backfill(world)
    if "{export_id}" in path:
        world = await with_export(world)
    callers = await _callers(world)
    allowed = TABLE[row(method, path)]
    more: dict[str, Any] = {}
    if "requestBody" in operation:
        more["json"] = world.example(operation)
    if path in NAMING and method == "GET":
        more["params"] = await _named(world, path)
    elif path == GRID:
        more["params"] = {"grid": 1}
    # The lowest come first: what one of the higher ones removes would be gone for the others.
    for role in ROLES:
        answer = await callers[role].send(method, world.path(path), **more)
        status = answer.status_code
        if path in BULK and role in ("viewer", "outsider", "revoked"):
            (outcome,) = answer.json()["items"]
            assert (status, outcome["ok"], set(outcome)) == (200, False, {"run_id", "ok", "error"})
            assert outcome["error"]["code"] == ("forbidden" if role == "viewer" else "not_found")
        elif role in allowed:
            assert status not in (401, 403, 404), (role, answer.text)
        elif role in ("anonymous", "rotated", "service") or row(method, path) == "report":
            assert status == 401, (role, answer.text)
        elif row(method, path) == "ingest":
            assert status == 403, (role, answer.text)
        elif role == "sensor":
            assert status in (403, 404), answer.text
        elif role in ("outsider", "revoked"):
            _learns_nothing(method, path, answer)
        else:
            assert status == 403, (role, answer.text)


async def _named(world: World, path: str) -> dict[str, Any]:
    if path in (*OF_PROJECTS, *FEEDS):
        return {"project_id": world.project_id}
    if path == READINGS:
        return {"capture_session_id": world.session_id}
    other = await world.editor.done("POST", f"/experiments/{world.experiment_id}/runs", {"name": "to compare"})
    return {"run_id": [world.run_id, other["id"]]}


def _learns_nothing(method: str, path: str, answer: Any) -> None:
    if method == "GET" and "{" not in path and path not in NAMING:
        assert answer.json() in ({"items": []}, {"items": [], "next_cursor": None}, NO_SENSORS)
    else:
        assert answer.status_code == 404, answer.text
        assert answer.json()["code"] == "not_found"


async def _callers(world: World) -> dict[str, Client]:
    """Everybody: `revoked` was an editor, `rotated` is a token that the sensor no longer has, `service` signs."""
    former = f"former-{world.names['owner']}"
    await world.owner.done("PUT", f"/projects/{world.project_id}/members/{former}", {"role": "editor"})
    await world.owner.done("DELETE", f"/projects/{world.project_id}/members/{former}")
    rotated = await world.owner.done("POST", f"/sensors/{world.sensor_id}/rotate-token")
    return {
        "anonymous": world.anonymous,
        "rotated": world.sensor,
        "service": world.service,
        "outsider": world.outsider,
        "revoked": Client(world.app, token_of(former)),
        "sensor": Client(world.app, rotated["token"]),
        "viewer": world.viewer,
        "editor": world.editor,
        "owner": world.owner,
    }


async def test_lists_of_what_one_owns_are_empty_for_who_owns_nothing(world: World, runner: object) -> None:
    for client in (world.viewer, world.editor, world.outsider):
        assert await client.done("GET", "/audit") == {"items": [], "next_cursor": None}
        assert await client.done("GET", "/audit/verify") == NO_AUDIT
        assert await client.done("GET", "/webhooks") == {"items": [], "next_cursor": None}
    found = await world.owner.done("GET", "/audit")
    assert {record["project_id"] for record in found["items"]} == {world.project_id}
    (verified,) = (await world.owner.done("GET", "/audit/verify"))["items"]
    assert (verified["project_id"], verified["ok"]) == (world.project_id, True)


@pytest.mark.parametrize("path", sorted(OF_PROJECTS))
async def test_one_project_of_several_that_is_not_ones_own_refuses_all(
    world: World, app: Litestar, runner: object, path: str
) -> None:
    other = await new_world(app, start=False)
    both: dict[str, Any] = {"params": {"project_id": [world.project_id, other.project_id]}}
    path = path.removeprefix(API)
    await world.owner.refused("GET", path, 404, "not_found", **both)
    await other.owner.done("PUT", f"/projects/{other.project_id}/members/{world.names['owner']}", {"role": "editor"})
    await world.owner.refused("GET", path, 403, "forbidden", **both)
    await other.owner.done("PUT", f"/projects/{other.project_id}/members/{world.names['owner']}", {"role": "owner"})
    await world.owner.done("GET", path, **both)


async def test_of_several_runs_each_is_asked_for_by_itself(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app, start=False)
    ids = [other.run_id, world.run_id]

    async def codes(client: Client, path: str, **body: Any) -> list[str]:
        answer = await client.done("POST", path, {"run_ids": ids, **body})
        assert [outcome["run_id"] for outcome in answer["items"]] == ids
        return ["ok" if outcome["ok"] else outcome["error"]["code"] for outcome in answer["items"]]

    assert await codes(world.editor, "/runs:bulk-tags", add_tags=["x"]) == ["not_found", "ok"]
    assert await codes(world.viewer, "/runs:bulk-tags", add_tags=["y"]) == ["not_found", "forbidden"]
    assert await codes(world.editor, "/runs:batch-status", status="running") == ["not_found", "ok"]
    # To archive takes an owner, who is told what stands against it; an editor is not.
    assert await codes(world.editor, "/runs:batch-status", status="archived") == ["not_found", "forbidden"]
    assert await codes(world.owner, "/runs:batch-status", status="archived") == [
        "not_found",
        "active_capture_sessions",
    ]
    problem = await world.editor.refused(
        "POST", "/runs:batch-status", 409, "not_all_possible", {"run_ids": ids, "status": "running", "atomic": True}
    )
    assert [(item["run_id"], item["code"]) for item in problem["items"]] == [(other.run_id, "not_found")]
    assert other.project_id not in str(problem)
    assert (await other.viewer.done("GET", f"/runs/{other.run_id}"))["tags"] == []
    assert (await world.viewer.done("GET", f"/runs/{world.run_id}"))["tags"] == ["x"]
    await world.sensor.refused("POST", "/runs:bulk-tags", 403, "forbidden", {"run_ids": ids, "add_tags": ["x"]})


def test_an_operation_whose_use_case_declares_no_permission_cannot_be_declared() -> None:
    async def use_case() -> None:
        """Anything."""

    for undeclared in (use_case, RunUseCases._archive):
        with pytest.raises(TypeError, match="declares a permission"):
            Operations("runs", "Runs.").get("/runs", undeclared, Nothing())


@pytest.mark.parametrize(("claim", "status"), [("viewer", 403), ("editor", 200), ("owner", 200)])
async def test_a_role_is_the_higher_of_claim_and_membership(
    world: World, runner: object, claim: str, status: int
) -> None:
    viewer = world.names["viewer"]
    client = Client(world.app, token_of(viewer, projects={world.project_id: claim}))
    answer = await client.patch(f"/runs/{world.run_id}", {"notes": "from a claim"})
    assert answer.status_code == status
    assert (await client.get(f"/runs/{world.run_id}")).status_code == 200


async def test_unknown_sensors_cannot_tell_what_exists(world: World, runner: object) -> None:
    stranger = Client(world.app, "xps_" + "a" * 43)
    for path in (f"/runs/{world.run_id}", f"/runs/{world.session_id}", "/runs", f"/sensors/{world.sensor_id}"):
        await stranger.refused("GET", path, 401, "unauthenticated")


@pytest.mark.covers("sensors.share", "sensors.unshare")
async def test_a_shared_sensor_is_seen_but_not_changed(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    await world.outsider.refused("GET", f"/sensors/{other.sensor_id}", 404, "not_found")
    # Its owner must be able to edit the project it is shared with.
    path = f"/sensors/{other.sensor_id}/projects/{world.project_id}"
    await other.owner.refused("PUT", path, 404, "not_found")
    await world.owner.done("PUT", f"/projects/{world.project_id}/members/{other.names['owner']}", {"role": "viewer"})
    await other.owner.refused("PUT", path, 403, "forbidden")
    await world.owner.done("PUT", f"/projects/{world.project_id}/members/{other.names['owner']}", {"role": "editor"})
    await other.owner.done("PUT", path)
    shown = await world.viewer.done("GET", f"/sensors/{other.sensor_id}")
    assert shown["project_id"] == other.project_id
    await world.owner.refused("PATCH", f"/sensors/{other.sensor_id}", 404, "not_found", {"name": "mine"})
    run = await world.editor.done("POST", f"/experiments/{world.experiment_id}/runs", {"name": "with both"})
    await world.editor.done("PUT", f"/runs/{run['id']}/sensors/{other.sensor_id}")
    listed = await other.owner.done("GET", f"/sensors/{other.sensor_id}/projects")
    assert [item["project_id"] for item in listed["items"]] == [other.project_id, world.project_id]
    await other.owner.done("DELETE", path)
    await world.viewer.refused("GET", f"/sensors/{other.sensor_id}", 404, "not_found")
    await other.owner.refused(
        "DELETE", f"/sensors/{other.sensor_id}/projects/{other.project_id}", 409, "owning_project"
    )
