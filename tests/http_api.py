"""The API under test, over any adapter, and callers of it: whatever it answers is held against its own document."""

import asyncio
import hashlib
import hmac
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import httpx
import jsonschema_rs
import jwt
from attrs import evolve, frozen
from litestar import Litestar

from experiment_adapters.auth.jwt import JwtSettings, JwtVerifier
from experiment_adapters.auth.keys import VerificationKey
from experiment_adapters.auth.tokens import BearerTokens
from experiment_adapters.exports.files import ObjectFiles
from experiment_adapters.exports.formats import FORMATS
from experiment_adapters.webhooks.box import AesGcmBox
from experiment_domain import Services
from experiment_domain.kernel.clock import Clock, SystemClock
from experiment_domain.spool import Spool
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_http import schema
from experiment_http.app import create_app
from experiment_http.settings import HttpSettings
from experiment_http.v1 import operations

SECRET = b"a secret of the tests, of thirty-two bytes or more"
WEBHOOK_SECRET = b"what the Artifact Service signs its callbacks with"
ISSUER, AUDIENCE = "https://id.example", "experiment-service"
API = "/api/v1"
Check = Callable[[], Awaitable[None]]


def token_of(user: str, **claims: Any) -> str:
    """A user's token as the identity provider would sign it."""
    standard = {"sub": user, "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 3600}
    return jwt.encode({**standard, **claims}, SECRET, algorithm="HS256")


def services_over(units_of_work: UnitsOfWork, **ports: Any) -> Services:
    """The services that the application has; exports are in memory."""
    usual: dict[str, Any] = {
        "box": AesGcmBox(SECRET),
        "export_files": ObjectFiles.in_memory(),
        "export_formats": FORMATS,
    }
    return Services(units_of_work=units_of_work, **{**usual, **ports})


def app_over(
    units_of_work: UnitsOfWork,
    readiness: Mapping[str, Check] | None = None,
    *,
    services: Services | None = None,
    clock: Clock | None = None,
    spool: Spool | None = None,
    **settings: Any,
) -> Litestar:
    """The real application over units of work."""
    keys = (VerificationKey(algorithm="HS256", key=SECRET),)
    verifier = JwtVerifier(JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=keys))
    return create_app(
        services or services_over(units_of_work, clock=clock or SystemClock()),
        BearerTokens(verifier),
        HttpSettings(secret_key=SECRET, **{"artifact_webhook_secrets": (WEBHOOK_SECRET,), **settings}),
        readiness or {},
        spool=spool,
    )


