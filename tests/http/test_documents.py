"""The OpenAPI document: complete, true to the routes, its examples accepted; and the page, which needs nothing else."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from litestar import Litestar

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain.kernel.access import Permission
from experiment_http.operations import Operation
from experiment_http.v1 import operations
from http_api import API, Client, World, app_over, document, documented

PERMISSIONS = {permission.name.lower() for permission in Permission}
ALL = [pytest.param(method, path, found, id=found["operationId"]) for method, path, found in documented()]


def _media(part: Any) -> list[tuple[str, Any]]:
    return list(part.get("content", {}).items())


def _validator(schema: Any) -> Any:
    return jsonschema_rs.Draft202012Validator({**schema, "components": document()["components"]}, validate_formats=True)


async def test_it_is_served_and_says_what_it_is(app: Litestar, runner: object) -> None:
    answer = await Client(app, None).get("//schema/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document()
    assert document()["openapi"].startswith("3.1")
    ids = [operation["operationId"] for _, _, operation in documented()]
    assert len(ids) == len(set(ids))


def test_every_route_is_in_it(app: Litestar) -> None:
    routed = {
        (method, re.sub(r":[a-z]+\}", "}", route.path))
        for route in app.routes
        for method in route.methods  # pyright: ignore[reportAttributeAccessIssue]
        if method != "OPTIONS"
    }
    assert routed == {(method, path) for method, path, _ in documented()}


def test_an_undeclared_permission_is_refused() -> None:
    async def use_case() -> None: ...

    from experiment_http.answers import Nothing
    from experiment_http.operations import Operations

    with pytest.raises(TypeError, match="permission"):
        Operations("things", "").get("/things", use_case, Nothing())


def test_a_route_that_is_neither_guarded_nor_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from litestar import get

    from experiment_http import health

    @get("/leak")
    async def leak() -> None: ...

    monkeypatch.setattr(health, "routes", lambda *_: [leak])
    with pytest.raises(TypeError, match="open"):
        app_over(MemoryUnitsOfWork())


@pytest.mark.parametrize(("method", "path", "operation"), ALL)
def test_operations_are_described(method: str, path: str, operation: Any) -> None:
    assert operation["summary"]
    assert not operation["summary"].endswith(".")
    assert operation["tags"]
    assert operation["tags"][0] in {tag["name"] for tag in document()["tags"]}
    guarded = path.startswith(API)
    assert operation["x-permission"] in (PERMISSIONS if guarded else {"open"})
    named = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
    assert named == set(re.findall(r"\{([^}]+)\}", path))
    headers = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}
    assert ("Idempotency-Key" in headers or "webhook-id" in headers) is (method == "POST")
    assert ("webhook-id" in headers) is (operation["x-permission"] == "report")
    if guarded:
        assert {"400", "401", "403", "422"} <= set(operation["responses"])
        assert ("404" in operation["responses"]) or "{" not in path
    if "requestBody" in operation:
        assert {"413", "415"} <= set(operation["responses"])
    if "If-Match" in headers:
        assert "412" in operation["responses"]


@pytest.mark.parametrize(("method", "path", "operation"), ALL)
def test_examples_fit_their_schemas(method: str, path: str, operation: Any) -> None:
    parts = [operation["requestBody"]] if "requestBody" in operation else []
    for part in [*parts, *operation["responses"].values()]:
        for media_type, media in _media(part):
            if media == {}:  # what is binary has no schema
                continue
            assert "example" in media
            if media_type.endswith(("json", "msgpack")):
                _validator(media["schema"]).validate(media["example"])
            else:
                assert isinstance(media["example"], str)


@pytest.mark.parametrize("operation", [pytest.param(found, id=found.name) for found in operations() if found.body])
def test_examples_of_bodies_are_read(operation: Operation) -> None:
    assert operation.body is not None
    body = operation.body.decode(msgspec.json.encode(operation.body.schema.example))
    assert body is not None


@pytest.mark.parametrize("name", ["NewProject", "ProjectEdit", "NewRun", "RunEdit"])
def test_what_a_policy_says_is_described(name: str) -> None:
    fields = document()["components"]["schemas"][name]["properties"]
    policy = {"raw_readers", "physical_only", "auto_close_after", "future_tolerance"} & fields.keys()
    assert "auto_close_after" in policy
    for field in policy:
        assert any("description" in part for part in (fields[field], *fields[field].get("anyOf", ()))), field


def test_references_lead_somewhere() -> None:
    schemas = document()["components"]["schemas"]
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document())))
    assert wanted == set(schemas) - {"Layer"} | ({"Layer"} & wanted)
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_what_operations_share_stands_once() -> None:
    text = json.dumps(document(), ensure_ascii=False)
    components = document()["components"]
    for where in ("headers", "parameters", "responses"):
        referred = re.findall(rf'"#/components/{where}/([^"]+)"', text)
        assert set(referred) == set(components[where])
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in referred)
    assert all(referred.count(name) > 1 for name in set(components["responses"]) - {"Problem410", "Problem426"})
    problems = [
        found
        for methods in document()["paths"].values()
        for operation in methods.values()
        for status, found in operation["responses"].items()
        if operation["x-permission"] != "open" and status >= "400"
    ]
    assert len(problems) > 100
    assert all(found.keys() == {"$ref"} for found in problems)
    assert len(text.encode()) < 300_000


def test_no_name_is_that_of_a_view() -> None:
    assert not re.search(r'"[A-Z]\w*View"', json.dumps(document()))


async def test_the_page_needs_nothing_from_elsewhere(world: World, runner: object) -> None:
    answer = await world.anonymous.get("//schema")
    assert answer.headers["content-type"].startswith("text/html")
    page, policy = answer.text, answer.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page.partition("<script>")[0])
    assert not re.search(r"https?://", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


async def test_documents_can_be_switched_off(runner: object) -> None:
    client = Client(app_over(MemoryUnitsOfWork(), documents=False), None, checked=False)
    assert (await client.get("//schema")).status_code == 404
    assert (await client.get("//schema/openapi.json")).status_code == 404
    assert (await client.get("//health/live")).status_code == 200
