"""Conventions that hold on every path: request ids, problems, tokens, media types, health, metrics, logs."""

import json
import re
from collections.abc import AsyncGenerator, Generator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from itertools import product
from types import coroutine
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
import structlog
from litestar import Litestar
from prometheus_client import CollectorRegistry

from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain.audit import AuditFilter
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.kernel.ids import TimeOrderedIds
from experiment_domain.kernel.news import News
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_http import paths
from experiment_http.traffic import RequestMetrics, Traffic
from http_api import API, Client, World, app_over, documented, refusal, token_of

CANARY = "canary-5f1e"
RUN_STATUSES = "archived, draft, failed, finished, running"
QUERIES = [(path, operation) for method, path, operation in documented() if method == "GET" and path.startswith(API)]


@contextmanager
def captured() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged, with what every line of a request carries."""
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        yield logs


def bare_request() -> dict[str, Any]:
    """What a server says of a request."""
    return {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}


async def no_message(*_: Any) -> Any:
    """Neither sent nor received."""
    raise AssertionError


class Broken(UnitsOfWork):
    """Units of work that fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @asynccontextmanager
    async def begin(self, principal: Any, *, read_only: bool = False) -> AsyncGenerator[UnitOfWork]:
        raise self._error
        yield

    @property
    def news(self) -> News:
        raise self._error


@pytest.mark.parametrize("sent", ["abc", "A-b_c.9", "x" * 128])
async def test_a_sane_request_id_is_kept(app: Litestar, runner: object, sent: str) -> None:
    answer = await Client(app, token_of("ada")).get("/projects", headers={"X-Request-Id": sent})
    assert answer.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "ä".encode(), "a,b", "{}"])
async def test_any_other_request_id_is_replaced(app: Litestar, runner: object, sent: str | bytes) -> None:
    answer = await Client(app, token_of("ada")).get("/projects", headers={b"X-Request-Id": sent})
    assert UUID(answer.headers["x-request-id"]).version == 7


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/projects", 401),
        ("GET", "/nothing", 404),
        ("GET", "//", 404),
        ("GET", "//favicon.ico", 404),
        ("GET", "/runs/no-uuid", 404),
        ("PUT", "/runs", 405),
        ("TRACE", "/runs", 405),
        ("POST", "//health/live", 405),
        ("OPTIONS", "/runs", 204),
        ("GET", "//health/live", 200),
    ],
)
async def test_every_answer_has_a_request_id(
    app: Litestar, runner: object, method: str, path: str, status: int
) -> None:
    answer = await Client(app, None, checked=False).send(method, path, headers={"X-Request-Id": "mine"})
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
    if status in (204, 405):
        assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("path", ["/", "/nothing", f"{API}/projects", "/health/live", f"{API}/projects/%ff/members"])
async def test_a_websocket_where_there_is_none_is_refused(app: Litestar, runner: object, path: str) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "ws",
        "http_version": "1.1",
        "headers": [(b"host", b"api.example")],
        "subprotocols": [],
        "client": None,
        "server": ("api.example", 80),
    }
    with captured() as logs:
        await app(scope, receive, send)
    # Answered as the request that a handshake is.
    begin, body = sent
    assert (begin["type"], begin["status"]) == ("websocket.http.response.start", 404)
    assert (body["type"], json.loads(body["body"])["code"]) == ("websocket.http.response.body", "not_found")
    assert logs == []


