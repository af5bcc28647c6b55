"""The Artifact Service's callbacks: believed by their signature alone, and each with one effect."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar
from standardwebhooks.webhooks import Webhook

from experiment_domain.kernel.clock import Clock
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_http import asgi
from http_api import (
    AUDIENCE,
    ISSUER,
    SECRET,
    WEBHOOK_SECRET,
    Client,
    World,
    app_over,
    documented,
    new_world,
    refusal,
    signed,
)

PATH = "/integrations/artifacts"
OTHER_SECRET = b"a secret that was, or that will be, the right one"


def body_of(world: World, **values: Any) -> bytes:
    """A report that the world's artifact is approved."""
    return json.dumps({"artifact_id": world.artifact_id, "status": "approved", **values}).encode()


async def send(world: World, body: bytes, headers: Any, client: Client | None = None) -> httpx.Response:
    """The answer to a callback."""
    headers = httpx.Headers(headers)
    headers.setdefault("Content-Type", "application/json")
    return await (client or world.anonymous).send("POST", PATH, content=body, headers=headers)


async def unchanged(world: World, version: int = 1) -> None:
    """Fail unless the world's artifact is as it was."""
    assert (await world.viewer.done("GET", f"/artifacts/{world.artifact_id}"))["version"] == version


async def test_what_the_reference_library_signs_is_believed(world: World, runner: object) -> None:
    body = body_of(world)
    now = datetime.now(UTC)
    secret = "whsec_" + b64encode(WEBHOOK_SECRET).decode()
    headers = {
        "webhook-id": "msg_7",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_7", now, body.decode()),
    }
    assert (await send(world, body, headers)).status_code == 200
    Webhook(secret).verify(body, signed(body))  # and what these tests sign, the library believes


@pytest.mark.covers("artifacts.report")
async def test_a_signed_report_moves_the_artifact(world: World, runner: object) -> None:
    body = body_of(world, reason="scanned")
    answer = await send(world, body, signed(body))
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.headers["etag"]) == ("approved", '"2"')
    assert answer.json() == await world.viewer.done("GET", f"/artifacts/{world.artifact_id}")
    (step,) = (await world.viewer.done("GET", f"/artifacts/{world.artifact_id}/history"))["items"]
    assert (step["actor"], step["role"], step["reason"]) == ("integration:artifact-service", "integration", "scanned")
    for status in ("revoked", "revoked"):
        body = body_of(world, status=status)
        assert (await send(world, body, signed(body))).json()["version"] == 3
    body = body_of(world, status="approved")
    refusal(await send(world, body, signed(body)), 409, "invalid_transition")


async def test_the_statuses_of_a_life(world: World, runner: object) -> None:
    for version, status in enumerate(("pending", "rejected", "pending", "approved", "revoked"), start=1):
        told = await world.service.done("POST", PATH, {"artifact_id": world.artifact_id, "status": status})
        assert (told["status"], told["version"]) == (status, version)


def _pieces(headers: dict[str, str], **values: Any) -> list[tuple[bytes, bytes]]:
    """The headers with others in their place; None leaves one out, a list sends one more than once."""
    given = {name: values.get(name.removeprefix("webhook-"), value) for name, value in headers.items()}
    return [
        (name.encode(), text if isinstance(text, bytes) else text.encode())
        for name, texts in given.items()
        for text in (texts if isinstance(texts, list) else [] if texts is None else [texts])
    ]


