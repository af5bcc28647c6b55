"""Artifacts: registered, approved, rejected, revoked; links that lead nowhere are refused."""

from typing import Any

import pytest
from litestar import Litestar

from http_api import World, new_world

LINK: dict[str, Any] = {"name": "Model", "uri": "https://files.example/model.onnx?v=7#weights"}


async def register(world: World, **values: Any) -> Any:
    """A new artifact of the world's run."""
    return await world.editor.done("POST", f"/runs/{world.run_id}/artifacts", {**LINK, **values}, 201)


@pytest.mark.covers("artifacts.register")
async def test_a_link_is_registered_and_shown(world: World, runner: object) -> None:
    values = {
        "kind": "model",
        "checksum": "sha256:" + "0f" * 32,
        "size": 2**63 - 1,
        "metadata": {"framework": "onnx", "layers": [1, None]},
    }
    answer = await world.editor.post(f"/runs/{world.run_id}/artifacts", {**LINK, **values})
    assert answer.status_code == 201
    made = answer.json()
    assert {name: made[name] for name in (*LINK, *values)} == {**LINK, **values}
    assert (made["run_id"], made["project_id"], made["status"]) == (world.run_id, world.project_id, "pending")
    assert (made["version"], made["created_by"]) == (1, world.names["editor"])
    assert answer.headers["location"] == f"/api/v1/artifacts/{made['id']}"
    assert answer.headers["etag"] == '"1"'
    assert await world.viewer.done("GET", f"/artifacts/{made['id']}") == made
    plain = await register(world)
    assert [plain[name] for name in ("kind", "checksum", "size", "metadata")] == [None, None, None, {}]


@pytest.mark.covers("artifacts.approve", "artifacts.reject", "artifacts.revoke", "artifacts.resubmit")
async def test_approval_and_its_history(world: World, runner: object) -> None:
    path = f"/artifacts/{world.artifact_id}"
    await world.editor.refused("POST", f"{path}/approve", 403, "forbidden")
    rejected = await world.owner.done("POST", f"{path}/reject", {"reason": "not signed"})
    assert (rejected["status"], rejected["version"]) == ("rejected", 2)
    problem = await world.owner.refused("POST", f"{path}/approve", 409, "invalid_transition")
    assert (problem["current"], problem["target"], problem["allowed"]) == ("rejected", "approved", ["pending"])
    assert (await world.editor.done("POST", f"{path}/resubmit", {"reason": "signed now"}))["status"] == "pending"
    approved = await world.owner.done("POST", f"{path}/approve")
    assert approved == await world.owner.done("POST", f"{path}/approve")
    assert (await world.owner.done("POST", f"{path}/revoke", {"reason": None}))["status"] == "revoked"
    for verb in ("approve", "reject", "resubmit"):
        caller = world.editor if verb == "resubmit" else world.owner
        await caller.refused("POST", f"{path}/{verb}", 409, "invalid_transition")
    steps = (await world.viewer.done("GET", f"{path}/history"))["items"]
    owner, editor = world.names["owner"], world.names["editor"]
    assert [(step["from"], step["to"], step["actor"], step["role"], step["reason"]) for step in steps] == [
        ("pending", "rejected", owner, "owner", "not signed"),
        ("rejected", "pending", editor, "editor", "signed now"),
        ("pending", "approved", owner, "owner", None),
        ("approved", "revoked", owner, "owner", None),
    ]


async def test_conditions_and_keys(world: World, runner: object) -> None:
    path = f"/artifacts/{world.artifact_id}"
    await world.owner.refused("POST", f"{path}/approve", 412, "version_mismatch", headers={"If-Match": '"2"'})
    headers = {"If-Match": '"1"', "Idempotency-Key": f"approve-{world.artifact_id}"}
    first = await world.owner.post(f"{path}/approve", headers=headers)
    again = await world.owner.post(f"{path}/approve", headers=headers)
    assert (first.status_code, first.headers["etag"]) == (200, '"2"')
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    same = await world.viewer.get(path, headers={"If-None-Match": '"2"'})
    assert same.status_code == 304


