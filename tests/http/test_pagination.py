"""Pages: whole, in order, stable while rows are added; cursors that were not handed out lead nowhere."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from litestar import Litestar

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_http.pagination import Cursors
from http_api import Client as Caller
from http_api import World, app_over, token_of


async def pages(client: Caller, path: str, limit: int, **query: Any) -> list[list[Any]]:
    """All pages of a list."""
    found: list[list[Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.done("GET", path, params={**query, "limit": limit, **cursor})
        assert set(answer) == {"items", "next_cursor"}
        found.append(answer["items"])
        if answer["next_cursor"] is None:
            return found
        cursor = {"cursor": answer["next_cursor"]}


async def many_runs(world: World, names: list[str]) -> list[str]:
    """More runs, and their ids."""
    path = f"/experiments/{world.experiment_id}/runs"
    return [(await world.editor.done("POST", path, {"name": name}))["id"] for name in names]


async def test_every_list_comes_in_pages(drafts: World, runner: object) -> None:
    paths = {
        "/projects": ("/projects", {"name": "P"}),
        "/experiments": ("/experiments", {"project_id": drafts.project_id, "name": "E"}),
        f"/experiments/{drafts.experiment_id}/runs": (f"/experiments/{drafts.experiment_id}/runs", {"name": "R"}),
        "/runs": (f"/experiments/{drafts.experiment_id}/runs", {"name": "R"}),
        f"/runs/{drafts.run_id}/capture-sessions": (f"/runs/{drafts.run_id}/capture-sessions", {}),
        "/sensors": (
            "/sensors",
            {
                "project_id": drafts.project_id,
                "name": "S",
                "sensor_type": "t",
                "input_unit": "V",
                "display_unit": "V",
            },
        ),
        f"/sensors/{drafts.sensor_id}/conversion-profiles": (
            f"/sensors/{drafts.sensor_id}/conversion-profiles",
            {"kind": "identity", "parameters": {}},
        ),
    }
    for path, (where, body) in paths.items():
        made = [(await drafts.owner.done("POST", where, body))["id"] for _ in range(4)]
        found = await pages(drafts.owner, path, 2)
        assert all(len(page) == 2 for page in found[:-1])
        ids = [item["id"] for page in found for item in page]
        assert ids[:4] == made[::-1], path
        assert len(ids) == len(set(ids))
        assert ids == [item["id"] for item in (await drafts.owner.done("GET", path))["items"]]


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "name", "-name", "started_at", "-started_at"])
async def test_sorted_pages(drafts: World, runner: object, sort: str) -> None:
    ids = await many_runs(drafts, ["b", "a", "ä", "B", "a", "Z"])
    for run_id in (ids[3], ids[1]):
        await drafts.editor.done("POST", f"/runs/{run_id}/start")
    path = f"/experiments/{drafts.experiment_id}/runs"
    found = [item for page in await pages(drafts.viewer, path, 2, sort=sort) for item in page]
    assert len({item["id"] for item in found}) == 7
    values = [item[sort.removeprefix("-")] for item in found]
    present = [value for value in values if value is not None]
    assert values == present + [None] * (7 - len(present))  # absent ones last, in either direction
    if not sort.endswith("name"):
        assert present == sorted(present, reverse=sort.startswith("-"))
    opposite = sort.removeprefix("-") if sort.startswith("-") else f"-{sort}"
    back = [item for page in await pages(drafts.viewer, path, 3, sort=opposite) for item in page]
    assert {item["id"] for item in back} == {item["id"] for item in found}


async def test_pages_are_stable_while_rows_are_added(drafts: World, runner: object) -> None:
    before = await many_runs(drafts, list("abcdef"))
    path = f"/experiments/{drafts.experiment_id}/runs"
    first = await drafts.viewer.done("GET", path, params={"limit": 3})
    await many_runs(drafts, list("xyz"))
    # Another limit is no other query.
    rest = await drafts.viewer.done("GET", path, params={"limit": 100, "cursor": first["next_cursor"]})
    ids = [item["id"] for item in [*first["items"], *rest["items"]]]
    assert ids == [*before[::-1], drafts.run_id]
    assert rest["next_cursor"] is None


async def test_foreign_and_forged_cursors_are_refused(drafts: World, runner: object) -> None:
    await many_runs(drafts, list("abcdef"))
    path = f"/experiments/{drafts.experiment_id}/runs"
    cursor = (await drafts.viewer.done("GET", path, params={"limit": 2}))["next_cursor"]
    sealed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    forged = [
        "a",
        "AAAA",
        "%%%",
        "ä",
        cursor[:-3],
        cursor + "AAAA",
        cursor + "==",
        f"!{cursor}",
        f"{cursor}\n",
        urlsafe_b64encode(bytes(16) + sealed[16:]).decode(),
        urlsafe_b64encode(sealed[:16]).decode(),
        urlsafe_b64encode(sealed[:-1] + bytes([sealed[-1] ^ 1])).decode(),
        Cursors(b"another secret" * 3).write(["2026", b"0" * 16], b""),
    ]
    for wrong in forged:
        await drafts.viewer.refused("GET", path, 400, "invalid_cursor", params={"cursor": wrong})
    for other in (("/runs", {}), (path, {"sort": "name"}), (path, {"status": "draft"}), ("/experiments", {})):
        await drafts.viewer.refused("GET", other[0], 400, "invalid_cursor", params={**other[1], "cursor": cursor})
    await drafts.viewer.refused("GET", path, 422, "invalid", params={"cursor": ""})
    await drafts.viewer.refused("GET", path, 422, "invalid", params={"cursor": "a" * 2001})
    # A caller who may not read the list is not let in by a cursor.
    await drafts.outsider.refused("GET", path, 404, "not_found", params={"cursor": cursor})


@pytest.mark.parametrize("limit", ["0", "501", "-1", "1.5", "x", "", "1e2", "99999999999999999999", "٣", " 1"])
async def test_limits_are_bounded(drafts: World, runner: object, limit: str) -> None:
    problem = await drafts.viewer.refused("GET", "/runs", 422, "invalid", params={"limit": limit})
    assert problem["errors"][0]["path"] == "limit"
    for fine in (1, 500):
        await drafts.viewer.done("GET", "/runs", params={"limit": fine})


async def test_a_page_has_fifty_entries_unless_asked(runner: object) -> None:
    client = Caller(app_over(MemoryUnitsOfWork()), token_of("ada"))
    for _ in range(51):
        await client.done("POST", "/projects", {"name": "P"})
    assert [len(page) for page in await pages(client, "/projects", 500)] == [51]
    assert len((await client.done("GET", "/projects"))["items"]) == 50


def test_cursors_hold_for_every_process_with_the_secret(app: Litestar) -> None:
    one, other = Cursors(b"s" * 32), Cursors(b"s" * 32)
    assert other.read(one.write([1, b"x"], b"query"), b"query") == [1, b"x"]