def signed(
    body: bytes,
    *,
    event: str | None = None,
    at: float | str | None = None,
    secrets: Sequence[bytes] = (WEBHOOK_SECRET,),
) -> dict[str, str]:
    """The headers of a callback, as Standard Webhooks 1.0 describes them; one signature for each secret."""
    event = event or f"msg_{uuid4().hex}"
    stamp = at if isinstance(at, str) else str(int(time.time() if at is None else at))
    content = event.encode() + b"." + stamp.encode() + b"." + body
    signatures = [b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode() for secret in secrets]
    return {
        "webhook-id": event,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


class Signing(httpx.Auth):
    """Signs what is sent, as the Artifact Service does."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        try:
            content = request.content
        except httpx.RequestNotRead:
            content = b""  # it comes in parts, and is to be refused before it is whole
        event, at = request.headers.get("webhook-id"), request.headers.get("webhook-timestamp")
        for name, value in signed(content, event=event, at=at).items():
            request.headers.setdefault(name, value)
        yield request


@cache
def document() -> Any:
    """The OpenAPI document, as it is sent."""
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(schema.openapi(operations())))


@cache
def documented() -> list[tuple[str, str, Any]]:
    """Method, path and description of every operation in the document, with its parameters and responses in place."""
    return [
        (method.upper(), path, _in_place(operation))
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    ]


def _in_place(part: Any) -> Any:
    """A part of the document in which what several operations share stands in each; schemas stay references."""
    if isinstance(part, list):
        return [_in_place(item) for item in part]
    if not isinstance(part, dict):
        return part
    where, _, name = part.get("$ref", "").removeprefix("#/components/").partition("/")
    if where in ("parameters", "responses"):
        return document()["components"][where][name]
    return {key: _in_place(item) for key, item in part.items()}


@cache
def _patterns() -> list[tuple[str, re.Pattern[str], Any]]:
    return [
        (method, re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), operation) for method, path, operation in documented()
    ]


@cache
def _validator(operation_id: str, status: str, media_type: str) -> Any:
    operation = next(found for _, _, found in documented() if found["operationId"] == operation_id)
    wanted = operation["responses"][status]["content"][media_type]["schema"]
    return jsonschema_rs.Draft202012Validator({**wanted, "components": document()["components"]}, validate_formats=True)


def conforms(answer: httpx.Response) -> None:
    """Fail unless the document says that this can be answered."""
    method, path = answer.request.method, answer.request.url.raw_path.partition(b"?")[0].decode()
    method = "GET" if method == "HEAD" else method
    found = [operation for known, pattern, operation in _patterns() if known == method and pattern.fullmatch(path)]
    if not found:
        assert answer.status_code in (400, 404, 405), f"{method} {path} is not documented"
        return
    operation = found[0]
    where = f"{operation['operationId']} {answer.status_code} {answer.text[:500]}"
    described = operation["responses"].get(str(answer.status_code))
    assert described is not None, f"undocumented: {where}"
    if not answer.content:
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in described["content"], f"undocumented media type {media_type}: {where}"
    if media_type.endswith("json"):
        _validator(operation["operationId"], str(answer.status_code), media_type).validate(answer.json())


def left_early(app: Any) -> Any:
    """The application to clients that leave a stream when they have seen its beginning: by itself it has no end."""

    async def seen(scope: Any, receive: Any, send: Any) -> None:
        left = asyncio.Event()
        is_stream = is_whole = False

        async def receiving() -> Any:
            message = await receive() if not is_stream else {"type": "http.disconnect"}
            if is_stream:
                await left.wait()
            return message

        async def sending(message: Any) -> None:
            nonlocal is_stream, is_whole
            if message["type"] == "http.response.start":
                is_stream = (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]
            elif is_stream:
                left.set()
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        await app(scope, receiving, sending)
        if is_stream and not is_whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return seen


class Client:
    """Somebody who calls the API."""

    def __init__(
        self, app: Litestar, token: str | None, *, auth: httpx.Auth | None = None, checked: bool = True
    ) -> None:
        self.app = app
        self.token = token
        hooks = {"response": [_checked]} if checked else {}
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        transport_app: Any = app
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(left_early(transport_app)),
            base_url="http://api.example",
            headers=headers,
            auth=auth,
            event_hooks=hooks,
        )

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Any request; `path` as it stands under the API, or with `//` before it, from the root."""
        url = path[1:] if path.startswith("//") else API + path
        return await self._http.request(method, url, **more)

    async def raw(self, request: httpx.Request) -> httpx.Response:
        """A request that was made elsewhere, with this caller's token."""
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return await self._http.send(request)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        """GET."""
        return await self.send("GET", path, **more)

    async def post(self, path: str, json: Any = None, **more: Any) -> httpx.Response:
        """POST."""
        return await self.send("POST", path, **({} if json is None else {"json": json}), **more)

    async def put(self, path: str, json: Any = None, **more: Any) -> httpx.Response:
        """PUT."""
        return await self.send("PUT", path, **({} if json is None else {"json": json}), **more)

    async def patch(self, path: str, json: Any, **more: Any) -> httpx.Response:
        """PATCH."""
        return await self.send("PATCH", path, json=json, **more)

    async def delete(self, path: str, **more: Any) -> httpx.Response:
        """DELETE."""
        return await self.send("DELETE", path, **more)

    async def done(self, method: str, path: str, json: Any = None, status: int | None = None, **more: Any) -> Any:
        """What is answered to a request that must succeed."""
        answer = await self.send(method, path, **({} if json is None else {"json": json}), **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        assert status in (None, answer.status_code)
        return answer.json() if answer.content else None

    async def refused(self, method: str, path: str, status: int, code: str, json: Any = None, **more: Any) -> Any:
        """The problem that is answered to a request that must be refused."""
        answer = await self.send(method, path, **({} if json is None else {"json": json}), **more)
        return refusal(answer, status, code)


async def _checked(answer: httpx.Response) -> None:
    await answer.aread()
    assert "x-request-id" in answer.headers
    conforms(answer)


def refusal(answer: httpx.Response, status: int, code: str) -> Any:
    """The problem document of an answer, which must be this refusal."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:experiment-service:problem:{code}"
    return problem


@frozen(kw_only=True)
class World:
    """A project with members, and in it one of each thing, ready to record."""

    app: Litestar
    owner: Client
    editor: Client
    viewer: Client
    outsider: Client
    anonymous: Client
    sensor: Client
    service: Client
    project_id: str
    experiment_id: str
    run_id: str
    sensor_id: str
    profile_id: str
    session_id: str
    artifact_id: str
    webhook_id: str
    delivery_id: str
    names: Mapping[str, str]
    backfill_id: str
    """That of nothing, but see `with_backfill`."""
    export_id: str
    """That of nothing, but see `with_export`."""

    def path(self, template: str) -> str:
        """A path of the document with the ids of this world."""
        places = {
            "project_id": self.project_id,
            "experiment_id": self.experiment_id,
            "run_id": self.run_id,
            "sensor_id": self.sensor_id,
            "profile_id": self.profile_id,
            "session_id": self.session_id,
            "artifact_id": self.artifact_id,
            "backfill_id": self.backfill_id,
            "export_id": self.export_id,
            "webhook_id": self.webhook_id,
            "delivery_id": self.delivery_id,
            "user_id": self.names["viewer"],
        }
        return re.sub(r"\{([^}]+)\}", lambda found: places[found[1]], template.removeprefix(API))

    def caller(self, operation: Any) -> Client:
        """Somebody who may do everything that is for those who may do this."""
        return {"ingest": self.sensor, "report": self.service}.get(operation["x-permission"], self.owner)

    def example(self, operation: Any) -> Any:
        """The document's example of a body, for this world."""
        example = operation["requestBody"]["content"]["application/json"]["example"]
        ours = {
            "project_id": self.project_id,
            "capture_session_id": self.session_id,
            "artifact_id": self.artifact_id,
            "profile_id": self.profile_id,
            "sensor_id": self.sensor_id,
            "run_ids": [self.run_id],
        }
        return {name: ours.get(name, value) for name, value in example.items()}


async def new_world(app: Litestar, *, start: bool = True, signals: list[str] | None = None) -> World:
    """A world of its own; with `start`, everything in it is running."""
    unique = uuid4().hex[:8]
    names = {role: f"{role}-{unique}" for role in ("owner", "editor", "viewer", "outsider")}
    clients = {role: Client(app, token_of(name)) for role, name in names.items()}
    owner, editor = clients["owner"], clients["editor"]
    project = await owner.done("POST", "/projects", {"name": f"Project {unique}"}, 201)
    for role in ("editor", "viewer"):
        await owner.done("PUT", f"/projects/{project['id']}/members/{names[role]}", {"role": role})
    experiment = await editor.done("POST", "/experiments", {"project_id": project["id"], "name": "Experiment"}, 201)
    run = await editor.done("POST", f"/experiments/{experiment['id']}/runs", {"name": "Run"}, 201)
    sensor = await editor.done(
        "POST",
        "/sensors",
        {
            "project_id": project["id"],
            "name": "Sensor",
            "sensor_type": "thermocouple",
            "input_unit": "mV",
            "display_unit": "°C",
            "signals": signals or [],
        },
        201,
    )
    profile = await editor.done(
        "POST",
        f"/sensors/{sensor['id']}/conversion-profiles",
        {"kind": "linear", "parameters": {"a": 2.0, "b": 1.0}, "valid_range": {"min": -100.0, "max": None}},
        201,
    )
    await owner.done("POST", f"/conversion-profiles/{profile['id']}/publish")
    await editor.done("PUT", f"/runs/{run['id']}/sensors/{sensor['id']}")
    if start:
        await editor.done("POST", f"/runs/{run['id']}/start")
    session = await editor.done("POST", f"/runs/{run['id']}/capture-sessions", {"start": start}, 201)
    link = {"name": "Model", "uri": "s3://models/surrogate.onnx"}
    artifact = await editor.done("POST", f"/runs/{run['id']}/artifacts", link, 201)
    hook = {"project_id": project["id"], "url": "https://hooks.example/rig-7", "event_types": ["run.*"]}
    webhook = await owner.done("POST", "/webhooks", hook, 201)
    delivery = await owner.done("POST", f"/webhooks/{webhook['id']}/test", status=201)
    return World(
        app=app,
        **clients,
        anonymous=Client(app, None),
        sensor=Client(app, sensor["token"]),
        service=Client(app, None, auth=Signing()),
        project_id=project["id"],
        experiment_id=experiment["id"],
        run_id=run["id"],
        sensor_id=sensor["id"],
        profile_id=profile["id"],
        session_id=session["id"],
        artifact_id=artifact["id"],
        backfill_id=str(UUID(int=0)),
        export_id=str(UUID(int=0)),
        webhook_id=webhook["id"],
        delivery_id=delivery["id"],
        names=names,
    )


async def with_backfill(world: World) -> World:
    """The world with a queued backfill, of a session that was over before it: in a run of another experiment."""
    editor = world.editor
    experiment = await editor.done("POST", "/experiments", {"project_id": world.project_id, "name": "Earlier"}, 201)
    run = await editor.done("POST", f"/experiments/{experiment['id']}/runs", {"name": "Earlier"}, 201)
    await editor.done("PUT", f"/runs/{run['id']}/sensors/{world.sensor_id}")
    await editor.done("POST", f"/runs/{run['id']}/start")
    session = await editor.done("POST", f"/runs/{run['id']}/capture-sessions", {"start": True}, 201)
    await editor.done("POST", f"/capture-sessions/{session['id']}/stop", {"outcome": "succeeded"})
    wanted = {"profile_id": world.profile_id, "sensor_id": world.sensor_id}
    backfill = await editor.done("POST", f"/capture-sessions/{session['id']}/backfills", wanted, 201)
    return evolve(world, backfill_id=backfill["id"])


async def with_export(world: World) -> World:
    """The world with a queued export, which its viewer asked for."""
    wanted = {"project_id": world.project_id, "scope": {}, "format": "csv", "layer": "physical"}
    export = await world.viewer.done("POST", "/exports", wanted, 202)
    return evolve(world, export_id=export["id"])