async def _refused(world: World, body: bytes, headers: Any) -> Any:
    answer = await send(world, body, headers)
    problem = refusal(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Webhook-Signature realm="experiment-service"'
    await unchanged(world)
    return problem


async def test_who_does_not_sign_is_not_believed(world: World, runner: object) -> None:
    body = body_of(world)
    good = signed(body)
    signature = good["webhook-signature"]
    await _refused(world, body, {})
    for name in ("id", "timestamp", "signature"):
        for value in (None, "", [good[f"webhook-{name}"]] * 2, ["", good[f"webhook-{name}"]]):
            await _refused(world, body, _pieces(good, **{name: value}))
    for value in (
        signature.removeprefix("v1,"),
        signature.replace("v1,", "v1a,"),
        signature.replace("v1,", "v2,"),
        signature.replace("v1,", "V1,"),
        signature[:-1],
        signature + "=",
        signature + ",",
        signature.swapcase().replace("V1", "v1"),
        "v1,",
        "v1",
        ",",
        "v1," + "A" * 43 + "=",
        b"v1,\xff\xfe",
        " ".join(["v1,AAAA"] * 500),
    ):
        await _refused(world, body, _pieces(good, signature=value))
    bearer = {"Authorization": f"Bearer {world.owner.token}"}
    await _refused(world, body, bearer)
    # As the owner, too, it is the signature that counts.
    assert (await send(world, body, {**good, **bearer})).status_code == 200


async def test_every_byte_is_signed(world: World, runner: object) -> None:
    body = body_of(world)
    good = signed(body)
    for place in range(0, len(body), 7):
        await _refused(world, body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :], good)
    for other in (body + b" ", b" " + body, body[:-1], json.dumps(json.loads(body), indent=1).encode()):
        await _refused(world, other, good)
    await _refused(world, body, {**good, "webhook-id": good["webhook-id"] + "0"})
    await _refused(world, body, {**good, "webhook-timestamp": str(int(good["webhook-timestamp"]) - 1)})
    await _refused(world, body, signed(body, secrets=[OTHER_SECRET]))
    await _refused(world, body, signed(body, secrets=[b""]))
    assert (await send(world, body, good)).status_code == 200


async def test_one_of_several_signatures_is_enough(world: World, runner: object) -> None:
    body = body_of(world)
    assert (await send(world, body, signed(body, secrets=[OTHER_SECRET, WEBHOOK_SECRET]))).status_code == 200
    body = body_of(world, status="revoked")
    headers = signed(body)
    headers["webhook-signature"] = f"v1a,AAAA unknown {headers['webhook-signature']} v1,"
    assert (await send(world, body, headers)).status_code == 200


@pytest.mark.parametrize(
    "stamp",
    [
        *("", "now", "-1", "+1", "1e9", "1_700_000_000", "0x1", "1.5", "0", "9" * 12, "9" * 13, "9" * 400),
        *("2026-03-09T10:14:33Z", "１７０００００００", " 1700000000", "NaN"),
    ],
)
async def test_a_timestamp_is_of_now(world: World, runner: object, stamp: str) -> None:
    body = body_of(world)
    headers = signed(body, at=stamp or "x")
    await _refused(world, body, _pieces(headers, timestamp=stamp))


@pytest.mark.parametrize(("ahead", "status"), [(-310, 401), (-290, 200), (290, 200), (310, 401), (10**9, 401)])
async def test_clocks_may_differ_a_little(world: World, runner: object, ahead: int, status: int) -> None:
    body = body_of(world)
    answer = await send(world, body, signed(body, at=time.time() + ahead))
    assert answer.status_code == status
    if status == 401:
        # A timestamp in milliseconds, and one of another time zone, are the likely mistakes: it is told what is wrong.
        assert "webhook-timestamp is more than 300 seconds from" in answer.json()["detail"]


@pytest.mark.parametrize("event", ["a b", "ä", "\t", "a.b", "x" * 256, "x" * 300, "a\x7f", "a, b"])
async def test_an_id_is_visible_ascii_without_a_full_stop(world: World, runner: object, event: str) -> None:
    body = body_of(world)
    await _refused(world, body, _pieces(signed(body, event=event)))


async def test_an_id_may_be_long(world: World, runner: object) -> None:
    event = (uuid4().hex + "!~{}:/-_," * 40)[:255]
    body = body_of(world)
    first = await send(world, body, signed(body, event=event))
    again = await send(world, body, signed(body, event=event))
    assert (first.status_code, again.headers["idempotency-replayed"]) == (200, "true")


