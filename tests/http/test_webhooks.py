"""Webhooks over HTTP."""

import base64
from typing import Any
from uuid import uuid4

import pytest
from litestar import Litestar

from experiment_domain.webhooks.subscriptions import SubscriptionStatus
from http_api import World, new_world


def hook(world: World, **values: Any) -> dict[str, Any]:
    plain = {"project_id": world.project_id, "url": "https://hooks.example/rig-7", "event_types": ["run.*"]}
    return {**plain, **values}


@pytest.mark.covers("webhooks.create", "webhooks.get", "webhooks.page")
async def test_a_webhook_is_made_and_shown(world: World, runner: object) -> None:
    answer = await world.owner.post("/webhooks", hook(world, description="reports"))
    made = answer.json()
    assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
    assert answer.headers["location"] == f"/api/v1/webhooks/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert (made["status"], made["failing_since"], made["previous_secret_dies_at"]) == ("active", None, None)
    assert (made["url"], made["event_types"], made["description"]) == (
        "https://hooks.example/rig-7",
        ["run.*"],
        "reports",
    )
    assert await world.owner.done("GET", f"/webhooks/{made['id']}") == made
    listed = await world.owner.done("GET", "/webhooks", params={"project_id": world.project_id})
    assert [each["id"] for each in listed["items"]] == [made["id"], world.webhook_id]
    assert "whsec_" not in str(listed)


async def test_a_retry_shows_the_same_secret(world: World, runner: object) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    first = await world.owner.post("/webhooks", hook(world), headers=key)
    again = await world.owner.post("/webhooks", hook(world), headers=key)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"url": "ftp://hooks.example/"}, "url"),
        ({"url": "//hooks.example/"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https:///path"}, "url"),
        ({"url": "https://user@hooks.example/"}, "url"),
        ({"url": "https://user:secret@hooks.example/"}, "url"),
        ({"url": "https://@hooks.example/"}, "url"),
        ({"url": "https://hooks.example\\@127.0.0.1/"}, "url"),
        ({"url": "https://hooks.example/#fragment"}, "url"),
        ({"url": "https://hooks.example:0/"}, "url"),
        ({"url": "https://hooks.example:99999/"}, "url"),
        ({"url": "https://hooks.example:x/"}, "url"),
        ({"url": "https://[::1/"}, "url"),
        ({"url": "https://größe.example/"}, "url"),
        ({"url": "https://①②⑦.⓪.⓪.①/"}, "url"),
        ({"url": "https://hooks.example/a b"}, "url"),
        ({"url": "https://hooks.example/\r\nX-Injected: 1"}, "url"),
        ({"url": "https://hooks.example/" + "x" * 2_000}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["run"] * 101}, "event_types"),
        ({"event_types": ["run.started", "Run.*"]}, "event_types[1]"),
        ({"event_types": ["*.started"]}, "event_types[0]"),
        ({"event_types": ["run.**"]}, "event_types[0]"),
        ({"event_types": [""]}, "event_types[0]"),
        ({"event_types": ["run.started\n"]}, "event_types[0]"),
        ({"description": "x" * 1_001}, "description"),
        ({"secret": "whsec_of_my_own"}, "secret"),
    ],
)
async def test_what_is_refused(world: World, runner: object, values: dict[str, Any], path: str) -> None:
    problem = await world.owner.refused("POST", "/webhooks", 422, "invalid", hook(world, **values))
    assert [error["path"] for error in problem["errors"]] == [path]


