"""Projects and their members."""

from typing import Any

import pytest
from litestar import Litestar

from http_api import Client, World, token_of


@pytest.mark.covers("projects.create")
async def test_a_project_is_made_and_owned_by_its_creator(app: Litestar, runner: object) -> None:
    ada = Client(app, token_of("ada"))
    project = await ada.done("POST", "/projects", {"name": "Rig 4"}, 201)
    assert project == {
        "id": project["id"],
        "version": 1,
        "created_at": project["created_at"],
        "updated_at": project["created_at"],
        "created_by": "ada",
        "name": "Rig 4",
        "raw_readers": ["editor", "owner"],
        "physical_only": False,
        "auto_close_after": None,
        "future_tolerance": 300.0,
    }
    assert await ada.done("GET", f"/projects/{project['id']}") == project
    (member,) = (await ada.done("GET", f"/projects/{project['id']}/members"))["items"]
    assert (member["user_id"], member["role"]) == ("ada", "owner")
    assert project["id"] in [item["id"] for item in (await ada.done("GET", "/projects"))["items"]]


@pytest.mark.covers("projects.edit")
async def test_a_project_is_edited(world: World, runner: object) -> None:
    path = f"/projects/{world.project_id}"
    edited = await world.owner.done(
        "PATCH",
        path,
        {"name": "New", "raw_readers": [], "physical_only": True, "auto_close_after": 60, "future_tolerance": 1},
    )
    assert edited["version"] == 2
    assert (edited["raw_readers"], edited["physical_only"], edited["auto_close_after"]) == ([], True, 60.0)
    edited = await world.owner.done("PATCH", path, {"auto_close_after": None})
    assert (edited["auto_close_after"], edited["name"]) == (None, "New")


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": " a"},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"raw_readers": ["sensor"]},
        {"raw_readers": "owner"},
        {"physical_only": None},
        {"physical_only": 1},
        {"auto_close_after": 0},
        {"auto_close_after": 366 * 86_400 + 1},
        {"future_tolerance": None},
        {"future_tolerance": 86_401},
        {"id": "x"},
        {"version": 3},
        {"created_by": "me"},
    ],
)
async def test_edits_that_break_a_rule(world: World, runner: object, body: dict[str, Any]) -> None:
    problem = await world.owner.refused("PATCH", f"/projects/{world.project_id}", 422, "invalid", body)
    assert problem["errors"][0]["path"].startswith(next(iter(body)))


@pytest.mark.covers("projects.put_member", "projects.remove_member")
async def test_members(world: World, runner: object) -> None:
    path = f"/projects/{world.project_id}/members"
    listed = (await world.viewer.done("GET", path))["items"]
    names = sorted(world.names[role] for role in ("owner", "editor", "viewer"))
    assert [member["user_id"] for member in listed] == names
    for user_id in ("ada@example.org", "auth0|5f7c", "Ümläut", "a b"):
        added = await world.owner.done("PUT", f"{path}/{user_id}", {"role": "viewer"})
        assert (added["user_id"], added["role"]) == (user_id, "viewer")
        changed = await world.owner.done("PUT", f"{path}/{user_id}", {"role": "owner"})
        assert changed == {**added, "role": "owner"}
        assert await Client(world.app, token_of(user_id)).done("GET", path)
        await world.owner.done("DELETE", f"{path}/{user_id}")
        await Client(world.app, token_of(user_id)).refused("GET", path, 404, "not_found")
        await world.owner.refused("DELETE", f"{path}/{user_id}", 404, "not_found")


async def test_a_project_keeps_an_owner(world: World, runner: object) -> None:
    path = f"/projects/{world.project_id}/members"
    for method, body in (("DELETE", None), ("PUT", {"role": "editor"})):
        await world.owner.refused(method, f"{path}/{world.names['owner']}", 409, "last_owner", body)
    await world.owner.done("PUT", f"{path}/{world.names['editor']}", {"role": "owner"})
    await world.owner.done("PUT", f"{path}/{world.names['owner']}", {"role": "viewer"})
    await world.owner.refused("PUT", f"{path}/{world.names['viewer']}", 403, "forbidden", {"role": "owner"})