@pytest.mark.covers("artifacts.report")
async def test_a_replay_has_no_effect(world: World, runner: object) -> None:
    body = body_of(world)
    headers = signed(body)
    first = await send(world, body, headers)
    assert "idempotency-replayed" not in first.headers
    await world.owner.done("POST", f"/artifacts/{world.artifact_id}/revoke")
    for again in (headers, signed(body, event=headers["webhook-id"], at=time.time() + 7)):
        answer = await send(world, body, again)
        assert (answer.status_code, answer.content) == (first.status_code, first.content)
        assert (answer.headers["etag"], answer.headers["idempotency-replayed"]) == ('"2"', "true")
    assert (await world.viewer.done("GET", f"/artifacts/{world.artifact_id}"))["status"] == "revoked"
    assert len((await world.viewer.done("GET", f"/artifacts/{world.artifact_id}/history"))["items"]) == 2
    # An Idempotency-Key does not make another event of it.
    answer = await send(world, body, {**headers, "Idempotency-Key": "another"})
    assert answer.headers["idempotency-replayed"] == "true"


async def test_an_id_belongs_to_one_event(world: World, runner: object) -> None:
    body = body_of(world)
    event = signed(body)["webhook-id"]
    assert (await send(world, body, signed(body, event=event))).status_code == 200
    for other in (body_of(world, status="revoked"), body + b" "):
        answer = await send(world, other, signed(other, event=event))
        refusal(answer, 422, "idempotency_key_reused")
    await unchanged(world, 2)
    # To people, the same text is a key of their own.
    path = f"/artifacts/{world.artifact_id}/revoke"
    answer = await world.owner.post(path, headers={"Idempotency-Key": event})
    assert answer.status_code == 200
    assert "idempotency-replayed" not in answer.headers


async def test_an_event_that_was_refused_may_come_again(world: World, runner: object) -> None:
    body = body_of(world, status="revoked")
    headers = signed(body)
    refusal(await send(world, body, headers), 409, "invalid_transition")
    await world.owner.done("POST", f"/artifacts/{world.artifact_id}/approve")
    answer = await send(world, body, headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "revoked")
    assert "idempotency-replayed" not in answer.headers


@pytest.mark.covers("artifacts.report")
async def test_ten_at_once_have_one_effect(world: World, runner: object) -> None:
    body = body_of(world)
    event = signed(body)["webhook-id"]
    answers = await asyncio.gather(*(send(world, body, signed(body, event=event)) for _ in range(10)))
    done = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.content for answer in done}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in done) == 1
    for answer in answers:
        if answer.status_code != 200:
            refusal(answer, 409, "idempotency_key_in_progress")
    assert len((await world.viewer.done("GET", f"/artifacts/{world.artifact_id}/history"))["items"]) == 1


async def test_many_events_of_one_artifact_at_once(world: World, runner: object) -> None:
    statuses = ["approved", "rejected"] * 5
    bodies = [body_of(world, status=status) for status in statuses]
    answers = await asyncio.gather(*(send(world, body, signed(body)) for body in bodies))
    found = (await world.viewer.done("GET", f"/artifacts/{world.artifact_id}"))["status"]
    for status, answer in zip(statuses, answers, strict=True):
        if status == found:
            assert answer.status_code == 200
        else:
            refusal(answer, 409, "invalid_transition")
    assert len((await world.viewer.done("GET", f"/artifacts/{world.artifact_id}/history"))["items"]) == 1


@pytest.mark.parametrize("artifact_id", ["run_id", "project_id", None])
async def test_unknown_artifacts(world: World, runner: object, artifact_id: str | None) -> None:
    unknown = getattr(world, artifact_id) if artifact_id else str(uuid4())
    body = body_of(world, artifact_id=unknown)
    refusal(await send(world, body, signed(body)), 404, "not_found")