@pytest.mark.covers("webhooks.edit", "webhooks.pause", "webhooks.resume", "webhooks.history", "webhooks.delete")
async def test_a_webhook_through_its_life(world: World, runner: object) -> None:
    path = f"/webhooks/{world.webhook_id}"
    edited = await world.owner.done("PATCH", path, {"event_types": ["*"], "description": None})
    assert (edited["event_types"], edited["version"]) == (["*"], 2)
    await world.owner.refused("PATCH", path, 412, "version_mismatch", {"url": "http://x/"}, headers={"If-Match": '"1"'})
    paused = await world.owner.done("POST", f"{path}/pause", {"reason": "maintenance"})
    assert paused["status"] == "paused"
    assert await world.owner.done("POST", f"{path}/pause") == paused
    await world.owner.refused("POST", f"{path}/test", 409, "webhook_not_active")
    assert (await world.owner.done("GET", "/webhooks", params={"status": "paused"}))["items"] == [paused]
    assert (await world.owner.done("POST", f"{path}/resume"))["status"] == "active"
    history = (await world.owner.done("GET", f"{path}/history"))["items"]
    assert [(step["from"], step["to"], step["reason"]) for step in history] == [
        ("active", "paused", "maintenance"),
        ("paused", "active", None),
    ]
    await world.owner.done("DELETE", path, status=204)
    await world.owner.refused("GET", path, 404, "not_found")
    await world.owner.refused("GET", f"/webhook-deliveries/{world.delivery_id}", 404, "not_found")


@pytest.mark.covers("webhooks.rotate_secret")
async def test_rotation(world: World, runner: object) -> None:
    path = f"/webhooks/{world.webhook_id}"
    first = await world.owner.done("POST", f"{path}/rotate-secret")
    second = await world.owner.done("POST", f"{path}/rotate-secret", {"grace": 60})
    assert first["secret"] != second["secret"]
    assert first["previous_secret_dies_at"] is not None
    assert "secret" not in await world.owner.done("GET", path)
    await world.owner.refused("POST", f"{path}/rotate-secret", 422, "invalid", {"grace": -1})


@pytest.mark.covers("webhook_deliveries.test", "webhook_deliveries.page", "webhook_deliveries.attempts")
@pytest.mark.covers("webhook_deliveries.history", "webhook_deliveries.get")
async def test_a_delivery_is_shown(world: World, runner: object) -> None:
    answer = await world.owner.post(f"/webhooks/{world.webhook_id}/test")
    made = answer.json()
    assert answer.headers["location"] == f"/api/v1/webhook-deliveries/{made['id']}"
    assert (made["event_type"], made["status"], made["attempts"], made["created_by"]) == (
        "webhook.test",
        "pending",
        0,
        world.names["owner"],
    )
    assert made["webhook_id"] == world.webhook_id
    assert await world.owner.done("GET", f"/webhook-deliveries/{made['id']}") == made
    listed = await world.owner.done("GET", f"/webhooks/{world.webhook_id}/deliveries", params={"limit": 1})
    assert listed["items"] == [made]
    assert listed["next_cursor"]
    assert (await world.owner.done("GET", f"/webhooks/{world.webhook_id}/deliveries?status=dead"))["items"] == []
    assert await world.owner.done("GET", f"/webhook-deliveries/{made['id']}/attempts") == {"items": []}
    assert await world.owner.done("GET", f"/webhook-deliveries/{made['id']}/history") == {"items": []}


@pytest.mark.covers("webhook_deliveries.redeliver", "webhook_deliveries.redeliver_dead")
async def test_redelivery_is_for_the_dead(world: World, runner: object) -> None:
    again = await world.owner.done("POST", f"/webhook-deliveries/{world.delivery_id}/redeliver")
    assert (again["status"], again["version"]) == ("pending", 1)  # it is on its way, which is what was asked for
    path = f"/webhooks/{world.webhook_id}/redeliver"
    since = {"since": "2026-01-01T00:00:00Z"}
    assert await world.owner.done("POST", path, since) == {"redelivered": 0}
    await world.owner.refused("POST", path, 422, "invalid", {})
    await world.owner.refused("POST", path, 422, "invalid", {"since": "yesterday"})


async def test_webhooks_of_others_are_not_there(world: World, app: Litestar, runner: object) -> None:
    other = await new_world(app, start=False)
    await world.owner.refused("GET", f"/webhooks/{other.webhook_id}", 404, "not_found")
    await world.owner.refused("POST", f"/webhook-deliveries/{other.delivery_id}/redeliver", 404, "not_found")
    await world.editor.refused("GET", f"/webhooks/{world.webhook_id}", 403, "forbidden")
    await world.owner.refused("POST", "/webhooks", 404, "not_found", hook(world, project_id=other.project_id))
    assert SubscriptionStatus.ACTIVE in str(await other.owner.done("GET", f"/webhooks/{other.webhook_id}"))
