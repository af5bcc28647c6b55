"""Entity tags: two writers never overwrite each other silently, and nothing is sent twice for nothing."""

import asyncio

import pytest

from http_api import World, refusal


async def test_reads_and_writes_carry_the_version(drafts: World, runner: object) -> None:
    path = f"/runs/{drafts.run_id}"
    for method, more in (("GET", {}), ("PATCH", {"json": {"notes": "a"}}), ("POST", {})):
        answer = await drafts.editor.send(method, path + ("/start" if method == "POST" else ""), **more)
        assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
    created = await drafts.editor.post(f"/experiments/{drafts.experiment_id}/runs", {"name": "R"})
    assert created.headers["etag"] == '"1"'
    assert created.headers["location"] == f"/api/v1/runs/{created.json()['id']}"
    assert (await drafts.viewer.get("//" + created.headers["location"][1:])).json() == created.json()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ('"1"', 200),
        ("*", 200),
        (' "1" ', 200),
        ('"7", "1"', 200),
        ('W/"1"', 412),
        ('"2"', 412),
        ('"7", "8"', 412),
        ('"01"', 412),
        ('"abc"', 412),
        ('""', 412),
        ('"' + "9" * 40 + '"', 412),
        ('W/"1", "2"', 412),
    ],
)
async def test_if_match(drafts: World, runner: object, header: str, status: int) -> None:
    answer = await drafts.editor.patch(f"/runs/{drafts.run_id}", {"notes": "b"}, headers={"If-Match": header})
    assert answer.status_code == status
    if status == 412:
        problem = refusal(answer, 412, "version_mismatch")
        assert problem["current"] == 1
        assert (await drafts.viewer.done("GET", f"/runs/{drafts.run_id}"))["notes"] is None


@pytest.mark.parametrize("header", ["1", "", ",", '"1', '1"', '"1" "2"', '"1",', "w/1", '"a\nb"', '*, "1"'])
async def test_a_malformed_condition_is_refused(drafts: World, runner: object, header: str) -> None:
    more = {"headers": {b"If-Match": header.encode()}}
    await drafts.editor.refused("PATCH", f"/runs/{drafts.run_id}", 400, "malformed_header", {"notes": "b"}, **more)
    await drafts.owner.refused("DELETE", f"/runs/{drafts.run_id}", 400, "malformed_header", **more)
    await drafts.editor.refused("POST", f"/runs/{drafts.run_id}/start", 400, "malformed_header", **more)
    more = {"headers": {b"If-None-Match": header.encode()}}
    await drafts.viewer.refused("GET", f"/runs/{drafts.run_id}", 400, "malformed_header", **more)


async def test_every_conditional_operation_refuses_a_stale_version(drafts: World, runner: object) -> None:
    await drafts.editor.done("PATCH", f"/experiments/{drafts.experiment_id}", {"description": "newer"})
    stale = {"headers": {"If-Match": '"99"'}}
    bodies = {"/stop": {"outcome": "failed"}}
    things = {
        f"/experiments/{drafts.experiment_id}": ("/start", "/finish", "/fail", "/archive"),
        f"/runs/{drafts.run_id}": ("/start", "/finish", "/fail", "/archive"),
        f"/capture-sessions/{drafts.session_id}": ("/start", "/stop", "/archive", "/restore"),
        f"/sensors/{drafts.sensor_id}": ("/activate", "/deactivate", "/retire", "/rotate-token"),
        f"/conversion-profiles/{drafts.profile_id}": ("/publish", "/retire"),
    }
    for path, verbs in things.items():
        for verb in verbs:
            await drafts.owner.refused("POST", path + verb, 412, "version_mismatch", bodies.get(verb), **stale)
        if "sessions" not in path:
            await drafts.owner.refused("PATCH", path, 412, "version_mismatch", {}, **stale)
        if "profiles" not in path:
            await drafts.owner.refused("DELETE", path, 412, "version_mismatch", **stale)


@pytest.mark.covers("experiments.edit")
async def test_of_two_writers_one_is_told(drafts: World, runner: object) -> None:
    path = f"/experiments/{drafts.experiment_id}"
    headers = {"If-Match": '"1"'}
    answers = await asyncio.gather(
        *(drafts.editor.patch(path, {"description": f"by {n}"}, headers=headers) for n in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]
    (won,) = (answer.json() for answer in answers if answer.status_code == 200)
    assert await drafts.viewer.done("GET", path) == won
    assert won["version"] == 2


async def test_what_changes_nothing_keeps_the_version(drafts: World, runner: object) -> None:
    before = await drafts.editor.done("PATCH", f"/runs/{drafts.run_id}", {"notes": "same"})
    assert await drafts.editor.done("PATCH", f"/runs/{drafts.run_id}", {"notes": "same"}) == before
    assert await drafts.editor.done("PATCH", f"/runs/{drafts.run_id}", {}) == before


@pytest.mark.parametrize("header", ['"1"', 'W/"1"', "*", '"5", W/"1"'])
async def test_what_the_caller_has_is_not_sent_again(drafts: World, runner: object, header: str) -> None:
    answer = await drafts.viewer.get(f"/runs/{drafts.run_id}", headers={"If-None-Match": header})
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == '"1"'
    assert (await drafts.outsider.get(f"/runs/{drafts.run_id}", headers={"If-None-Match": header})).status_code == 404
    answer = await drafts.viewer.get(f"/runs/{drafts.run_id}", headers={"If-None-Match": '"2"'})
    assert answer.status_code == 200