async def test_what_is_approved_is_what_was_registered(world: World, runner: object) -> None:
    link = {"name": "M", "uri": "s3://b/k", "checksum": "sha256:" + "ab" * 32, "size": 7}
    made = await world.editor.done("POST", f"/runs/{world.run_id}/artifacts", link, 201)
    report = {"artifact_id": made["id"], "status": "approved"}
    found = {"checksum": "sha256:" + "AB" * 32, "size": 7}
    await world.service.refused(
        "POST", PATH, 409, "checksum_mismatch", {**report, "checksum": "sha256:" + "ac" * 32, "size": 7}
    )
    await world.service.refused("POST", PATH, 409, "size_mismatch", {**report, **found, "size": 8})
    told = await world.service.done("POST", PATH, {**report, **found})
    assert (told["status"], told["checksum"]) == ("approved", link["checksum"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "body_required"),
        (b"{", 400, "malformed_body"),
        (b"not JSON", 400, "malformed_body"),
        (b'{"artifact_id": NaN}', 400, "malformed_body"),
        (b"\xff", 400, "malformed_body"),
        (b'{"status": "approved", "status": "approved"}', 400, "malformed_body"),
        (b"null", 422, "invalid"),
        (b"[]", 422, "invalid"),
        (b"{}", 422, "invalid"),
    ],
)
async def test_signed_nonsense(world: World, runner: object, body: bytes, status: int, code: str) -> None:
    refusal(await send(world, body, signed(body)), status, code)
    if body:
        # Nobody is told what is wrong with what they did not sign.
        refusal(await send(world, body, signed(body, secrets=[OTHER_SECRET])), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"status": "draft"}, "status"),
        ({"status": "Approved"}, "status"),
        ({"status": None}, "status"),
        ({"artifact_id": "1"}, "artifact_id"),
        ({"artifact_id": None}, "artifact_id"),
        ({"reason": "x" * 1_001}, "reason"),
        ({"reason": "\u0000"}, "reason"),
        ({"checksum": "a b"}, "checksum"),
        ({"checksum": ""}, "checksum"),
        ({"checksum": 7}, "checksum"),
        ({"size": -1}, "size"),
        ({"size": "7"}, "size"),
        ({"size": 2**63}, "size"),
        ({"project_id": "x"}, "project_id"),
    ],
)
async def test_signed_mistakes(world: World, runner: object, values: dict[str, Any], path: str) -> None:
    body = body_of(world, **values)
    problem = refusal(await send(world, body, signed(body)), 422, "invalid")
    assert problem["errors"][0]["path"] == path
    await unchanged(world)


async def test_a_body_is_short_plain_and_read_as_it_comes(world: World, runner: object) -> None:
    body = body_of(world)
    for encoding in ("gzip", "zstd", "br"):
        refusal(await send(world, body, {**signed(body), "Content-Encoding": encoding}), 415, "unsupported_media_type")
    refusal(await send(world, body, {**signed(body), "Content-Type": "text/plain"}), 415, "unsupported_media_type")
    long = body + b" " * ((1 << 16) + 1 - len(body))
    refusal(await send(world, long, signed(long)), 413, "body_too_large")
    await unchanged(world)
    longest = long[:-1]

    async def in_parts() -> AsyncIterator[bytes]:
        for place in range(0, len(longest), 1_000):
            yield longest[place : place + 1_000]

    headers = {**signed(longest), "Content-Type": "application/json"}
    answer = await world.anonymous.send("POST", PATH, content=in_parts(), headers=headers)
    assert answer.status_code == 200
    refusal(
        await send(world, body, {**signed(body), "Accept": "text/html"}),
        406,
        "not_acceptable",
    )
    refusal(await world.service.post(PATH + "?x=1", json.loads(body)), 422, "invalid")


