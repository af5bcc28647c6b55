"""Idempotency keys: one effect, the first answer again, and nothing for anybody else."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from litestar import Litestar
from litestar.exceptions import LitestarException

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain import Services
from experiment_domain.idempotency import IdempotencyKey
from experiment_domain.kernel.access import System
from experiment_domain.unit_of_work import UnitsOfWork
from http_api import Client, World, app_over, new_world, token_of


class MovedClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        """The present, and what was added."""
        return datetime.now(UTC) + self.ahead


def key(value: str) -> dict[str, Any]:
    """The header with a key."""
    return {"headers": {"Idempotency-Key": value}}


def whole(answer: Any) -> tuple[Any, ...]:
    """What must be the same in an answer that is given again."""
    names = ("etag", "location", "content-type", "cache-control")
    return answer.status_code, answer.content, {name: answer.headers.get(name) for name in names}


async def test_the_first_answer_again(drafts: World, runner: object) -> None:
    path = f"/experiments/{drafts.experiment_id}/runs"
    first = await drafts.editor.post(path, {"name": "R"}, **key("k-1"))
    again = await drafts.editor.post(path, {"name": "R"}, **key("k-1"))
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert whole(again) == whole(first)
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert len((await drafts.viewer.done("GET", path))["items"]) == 2


async def test_a_token_that_is_shown_once_is_shown_to_a_retry(drafts: World, runner: object) -> None:
    path = f"/sensors/{drafts.sensor_id}/rotate-token"
    first = await drafts.owner.post(path, **key("rotate"))
    again = await drafts.owner.post(path, **key("rotate"))
    assert first.json()["token"] == again.json()["token"]
    assert first.headers["cache-control"] == "no-store"
    assert (await drafts.sensor.post(f"/sensors/{drafts.sensor_id}/heartbeat")).status_code == 401
    await Client(drafts.app, first.json()["token"]).done("POST", f"/sensors/{drafts.sensor_id}/heartbeat")


async def test_what_is_kept_cannot_be_read_without_the_secret(
    drafts: World, units_of_work: UnitsOfWork, runner: object
) -> None:
    shown = await drafts.owner.post(f"/sensors/{drafts.sensor_id}/rotate-token", **key("sealed"))
    async with units_of_work.begin(System()) as uow:
        kept = await uow.idempotency.claim(
            IdempotencyKey(principal=f"user:{drafts.names['owner']}", key="sealed"), datetime.now(UTC)
        )
    assert kept is not None
    assert shown.json()["token"].encode() not in kept.content
    assert drafts.sensor_id.encode() not in kept.content
    other = app_over(units_of_work)
    from experiment_http.settings import HttpSettings

    assert "secret" not in repr(HttpSettings(secret_key=b"the secret of the settings" * 2)).replace("secret_key", "")
    again = await Client(other, drafts.owner.token).post(f"/sensors/{drafts.sensor_id}/rotate-token", **key("sealed"))
    assert whole(again) == whole(shown)


async def test_another_request_with_the_key_is_refused(drafts: World, runner: object) -> None:
    path = f"/experiments/{drafts.experiment_id}/runs"
    await drafts.editor.done("POST", path, {"name": "R"}, **key("k"))
    code = "idempotency_key_reused"
    await drafts.editor.refused("POST", path, 422, code, {"name": "S"}, **key("k"))
    await drafts.editor.refused("POST", path, 422, code, content=b'{"name": "R" }', **_json("k"))
    project = {"project_id": drafts.project_id, "name": "R"}
    await drafts.editor.refused("POST", "/experiments", 422, code, project, **key("k"))
    # The place of the colon in the body's type does not make another request.
    answer = await drafts.editor.send("POST", path, content=b'{"name":"R"}', **_json("k", "; charset=utf-8"))
    assert answer.headers["idempotency-replayed"] == "true"


def _json(value: str, more: str = "") -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": value, "Content-Type": "application/json" + more}}


async def test_the_key_of_another_is_no_key(drafts: World, runner: object) -> None:
    path = f"/experiments/{drafts.experiment_id}/runs"
    first = await drafts.editor.post(path, {"name": "R"}, **key("shared"))
    other = await drafts.owner.post(path, {"name": "R"}, **key("shared"))
    assert other.status_code == 201
    assert "idempotency-replayed" not in other.headers
    assert other.json()["id"] != first.json()["id"]
    await drafts.viewer.refused("POST", path, 403, "forbidden", {"name": "R"}, **key("shared"))
    await drafts.outsider.refused("POST", path, 404, "not_found", {"name": "R"}, **key("shared"))
    await drafts.anonymous.refused("POST", path, 401, "unauthenticated", {"name": "R"}, **key("shared"))


async def test_refusals_are_not_remembered(drafts: World, runner: object) -> None:
    path = f"/runs/{drafts.run_id}/finish"
    await drafts.editor.refused("POST", path, 409, "invalid_transition", **key("later"))
    await drafts.editor.done("POST", f"/runs/{drafts.run_id}/start")
    answer = await drafts.editor.post(path, **key("later"))
    assert answer.status_code == 200
    assert "idempotency-replayed" not in answer.headers


async def test_a_role_that_was_taken_away_still_gets_its_answer(drafts: World, runner: object) -> None:
    path = f"/experiments/{drafts.experiment_id}/runs"
    first = await drafts.editor.post(path, {"name": "R"}, **key("mine"))
    await drafts.owner.done("DELETE", f"/projects/{drafts.project_id}/members/{drafts.names['editor']}")
    again = await drafts.editor.post(path, {"name": "R"}, **key("mine"))
    assert whole(again) == whole(first)
    await drafts.editor.refused("POST", path, 404, "not_found", {"name": "R"}, **key("new"))


async def test_a_rotated_sensor_gets_nothing_again(world: World, runner: object) -> None:
    batch = {"readings": [{"timestamp": 1_700_000_000_000_000, "value": 1.0}]}
    first = await world.sensor.post("/telemetry", batch, **key("batch"))
    again = await world.sensor.post("/telemetry", batch, **key("batch"))
    assert whole(first) == whole(again)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["duplicate"] is False
    await world.owner.done("POST", f"/sensors/{world.sensor_id}/rotate-token")
    await world.sensor.refused("POST", "/telemetry", 401, "unauthenticated", batch, **key("batch"))


@pytest.mark.parametrize("value", ["", " ", "a b", "ä", "x" * 256, "a\tb", "\x7f"])
async def test_a_key_is_visible_ascii(drafts: World, runner: object, value: str) -> None:
    headers = {b"Idempotency-Key": value.encode()}
    await drafts.editor.refused("POST", "/projects", 400, "malformed_header", {"name": "P"}, headers=headers)


async def test_a_key_has_up_to_255_characters(drafts: World, runner: object) -> None:
    value = "!~" + "x" * 253
    first = await drafts.editor.post("/projects", {"name": "P"}, **key(value))
    again = await drafts.editor.post("/projects", {"name": "P"}, **key(value))
    assert whole(first) == whole(again)


async def test_200_callers_with_one_key_have_one_effect(app: Litestar, runner: object) -> None:
    drafts = await new_world(app, start=False)
    path = f"/experiments/{drafts.experiment_id}/runs"
    answers = await asyncio.gather(*(drafts.editor.post(path, {"name": "R"}, **key("all-at-once")) for _ in range(200)))
    made = [answer for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len({answer.json()["id"] for answer in made}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in made) == 1
    assert {answer.json()["code"] for answer in refused} <= {"idempotency_key_in_progress"}
    assert {answer.status_code for answer in refused} <= {409}
    assert len((await drafts.viewer.done("GET", path))["items"]) == 2
    again = await drafts.editor.post(path, {"name": "R"}, **key("all-at-once"))
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_crash_after_the_commit_is_answered_as_if_there_had_been_none(
    drafts: World, units_of_work: UnitsOfWork, runner: object
) -> None:
    """The process dies between commit and answer; another one takes the retry."""
    path = f"/experiments/{drafts.experiment_id}/runs"
    dying = Client(_Dying(drafts.app), drafts.editor.token)  # pyright: ignore[reportArgumentType]
    with pytest.raises(LitestarException):
        await dying.post(path, {"name": "R"}, **key("crash"))
    items = (await drafts.viewer.done("GET", path))["items"]
    assert len(items) == 2
    retry = await Client(app_over(units_of_work), drafts.editor.token).post(path, {"name": "R"}, **key("crash"))
    assert retry.headers["idempotency-replayed"] == "true"
    assert retry.json() == items[0]


class _Dying:
    def __init__(self, app: Litestar) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def broken(message: Any) -> None:
            raise ConnectionResetError

        await self._app(scope, receive, broken)


async def test_a_crash_before_the_commit_leaves_nothing(runner: object) -> None:
    units = MemoryUnitsOfWork()
    services = Services(units_of_work=units)
    client = Client(app_over(units, services=services), token_of("ada"), checked=False)
    begin = units.begin

    def failing(principal: Any, *, read_only: bool = False) -> Any:
        return _FailingCommit(begin(principal, read_only=read_only))

    units.begin = failing  # pyright: ignore[reportAttributeAccessIssue]
    answer = await client.post("/projects", {"name": "P"}, **key("k"))
    assert answer.status_code == 500
    units.begin = begin
    assert (await client.done("GET", "/projects"))["items"] == []
    answer = await client.post("/projects", {"name": "P"}, **key("k"))
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers


class _FailingCommit:
    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> Any:
        uow = await self._context.__aenter__()

        async def commit() -> None:
            raise ConnectionError

        uow.commit = commit
        return uow

    async def __aexit__(self, *error: object) -> Any:
        return await self._context.__aexit__(*error)


async def test_answers_are_kept_for_a_day(units_of_work: UnitsOfWork, runner: object) -> None:
    clock = MovedClock()
    services = Services(units_of_work=units_of_work, clock=clock)
    user = f"ada-{datetime.now(UTC).timestamp()}"
    client = Client(app_over(units_of_work, services=services), token_of(user))
    first = await client.post("/projects", {"name": "P"}, **key("day"))
    clock.ahead = timedelta(hours=23, minutes=59)
    again = await client.post("/projects", {"name": "P"}, **key("day"))
    assert whole(again) == whole(first)
    clock.ahead = timedelta(hours=24, minutes=1)
    later = await client.post("/projects", {"name": "P"}, **key("day"))
    assert later.json()["id"] != first.json()["id"]
    assert "idempotency-replayed" not in later.headers


async def test_an_answer_sealed_with_another_secret_has_no_second_effect(runner: object) -> None:
    units = MemoryUnitsOfWork()
    await Client(app_over(units), token_of("ada")).done("POST", "/projects", {"name": "P"}, **key("k"))
    import http_api
    from experiment_adapters.auth.jwt import JwtSettings, JwtVerifier
    from experiment_adapters.auth.keys import VerificationKey
    from experiment_adapters.auth.tokens import BearerTokens
    from experiment_http.app import create_app
    from experiment_http.settings import HttpSettings

    keys = (VerificationKey(algorithm="HS256", key=http_api.SECRET),)
    verifier = JwtVerifier(JwtSettings(issuer=http_api.ISSUER, audience=http_api.AUDIENCE, keys=keys))
    services = Services(units_of_work=units)
    other = create_app(services, BearerTokens(verifier), HttpSettings(secret_key=b"another" * 8), {})
    client = Client(other, token_of("ada"))
    await client.refused("POST", "/projects", 409, "answer_unreadable", {"name": "P"}, **key("k"))
    assert len((await client.done("GET", "/projects"))["items"]) == 1
