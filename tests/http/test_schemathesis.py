"""Fuzzing from the OpenAPI document: nothing undocumented is answered, and nothing that breaks its own schema."""

import asyncio
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from http_api import API, Client, World, document, new_world, with_backfill, with_export

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# One operation is tried often in the nightly profile, and a few times otherwise.
EXAMPLES = max(12, settings.default.max_examples // 5) if settings.default else 12
SHORT = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS: list[Any] = [found.ok() for found in SCHEMA.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
REACHED: dict[str, bool] = {}
"""Which operations have had a success, of those that were tried."""


def cases(operation: Any) -> st.SearchStrategy[Case]:
    """Requests that fit the document, and requests that do not."""
    positive = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not (operation.body or operation.query or operation.headers or operation.path_parameters):
        return positive
    return positive | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)


def with_ids(case: Case, world: World) -> None:
    """Let a request be about things that exist: guessed ids find nothing."""
    places = {name: world.path(f"{API}/{{{name}}}")[1:] for name in case.path_parameters or {}}
    case.path_parameters = {**(case.path_parameters or {}), **places}
    if isinstance(case.body, dict):
        ours = {
            "project_id": world.project_id,
            "capture_session_id": world.session_id,
            "artifact_id": world.artifact_id,
            "profile_id": world.profile_id,
            "sensor_id": world.sensor_id,
        }
        case.body = {name: ours.get(name, value) for name, value in case.body.items()}
    for name in [name for name in case.headers or {} if name.lower().startswith("webhook-")]:
        del case.headers[name]  # it is signed when it is sent
    if case.query and "project_id" in case.query:
        case.query = {**case.query, "project_id": [world.project_id]}


async def sent(client: Client, case: Case) -> httpx.Response:
    """The answer to a request."""
    wanted = case.as_transport_kwargs(base_url="http://api.example")
    return await client.raw(httpx.Request(**{name: wanted[name] for name in ("method", "url")} | _content(wanted)))


def _content(wanted: Any) -> dict[str, Any]:
    headers = [(name.encode(), value.encode("utf-8")) for name, value in (wanted.get("headers") or {}).items()]
    parts = {"params": wanted.get("params"), "headers": headers, "cookies": wanted.get("cookies")}
    data = wanted.get("data")
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes):
        parts["content"] = data
    elif wanted.get("json") is not None:
        parts["json"] = wanted["json"]
    return parts


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.definition.raw["operationId"])
def test_fuzzing(app: Litestar, runner: asyncio.Runner, operation: Any) -> None:
    world = runner.run(new_world(app))
    if "{backfill_id}" in operation.label:
        world = runner.run(with_backfill(world))
    if "{export_id}" in operation.label:
        world = runner.run(with_export(world))
    client = world.caller(operation.definition.raw)

    @SHORT
    @given(case=cases(operation), is_real=st.booleans())
    def fuzz(case: Case, is_real: bool) -> None:
        if is_real:
            with_ids(case, world)
        answer = runner.run(sent(client, case))
        REACHED[operation.label] = REACHED.get(operation.label, False) or answer.is_success
        # Methods that do not exist are tried too, and are not documented.
        if answer.status_code != 405:
            case.validate_response(Response.from_httpx(answer, verify=False), checks=CHECKS)

    fuzz()


def test_most_operations_were_reached() -> None:
    if len(REACHED) < len(OPERATIONS):
        pytest.skip("not every operation was tried")
    reached = sum(REACHED.values())
    missed = [label for label, was_reached in REACHED.items() if not was_reached]
    assert reached >= 0.6 * len(REACHED), missed