async def test_lists(world: World, runner: object) -> None:
    path = f"/runs/{world.run_id}/artifacts"
    made = [await register(world, name=name, kind=kind) for name, kind in zip("ABCD", "mmrr", strict=True)]
    await world.owner.done("POST", f"/artifacts/{made[0]['id']}/approve")
    await world.owner.done("POST", f"/artifacts/{made[2]['id']}/approve")
    await world.owner.done("POST", f"/artifacts/{made[3]['id']}/reject")

    async def names(**query: Any) -> str:
        items = (await world.viewer.done("GET", path, params=query))["items"]
        return "".join(item["name"] for item in items).replace("Model", "-")

    assert await names() == "DCBA-"
    assert await names(approved="true") == "CA"
    assert await names(approved="false") == "DB-"
    assert await names(approved="true", kind="r") == "C"
    assert await names(status=["approved", "rejected"]) == "DCA"
    assert await names(status="approved", approved="false") == ""
    assert await names(kind=["m", "r"], status="pending") == "B"
    assert await names(kind="x") == ""
    first = await world.viewer.done("GET", path, params={"limit": 2, "approved": "false"})
    rest = await world.viewer.done(
        "GET", path, params={"limit": 2, "approved": "false", "cursor": first["next_cursor"]}
    )
    assert [item["name"] for item in (*first["items"], *rest["items"])] == ["D", "B", "Model"]
    assert rest["next_cursor"] is None
    for query in ({"approved": "yes"}, {"approved": "True"}, {"approved": ""}, {"status": "draft"}, {"kind": ""}):
        problem = await world.viewer.refused("GET", path, 422, "invalid", params=query)
        assert problem["errors"][0]["path"].partition("[")[0] == next(iter(query))
    await world.viewer.refused("GET", path, 422, "invalid", params=[("approved", "true"), ("approved", "true")])


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": None}, "name"),
        ({"uri": ""}, "uri"),
        ({"uri": "model.onnx"}, "uri"),
        ({"uri": "//host/model"}, "uri"),
        ({"uri": "s3://bucket/a key"}, "uri"),
        ({"uri": "s3://bucket/key\n"}, "uri"),
        ({"uri": "s3://bucket/\u2028key"}, "uri"),
        ({"uri": "s3://bucket/\u007f"}, "uri"),
        ({"uri": "s3://bucket/\u0000"}, "uri"),
        ({"uri": "JaVaScRiPt:alert(1)"}, "uri"),
        ({"uri": "java\tscript:alert(1)"}, "uri"),
        ({"uri": "data:text/html,<script>"}, "uri"),
        ({"uri": "vbscript:x"}, "uri"),
        ({"uri": "s3://" + "x" * 1_996}, "uri"),
        ({"uri": ["s3://b/k"]}, "uri"),
        ({"kind": ""}, "kind"),
        ({"kind": "x" * 101}, "kind"),
        ({"kind": " model"}, "kind"),
        ({"checksum": ""}, "checksum"),
        ({"checksum": "sha256:"}, "checksum"),
        ({"checksum": "sha256: aa"}, "checksum"),
        ({"checksum": "x" * 201}, "checksum"),
        ({"size": -1}, "size"),
        ({"size": 2**63}, "size"),
        ({"size": 1.5}, "size"),
        ({"size": "7"}, "size"),
        ({"size": True}, "size"),
        ({"metadata": None}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": "x" * 70_000}}, "metadata"),
        ({"status": "approved"}, "status"),
    ],
)
async def test_what_is_no_artifact(world: World, runner: object, values: dict[str, Any], path: str) -> None:
    problem = await world.editor.refused("POST", f"/runs/{world.run_id}/artifacts", 422, "invalid", {**LINK, **values})
    assert problem["errors"][0]["path"] == path
    assert len((await world.viewer.done("GET", f"/runs/{world.run_id}/artifacts"))["items"]) == 1


@pytest.mark.parametrize("missing", ["name", "uri"])
async def test_a_name_and_a_link_are_needed(world: World, runner: object, missing: str) -> None:
    body = {name: value for name, value in LINK.items() if name != missing}
    problem = await world.editor.refused("POST", f"/runs/{world.run_id}/artifacts", 422, "invalid", body)
    assert problem["errors"][0]["path"] == missing


async def test_an_archived_run_takes_none(world: World, runner: object) -> None:
    await world.editor.done("POST", f"/capture-sessions/{world.session_id}/stop", {"outcome": "succeeded"})
    await world.owner.done("POST", f"/runs/{world.run_id}/archive")
    await world.editor.refused("POST", f"/runs/{world.run_id}/artifacts", 409, "archived", LINK)
    await world.owner.done("POST", f"/artifacts/{world.artifact_id}/approve")
    revoked = await world.owner.done("POST", f"/artifacts/{world.artifact_id}/revoke")
    assert revoked["status"] == "revoked"


async def test_a_draft_with_artifacts_is_archived_instead_of_deleted(drafts: World, runner: object) -> None:
    run = await drafts.editor.done("POST", f"/experiments/{drafts.experiment_id}/runs", {"name": "R"}, 201)
    await drafts.editor.done("POST", f"/runs/{run['id']}/artifacts", LINK, 201)
    await drafts.owner.refused("DELETE", f"/runs/{run['id']}", 409, "has_artifacts")
    await drafts.owner.done("POST", f"/runs/{run['id']}/archive")


async def test_others_learn_nothing(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    for method, path in (
        ("GET", f"/artifacts/{world.artifact_id}"),
        ("GET", f"/artifacts/{world.artifact_id}/history"),
        ("POST", f"/artifacts/{world.artifact_id}/approve"),
        ("GET", f"/runs/{world.run_id}/artifacts"),
    ):
        await other.owner.refused(method, path, 404, "not_found")
    for method in ("PATCH", "PUT", "DELETE"):
        answer = await world.owner.send(method, f"/artifacts/{world.artifact_id}", json={"name": "B"})
        assert answer.status_code == 405