async def test_a_signature_opens_no_other_door(world: World, runner: object) -> None:
    for method, path, operation in documented():
        if operation["x-permission"] in ("open", "report"):
            continue
        more = {"json": world.example(operation)} if "requestBody" in operation else {}
        answer = await world.service.send(method, world.path(path), **more)
        assert answer.status_code == 401, (method, path, answer.text)


class _Clock(Clock):
    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def test_a_replay_is_stale_long_before_its_answer_is_forgotten(
    units_of_work: UnitsOfWork, runner: object
) -> None:
    clock = _Clock()
    world = await new_world(app_over(units_of_work, clock=clock))
    body = body_of(world)
    headers = signed(body)
    assert (await send(world, body, headers)).status_code == 200
    await world.owner.done("POST", f"/artifacts/{world.artifact_id}/revoke")
    for hours in (0.1, 23, 25, 1_000):
        clock.ahead = timedelta(hours=hours)
        refusal(await send(world, body, headers), 401, "unauthenticated")
    # Signed anew, it is an event that was answered, for a day.
    clock.ahead = timedelta(hours=23)
    fresh = signed(body, event=headers["webhook-id"], at=time.time() + clock.ahead.total_seconds())
    assert (await send(world, body, fresh)).headers["idempotency-replayed"] == "true"


async def test_secrets_are_changed_without_a_gap(world: World, units_of_work: UnitsOfWork, runner: object) -> None:
    def client(*secrets: bytes) -> Client:
        return Client(app_over(units_of_work, artifact_webhook_secrets=secrets), None)

    body = body_of(world)
    by_old, by_new = signed(body), signed(body, secrets=[OTHER_SECRET])
    refusal(await send(world, body, by_new, client(WEBHOOK_SECRET)), 401, "unauthenticated")
    both = client(OTHER_SECRET, WEBHOOK_SECRET)
    assert (await send(world, body, by_old, both)).status_code == 200
    assert (await send(world, body, by_new, both)).status_code == 200
    refusal(await send(world, body, by_old, client(OTHER_SECRET)), 401, "unauthenticated")


async def test_without_a_secret_nothing_is_believed(app: Litestar, units_of_work: UnitsOfWork, runner: object) -> None:
    world = await new_world(app)
    client = Client(app_over(units_of_work, artifact_webhook_secrets=()), None)
    body = body_of(world)
    for headers in ({}, signed(body), signed(body, secrets=[b""])):
        problem = refusal(await send(world, body, headers, client), 401, "unauthenticated")
        assert "Callbacks are not configured" in problem["detail"]
    await unchanged(world)


async def test_the_environment_tells_the_secrets(monkeypatch: pytest.MonkeyPatch, runner: object) -> None:
    monkeypatch.setattr(asgi, "configure_logs", lambda _: None)
    environ = {
        "EXPERIMENT_DATABASE_URL": "postgresql://nowhere.example/experiments",
        "EXPERIMENT_SECRET_KEY": SECRET.decode(),
        "EXPERIMENT_JWT_ISSUER": ISSUER,
        "EXPERIMENT_JWT_AUDIENCE": AUDIENCE,
        "EXPERIMENT_JWT_KEYS": f"HS256:{SECRET.decode()}",
    }
    secrets = {"EXPERIMENT_ARTIFACT_WEBHOOK_SECRETS": f"whsec_{b64encode(WEBHOOK_SECRET).decode()}"}
    nonsense = b"{"
    answer = await Client(asgi.app(environ), None).send("POST", PATH, content=nonsense, headers=signed(nonsense))
    assert "Callbacks are not configured" in refusal(answer, 401, "unauthenticated")["detail"]
    client = Client(asgi.app({**environ, **secrets}), None)
    # What is signed gets as far as being read.
    headers = {**signed(nonsense), "Content-Type": "application/json"}
    refusal(await client.send("POST", PATH, content=nonsense, headers=headers), 400, "malformed_body")
