"""Commands for several runs at once: an answer for each, one transaction for all."""

from typing import Any
from uuid import uuid4

import pytest
from litestar import Litestar

from experiment_domain.kernel.ids import TimeOrderedIds
from experiment_domain.usecases.runs import BULK_RUNS
from http_api import API, World, new_world

STATUS, TAGS = "/runs:batch-status", "/runs:bulk-tags"
BODIES: dict[str, dict[str, Any]] = {STATUS: {"status": "failed"}, TAGS: {"add_tags": ["x"]}}


async def some_runs(world: World, count: int, **values: Any) -> list[str]:
    """The ids of new runs, in draft."""
    path = f"/experiments/{world.experiment_id}/runs"
    made = [await world.editor.done("POST", path, {"name": f"R {n}", **values}, 201) for n in range(count)]
    return [run["id"] for run in made]


async def traces(world: World, run_id: str) -> tuple[int, list[str]]:
    """How many transitions of a run there are, and the commands about it, oldest first."""
    history = (await world.viewer.done("GET", f"/runs/{run_id}/history"))["items"]
    records = (await world.owner.done("GET", "/audit", params={"target": f"run/{run_id}", "limit": 500}))["items"]
    return len(history), [record["action"] for record in records][::-1]


@pytest.mark.covers("runs.set_statuses")
async def test_an_answer_for_each_in_their_order(drafts: World, app: Litestar, runner: object) -> None:
    other = await new_world(app, start=False)
    first, second, third = await some_runs(drafts, 3)
    await drafts.editor.done("POST", f"/runs/{third}/start")
    unknown = str(uuid4())
    ids = [third, unknown, first, other.run_id, drafts.run_id]
    answer = await drafts.editor.post(STATUS, {"run_ids": ids, "status": "finished", "reason": "over"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"items"}
    moved, *refused = answer.json()["items"]
    assert moved == {"run_id": third, "ok": True, "status": "finished", "tags": [], "version": 3}
    assert [outcome["run_id"] for outcome in refused] == ids[1:]
    for outcome, code in zip(refused, ["not_found", "invalid_transition"] * 2, strict=True):
        assert (set(outcome), outcome["ok"]) == ({"run_id", "ok", "error"}, False)
        assert set(outcome["error"]) == {"code", "detail"}
        assert outcome["error"]["code"] == code
        assert outcome["error"]["detail"]
    # What is refused alone is refused in the same words.
    alone = await drafts.editor.refused("POST", f"/runs/{first}/finish", 409, "invalid_transition")
    assert refused[1]["error"]["detail"] == alone["detail"]
    shown = await drafts.viewer.done("GET", f"/runs/{third}")
    assert (shown["status"], shown["version"]) == ("finished", 3)
    assert (await traces(drafts, third)) == (2, ["create", "start", "finish"])
    assert (await traces(drafts, first)) == (0, ["create"])
    (last,) = (await drafts.viewer.done("GET", f"/runs/{third}/history"))["items"][1:]
    assert (last["actor"], last["role"], last["reason"]) == (drafts.names["editor"], "editor", "over")
    assert (await traces(drafts, second)) == (0, ["create"])


@pytest.mark.covers("runs.set_statuses")
async def test_starting_starts_their_experiment(drafts: World, runner: object) -> None:
    ids = await some_runs(drafts, 3)
    answer = await drafts.editor.done("POST", STATUS, {"run_ids": ids, "status": "running"})
    assert [outcome["status"] for outcome in answer["items"]] == ["running"] * 3
    assert (await drafts.viewer.done("GET", f"/experiments/{drafts.experiment_id}"))["status"] == "running"
    history = (await drafts.viewer.done("GET", f"/experiments/{drafts.experiment_id}/history"))["items"]
    assert [(step["to"], step["reason"]) for step in history] == [("running", "its first run was started")]
    # Once more: nothing is refused, and nothing recorded.
    again = await drafts.editor.done("POST", STATUS, {"run_ids": ids, "status": "running"})
    assert again == answer
    assert [await traces(drafts, run_id) for run_id in ids] == [(1, ["create", "start"])] * 3


@pytest.mark.covers("runs.set_statuses")
async def test_all_or_nothing(drafts: World, app: Litestar, runner: object) -> None:
    other = await new_world(app)
    ids = await some_runs(drafts, 3)
    await drafts.editor.done("POST", STATUS, {"run_ids": ids, "status": "running"})
    wanted = [ids[0], drafts.run_id, ids[1], other.run_id, ids[2]]
    body = {"run_ids": wanted, "status": "failed", "atomic": True}
    problem = await drafts.editor.refused("POST", STATUS, 409, "not_all_possible", body)
    assert [(item["run_id"], item["code"]) for item in problem["items"]] == [
        (drafts.run_id, "invalid_transition"),
        (other.run_id, "not_found"),
    ]
    assert all(item["detail"] for item in problem["items"])
    assert [await traces(drafts, run_id) for run_id in ids] == [(1, ["create", "start"])] * 3
    body = {"run_ids": ids, "status": "failed", "atomic": True}
    answer = await drafts.editor.done("POST", STATUS, body)
    assert [(outcome["ok"], outcome["status"]) for outcome in answer["items"]] == [(True, "failed")] * 3
    # A refusal is not kept: the same key serves the request that succeeds.
    key: dict[str, Any] = {"headers": {"Idempotency-Key": f"k-{uuid4()}"}}
    body = {"run_ids": [*ids, drafts.run_id], "status": "archived", "atomic": True}
    await drafts.editor.refused("POST", STATUS, 409, "not_all_possible", body, **key)
    await drafts.owner.done("POST", STATUS, body, **key)
    assert (await drafts.viewer.done("GET", f"/runs/{ids[0]}"))["status"] == "archived"


@pytest.mark.covers("runs.set_statuses", "runs.tag")
async def test_a_repeated_request_has_no_second_effect(drafts: World, runner: object) -> None:
    ids = await some_runs(drafts, 3)
    for path, body in (
        (STATUS, {"run_ids": ids, "status": "running", "reason": "go"}),
        (TAGS, {"run_ids": ids, "add_tags": ["x"]}),
        # Not the same when it is done again: the key alone holds it back.
        (TAGS, {"run_ids": ids, "set_tags": ["y"]}),
    ):
        key = {"headers": {"Idempotency-Key": f"k-{uuid4()}"}}
        first = await drafts.editor.post(path, body, **key)
        if "set_tags" in body:
            await drafts.editor.done("POST", TAGS, {"run_ids": ids, "set_tags": ["z"]})
        before = [await traces(drafts, run_id) for run_id in ids]
        again = await drafts.editor.post(path, body, **key)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotency-replayed"] == "true"
        assert [await traces(drafts, run_id) for run_id in ids] == before
        await drafts.editor.refused("POST", path, 422, "idempotency_key_reused", {**body, "run_ids": ids[:2]}, **key)
    assert (await drafts.viewer.done("GET", f"/runs/{ids[0]}"))["tags"] == ["z"]


@pytest.mark.covers("runs.tag")
async def test_tags_are_added_removed_and_set(drafts: World, runner: object) -> None:
    odd = ["Größe", "漢字 🚀", "a b", "x'; DROP TABLE runs; --", "{}", '"', "\\", "null", "%s", "NULL", "a,b"]
    (first,) = await some_runs(drafts, 1, tags=["a", "b"])
    (second,) = await some_runs(drafts, 1, tags=["c"])
    (archived,) = await some_runs(drafts, 1, tags=["a"])
    await drafts.owner.done("POST", f"/runs/{archived}/archive")
    ids = [first, archived, second]

    async def tagged(**body: Any) -> list[Any]:
        answer = await drafts.editor.done("POST", TAGS, {"run_ids": ids, **body})
        for outcome in answer["items"]:
            shown = await drafts.viewer.done("GET", f"/runs/{outcome['run_id']}")
            assert not outcome["ok"] or {name: shown[name] for name in ("status", "tags", "version")} == {
                name: outcome[name] for name in ("status", "tags", "version")
            }
        return [outcome["tags"] if outcome["ok"] else outcome["error"]["code"] for outcome in answer["items"]]

    assert await tagged(add_tags=["b", "d"], remove_tags=["a", "nothing"]) == [["b", "d"], "archived", ["c", "b", "d"]]
    assert await tagged(set_tags=odd) == [odd, "archived", odd]
    assert await tagged(remove_tags=odd[1:], add_tags=[]) == [odd[:1], "archived", odd[:1]]
    assert await tagged(set_tags=[]) == [[], "archived", []]
    assert await tagged(set_tags=["x", "x"]) == [["x"], "archived", ["x"]]
    assert await tagged(add_tags=["x"]) == [["x"], "archived", ["x"]]
    # The last one changed nothing, and is recorded nowhere.
    assert await traces(drafts, first) == (0, ["create", *["tag"] * 5])
    found = (await drafts.viewer.done("GET", "/runs", params={"project_id": drafts.project_id, "tag": "x"}))["items"]
    assert {run["id"] for run in found} == {first, second}
    full = [f"t{number}" for number in range(100)]
    assert await tagged(set_tags=full) == [full, "archived", full]
    assert await tagged(add_tags=["one more"]) == ["invalid", "archived", "invalid"]
    assert await tagged(add_tags=["one more"], remove_tags=["t0"]) == [
        [*full[1:], "one more"],
        "archived",
        [*full[1:], "one more"],
    ]


ANY = "01957989-14c8-7bb2-8f0d-6a0c1d7e4f52"
BAD: list[tuple[str, dict[str, Any], int, str | None]] = [
    *((path, {**body, "run_ids": ids}, 422, where) for path, body in BODIES.items() for ids, where in (
        ([], "run_ids"),
        (None, "run_ids"),
        ("all", "run_ids"),
        ({}, "run_ids"),
        ([None], "run_ids[0]"),
        ([ANY, 7], "run_ids[1]"),
        ([ANY, "run"], "run_ids[1]"),
        ([ANY, ""], "run_ids[1]"),
        ([ANY, [ANY]], "run_ids[1]"),
        ([ANY, ANY], "run_ids[1]"),
        ([ANY, ANY.upper()], "run_ids[1]"),
        ([ANY, ANY.replace("-", "")], "run_ids[1]"),
    )),
    *((path, body, 422, None) for path, body in BODIES.items()),
    *((path, {**body, "run_ids": [ANY], "unknown": 1}, 422, None) for path, body in BODIES.items()),
    (STATUS, {"run_ids": [ANY]}, 422, None),
    *((STATUS, {"run_ids": [ANY], "status": status}, 422, "status")
      for status in ("", "Running", "succeeded", "deleted", None, 1, ["running"])),
    (STATUS, {"run_ids": [ANY], "status": "failed", "atomic": None}, 422, "atomic"),
    (STATUS, {"run_ids": [ANY], "status": "failed", "atomic": "yes"}, 422, "atomic"),
    (STATUS, {"run_ids": [ANY], "status": "failed", "atomic": 1}, 422, "atomic"),
    (STATUS, {"run_ids": [ANY], "status": "failed", "reason": "x" * 1_001}, 422, "reason"),
    (STATUS, {"run_ids": [ANY], "status": "failed", "reason": 7}, 422, "reason"),
    (TAGS, {"run_ids": [ANY]}, 422, None),
    (TAGS, {"run_ids": [ANY], "add_tags": None}, 422, "add_tags"),
    (TAGS, {"run_ids": [ANY], "add_tags": "x"}, 422, "add_tags"),
    (TAGS, {"run_ids": [ANY], "add_tags": [7]}, 422, "add_tags[0]"),
    (TAGS, {"run_ids": [ANY], "add_tags": ["x", ""]}, 422, "add_tags[1]"),
    (TAGS, {"run_ids": [ANY], "add_tags": ["x", "y "]}, 422, "add_tags[1]"),
    (TAGS, {"run_ids": [ANY], "add_tags": ["a\nb"]}, 422, "add_tags[0]"),
    (TAGS, {"run_ids": [ANY], "set_tags": ["a\u0000"]}, 422, "set_tags[0]"),
    (TAGS, {"run_ids": [ANY], "remove_tags": ["x" * 101]}, 422, "remove_tags[0]"),
    (TAGS, {"run_ids": [ANY], "add_tags": [f"t{n}" for n in range(101)]}, 422, "add_tags"),
    (TAGS, {"run_ids": [ANY], "add_tags": ["x"], "remove_tags": ["y", "x"]}, 422, "remove_tags[1]"),
    (TAGS, {"run_ids": [ANY], "add_tags": ["x"], "set_tags": ["y"]}, 422, "set_tags"),
    (TAGS, {"run_ids": [ANY], "remove_tags": [], "set_tags": []}, 422, "set_tags"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "where"), BAD)
async def test_what_makes_no_sense_is_refused_as_a_whole(
    drafts: World, runner: object, path: str, body: dict[str, Any], status: int, where: str | None
) -> None:
    ids = body.get("run_ids")
    if isinstance(ids, list) and ids and ids[0] == ANY:
        # A good one among them is left alone as well.
        body = {**body, "run_ids": [drafts.run_id, *ids]}
        if where is not None and where.startswith("run_ids["):
            where = f"run_ids[{int(where[8:-1]) + 1}]"
    problem = await drafts.editor.refused("POST", path, status, "invalid", body)
    if where is not None:
        assert [error["path"] for error in problem["errors"]] == [where]
    assert (await drafts.viewer.done("GET", f"/runs/{drafts.run_id}"))["version"] == 1


@pytest.mark.parametrize("path", [STATUS, TAGS])
async def test_how_many_is_bounded(drafts: World, runner: object, path: str) -> None:
    ids = [str(TimeOrderedIds().new()) for _ in range(BULK_RUNS + 1)]
    problem = await drafts.editor.refused("POST", path, 422, "invalid", {**BODIES[path], "run_ids": ids})
    assert [error["path"] for error in problem["errors"]] == ["run_ids"]
    answer = await drafts.editor.done("POST", path, {**BODIES[path], "run_ids": ids[:-1]})
    assert [outcome["error"]["code"] for outcome in answer["items"]] == ["not_found"] * BULK_RUNS
    assert [outcome["run_id"] for outcome in answer["items"]] == ids[:-1]


@pytest.mark.parametrize("path", [STATUS, TAGS])
async def test_a_body_is_needed(drafts: World, runner: object, path: str) -> None:
    await drafts.editor.refused("POST", path, 400, "body_required")
    await drafts.editor.refused(
        "POST", path, 400, "malformed_body", content=b"{", headers={"Content-Type": "application/json"}
    )
    answer = await drafts.editor.get(path)
    assert answer.status_code == 405


@pytest.mark.covers("runs.set_statuses")
async def test_archiving_takes_the_sessions_along_and_an_active_one_stands_against_it(
    world: World, runner: object
) -> None:
    (other,) = await some_runs(world, 1)
    session = await world.editor.done("POST", f"/runs/{other}/capture-sessions", {}, 201)
    body = {"run_ids": [world.run_id, other], "status": "archived", "reason": "the rig is gone"}
    first, second = (await world.owner.done("POST", STATUS, body))["items"]
    assert (first["error"]["code"], second["status"]) == ("active_capture_sessions", "archived")
    assert (await world.viewer.done("GET", f"/capture-sessions/{session['id']}"))["status"] == "archived"
    last = (await world.viewer.done("GET", f"/capture-sessions/{session['id']}/history"))["items"][-1]
    assert (last["to"], last["reason"], last["role"]) == ("archived", "the rig is gone", "owner")
    events = (await world.viewer.done("GET", f"/capture-sessions/{session['id']}/events"))["items"]
    assert [event["type"] for event in events] == ["capture.created", "capture.archived"]
    assert (await world.viewer.done("GET", f"/capture-sessions/{world.session_id}"))["status"] == "running"
    assert (await world.viewer.done("GET", f"/runs/{world.run_id}"))["status"] == "running"


async def test_draft_is_no_status_to_come_back_to(world: World, runner: object) -> None:
    (draft,) = await some_runs(world, 1)
    answer = await world.editor.done("POST", STATUS, {"run_ids": [world.run_id, draft], "status": "draft"})
    assert [outcome.get("status") or outcome["error"]["code"] for outcome in answer["items"]] == [
        "invalid_transition",
        "draft",
    ]
    assert (await traces(world, draft)) == (0, ["create"])


def test_the_paths_are_as_they_are_documented(app: Litestar) -> None:
    assert {f"{API}{path}" for path in BODIES} <= {route.path for route in app.routes}