async def test_a_problem_document_is_whole(world: World, runner: object) -> None:
    problem = await world.editor.refused("POST", f"/runs/{world.run_id}/start", 422, "invalid", {"reasons": "x"})
    assert problem["title"] == "Invalid"
    assert problem["instance"] == f"{API}/runs/{world.run_id}/start"
    assert problem["errors"] == [{"path": "reasons", "message": "is unknown"}]
    problem = await world.editor.refused("POST", f"/runs/{world.run_id}/finish", 409, "active_capture_sessions")
    assert problem["active_capture_sessions"] == [world.session_id]
    problem = await world.editor.refused("POST", f"/sensors/{world.sensor_id}/deactivate", 409, "invalid_transition")
    assert problem["current"] == "registered"
    assert problem["allowed"] == ["active", "retired"]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "bearer\ta", "Bearer a, Bearer b", "Token a", "Bearer ä"],
)
async def test_a_bad_authorization_header_is_nobody(app: Litestar, runner: object, header: str) -> None:
    answer = await Client(app, None).get("/projects", headers={b"Authorization": header.encode()})
    refusal(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="experiment-service", error="invalid_token"'


async def test_tokens_are_checked(app: Litestar, runner: object) -> None:
    answer = await Client(app, None).get("/projects")
    refusal(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="experiment-service"'
    for token in (token_of("ada", exp=1), token_of("ada", aud="other"), token_of("ada")[:-2] + "AA", "x.y.z", CANARY):
        answer = await Client(app, token).get("/projects")
        refusal(answer, 401, "unauthenticated")
        assert token not in answer.text
    token = token_of("ada")
    answer = await Client(app, None).get("/projects", headers={"Authorization": f"bEaReR {token}"})
    assert answer.status_code == 200
    assert "authorization" not in {name.lower() for name in answer.headers}


async def test_the_body_is_not_read_for_nobody(app: Litestar, runner: object) -> None:
    answer = await Client(app, None).send("POST", "/projects", content=b"{" * 1000)
    refusal(answer, 401, "unauthenticated")


async def test_a_fault_tells_nothing(runner: object) -> None:
    client = Client(app_over(Broken(RuntimeError(CANARY))), token_of("ada"), checked=False)
    with captured() as logs:
        answer = await client.get("/projects", headers={"X-Request-Id": "mine"})
    problem = refusal(answer, 500, "internal_error")
    assert CANARY not in json.dumps(problem)
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"] == "mine"
    fault, request = logs
    assert fault["event"] == "unhandled_exception"
    assert CANARY in repr(fault["exc_info"])
    assert request["event"] == "request"
    assert [entry["request_id"] for entry in logs] == ["mine", "mine"]
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_a_request_that_is_closed_elsewhere_says_nothing_of_where_it_began(runner: object) -> None:
    @coroutine
    def never() -> Generator[None]:
        yield

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await never()

    metrics = RequestMetrics(CollectorRegistry())
    traffic = Traffic(waiting, ids=TimeOrderedIds(), trusted_proxies=(), metrics=metrics)
    request = traffic(bare_request(), no_message, no_message)
    copy_context().run(request.send, None)
    with captured() as logs:
        request.close()  # as what is left of a loop is, when that has ended
    assert [entry["event"] for entry in logs] == ["request"]


async def test_a_request_that_cannot_be_noted_leaves_no_id_behind(
    runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answered(scope: Any, receive: Any, send: Any) -> None:
        assert structlog.contextvars.get_contextvars()["request_id"]

    metrics = RequestMetrics(CollectorRegistry())
    monkeypatch.setattr(metrics, "record", Mock(side_effect=BrokenPipeError))
    traffic = Traffic(answered, ids=TimeOrderedIds(), trusted_proxies=(), metrics=metrics)
    with pytest.raises(BrokenPipeError):
        await traffic(bare_request(), no_message, no_message)
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_an_absent_database_is_told_as_such(runner: object) -> None:
    class StandbyError(Exception):
        sqlstate = "25006"

    cause = StandbyError(f"cannot execute INSERT\nDETAIL: {CANARY}")
    cause.add_note("it is a standby")
    away = Unavailable("Try again.")
    away.__cause__ = cause
    client = Client(app_over(Broken(away)), token_of("ada"))
    for method, path in (("GET", "/projects"), ("POST", "/projects")):
        with captured() as logs:
            answer = await client.send(
                method,
                path,
                headers={"X-Request-Id": "mine"},
                **({"json": {"name": "P"}} if method == "POST" else {}),
            )
        assert refusal(answer, 503, "unavailable")["detail"] == "Try again."
        assert int(answer.headers["retry-after"]) > 0
        told = next(entry for entry in logs if entry["event"] == "unavailable")
        assert told == {
            "event": "unavailable",
            "log_level": "warning",
            "request_id": "mine",
            "path": API + path,
            "cause": "StandbyError",
            "sqlstate": "25006",
            "reason": "cannot execute INSERT",
            "hint": "it is a standby",
        }


@pytest.mark.parametrize(("path", "operation"), QUERIES, ids=[operation["operationId"] for _, operation in QUERIES])
async def test_unknown_query_parameters_are_refused(world: World, runner: object, path: str, operation: Any) -> None:
    problem = await world.owner.refused("GET", world.path(path) + "?colour=red", 422, "invalid")
    assert problem["errors"] == [{"path": "colour", "message": "is unknown"}]
    await world.owner.refused("GET", world.path(path) + "?limit=1&limit=2&nope=%00", 422, "invalid")
    await world.owner.refused("GET", world.path(path) + "?limit=%ff", 400, "malformed_query")
    await world.owner.refused("GET", world.path(path) + "?" + "a=1&" * 300 + "a=1", 400, "malformed_query")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("application/*", 200),
        ("application/json", 200),
        ("text/html, application/json;q=0.1", 200),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("application/json;q=0, */*", 406),
        ("application/json;q=zero", 406),
    ],
)
async def test_what_the_caller_accepts(drafts: World, runner: object, accept: str, status: int) -> None:
    run = f"/runs/{drafts.run_id}"
    for method, path in (("GET", run), ("POST", f"{run}/start")):
        answer = await drafts.editor.send(method, path, headers={"Accept": accept})
        assert answer.status_code == status
        if status == 406:
            refusal(answer, 406, "not_acceptable")
    # Nothing is done for somebody who could not be told.
    assert (await drafts.viewer.done("GET", run))["status"] == ("running" if status == 200 else "draft")


async def test_head_is_get_without_content(world: World, runner: object) -> None:
    shown = await world.viewer.get(f"/runs/{world.run_id}")
    head = await world.viewer.send("HEAD", f"/runs/{world.run_id}")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["etag"] == shown.headers["etag"]
    assert head.headers["content-length"] == str(len(shown.content))
    assert (await world.outsider.send("HEAD", f"/runs/{world.run_id}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "place", "choices"),
    [
        ("POST", "/runs:batch-status", {"run_ids": [str(uuid4())], "status": "x"}, "status", RUN_STATUSES),
        ("GET", "/runs?status=running&status=x", None, "status[1]", RUN_STATUSES),
        (
            "POST",
            "/exports",
            {"project_id": str(uuid4()), "scope": {"status": ["x"]}, "format": "csv", "layer": "raw"},
            "scope.status[0]",
            RUN_STATUSES,
        ),
        ("PATCH", "/projects/{project}", {"raw_readers": ["x"]}, "raw_readers[0]", "editor, owner, viewer"),
    ],
)
async def test_what_could_have_been_chosen_is_told(
    world: World, runner: object, method: str, path: str, body: Any, place: str, choices: str
) -> None:
    path = path.format(project=world.project_id)
    answer = await world.owner.refused(method, path, 422, "invalid", body)
    assert answer["errors"] == [{"path": place, "message": f"is none of {choices}"}]


async def test_times_are_utc_with_microseconds(world: World, runner: object) -> None:
    shown = await world.viewer.done("GET", f"/runs/{world.run_id}")
    for name in ("created_at", "updated_at", "started_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shown[name])
    assert UUID(shown["id"]).version == 7


async def test_health(runner: object) -> None:
    async def well() -> None:
        """Answer."""

    async def ill() -> None:
        raise OSError(CANARY)

    client = Client(app_over(MemoryUnitsOfWork(), {"database": well}), None)
    assert (await client.get("//health/live")).json() == {"status": "ok"}
    ready = (await client.get("//health/ready")).json()
    assert ready["status"] == "ok"
    assert ready["dependencies"]["database"]["status"] == "ok"
    assert ready["dependencies"]["database"]["latency"] >= 0
    client = Client(app_over(MemoryUnitsOfWork(), {"database": well, "queue": ill}), None)
    answer = await client.get("//health/ready")
    assert answer.status_code == 503
    assert {name: found["status"] for name, found in answer.json()["dependencies"].items()} == {
        "database": "ok",
        "queue": "failed",
    }
    assert CANARY not in answer.text
    assert (await client.get("//health/live")).status_code == 200


async def test_a_dependency_that_hangs_is_not_waited_for(runner: object) -> None:
    async def hang() -> None:
        import asyncio

        await asyncio.sleep(60)

    client = Client(app_over(MemoryUnitsOfWork(), {"database": hang}, readiness_timeout=0.05), None)
    with captured() as logs:
        answer = await client.get("//health/ready")
    assert (logs[0]["dependency"], logs[0]["cause"]) == ("database", "TimeoutError")
    assert answer.status_code == 503
    assert 0.05 <= answer.json()["dependencies"]["database"]["latency"] < 5


async def test_metrics_count_by_template(world: World, runner: object) -> None:
    await world.viewer.get(f"/runs/{world.run_id}")
    await world.viewer.get("/no/such/thing/" + CANARY)
    await Client(world.app, None, checked=False).send("BREW", "/runs")
    text = (await world.anonymous.get("//metrics")).text
    assert 'experiment_http_requests_total{method="GET",route="/api/v1/runs/{run_id}",status="200"}' in text
    assert (
        'experiment_http_request_duration_seconds_bucket{le="0.1",method="GET",route="/api/v1/runs/{run_id}"}' in text
    )
    assert 'route="unmatched",status="404"' in text
    assert 'method="OTHER"' in text
    for secret in (world.run_id, world.sensor.token or "", CANARY, "BREW"):
        assert secret not in text


def test_requests_are_counted_by_method_route_and_status() -> None:
    metrics = RequestMetrics(CollectorRegistry())
    kinds = list(product(("GET", "POST"), ("/a", "/b"), (200, 404)))
    for kind in 2 * kinds:
        metrics.record(*kind, 0.5)
    for method, route, status in kinds:
        labels = {"method": method, "route": route}
        counted = {**labels, "status": str(status)}
        assert metrics.registry.get_sample_value("experiment_http_requests_total", counted) == 2
        assert metrics.registry.get_sample_value("experiment_http_request_duration_seconds_count", labels) == 4


async def test_logs_name_requests_and_hold_no_secrets(world: World, runner: object) -> None:
    with captured() as logs:
        await world.viewer.get(f"/runs/{world.run_id}?limit={CANARY}", headers={"X-Request-Id": "mine"})
        rotated = await world.owner.done("POST", f"/sensors/{world.sensor_id}/rotate-token")
        body = {"name": CANARY, "metadata": {"password": CANARY}}
        await world.editor.done("PATCH", f"/experiments/{world.experiment_id}", body)
        await Client(world.app, CANARY).get("/projects")
    first = logs[0]
    assert first["event"] == "request"
    assert first["method"] == "GET"
    assert first["path"] == f"{API}/runs/{world.run_id}"
    assert first["status"] == 422
    assert first["request_id"] == "mine"
    assert first["seconds"] > 0
    text = repr(logs)
    for secret in (rotated["token"], CANARY, world.viewer.token or "", world.owner.token or ""):
        assert secret not in text


@pytest.mark.parametrize(
    ("trusted", "forwarded", "expected"),
    [
        ((), "6.6.6.6", "127.0.0.1"),
        (("10.0.0.0/8",), "6.6.6.6", "127.0.0.1"),
        (("127.0.0.0/8",), "6.6.6.6", "6.6.6.6"),
        (("127.0.0.0/8",), "1.1.1.1, 6.6.6.6", "6.6.6.6"),
        (("127.0.0.0/8", "6.6.6.6/32"), "1.1.1.1, 6.6.6.6", "1.1.1.1"),
        (("127.0.0.0/8",), "1.1.1.1, nonsense", "127.0.0.1"),
        (("127.0.0.0/8",), "::ffff:6.6.6.6", "6.6.6.6"),
        (("127.0.0.0/8",), "", "127.0.0.1"),
    ],
)
async def test_the_address_in_the_audit_log(
    runner: object, trusted: tuple[str, ...], forwarded: str, expected: str
) -> None:
    from ipaddress import ip_network

    units = MemoryUnitsOfWork()
    client = Client(app_over(units, trusted_proxies=tuple(map(ip_network, trusted))), token_of("ada"))
    headers = {"X-Forwarded-For": forwarded, "X-Request-Id": "mine"}
    project = await client.done("POST", "/projects", {"name": "P"}, headers=headers)
    async with units.begin(System(), read_only=True) as uow:
        which = AuditFilter(project_ids=[UUID(project["id"])])
        (record,) = (await uow.audit.page(which, limit=2, after=None)).items
    assert (record.actor, record.address, record.request_id) == ("ada", expected, "mine")


async def test_proxies_may_each_send_a_line(runner: object) -> None:
    from ipaddress import ip_network

    trusted = (ip_network("127.0.0.0/8"), ip_network("6.6.6.6"))
    client = Client(app_over(MemoryUnitsOfWork(), trusted_proxies=trusted), token_of("ada"))
    with captured() as logs:
        for lines in (["9.9.9.9, 1.1.1.1", "6.6.6.6"], ["6.6.6.6", "1.1.1.1"], ["9.9.9.9", "1.1.1.1", "nonsense"]):
            await client.get("/projects", headers=[("X-Forwarded-For", line) for line in lines])
    assert [entry["client"] for entry in logs] == ["1.1.1.1", "1.1.1.1", "127.0.0.1"]


@pytest.mark.parametrize(
    "user_id",
    ["a/b", "/", "a/", "//a//b", "100%", "%2F", "a%2fb/c", "%25", "a?b#c", "ü/ö", "auth0|ada@example/x", "a b"],
)
async def test_any_user_can_be_named_in_a_path(world: World, runner: object, user_id: str) -> None:
    path = f"/projects/{world.project_id}/members/{quote(user_id, safe='')}"
    member = await world.owner.done("PUT", path, {"role": "viewer"})
    assert member["user_id"] == user_id
    them = Client(world.app, token_of(user_id))
    assert (await them.done("GET", f"/projects/{world.project_id}"))["id"] == world.project_id
    await world.owner.done("DELETE", path, status=204)
    members = await world.owner.done("GET", f"/projects/{world.project_id}/members")
    assert user_id not in {member["user_id"] for member in members["items"]}


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/a/b", "/a/b"),
        (b"/a%2Fb/%2f", "/a%2Fb/%2F"),
        (b"/100%", "/100%25"),
        (b"/%252F/%", "/%252F/%25"),
        (b"/%%32F", "/%252F"),
        (b"/%72uns", "/runs"),
        (b"/%ff%C3%BC", "/\ufffd\u00fc"),
        (b"/\xff/\xc3\xbc", "/\ufffd/\u00fc"),
    ],
)
def test_paths_are_decoded_part_by_part(raw: bytes, path: str) -> None:
    assert paths.routed(raw) == path


@pytest.mark.parametrize("user_id", ["%00", "a%00b", "%0a", "%ff", "%ED%A0%80", "x" * 300])
async def test_odd_names_in_paths_find_nothing(world: World, runner: object, user_id: str) -> None:
    client = Client(world.app, world.owner.token, checked=False)
    path = f"/projects/{world.project_id}/members/{user_id}"
    assert (await client.delete(path)).status_code == 404
    assert (await client.put(path, {"role": "viewer"})).status_code in (404, 422)
