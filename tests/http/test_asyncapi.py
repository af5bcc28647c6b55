"""The AsyncAPI document: of every type an event that is real, fits its schema, and is a CloudEvent to the SDK."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat
from litestar import Litestar

from experiment_adapters.settings import Settings
from experiment_adapters.streams.redis import FIELD, PREFIX
from experiment_domain.events import EVENT_TYPES
from experiment_domain.kernel.cloudevents import cloud_event
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.webhooks.secrets import new_secret, signatures
from experiment_http.schema import asyncapi
from experiment_http.schema.examples import examples
from http_api import Client, World

OFFICIAL = Path(__file__).parent.parent / "asyncapi-3.0.0.json"
"""The schema of AsyncAPI 3.0 documents, as AsyncAPI publishes it."""
RECORDED = {name for name, kind in EVENT_TYPES.items() if kind.is_recorded}


@cache
def document() -> Any:
    return json.loads(json.dumps(asyncapi()))


def validator(name: str) -> Any:
    schema = {"components": document()["components"], "allOf": [{"$ref": f"#/components/schemas/{name}"}]}
    return jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())


def of(name: str) -> RecordedEvent:
    return examples()[name]


def resolved(reference: str) -> Any:
    found = document()
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference
        for item in part.values():
            yield from references(item)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


def test_it_is_an_asyncapi_document():
    validate = jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text())).validate
    validate(document())
    with pytest.raises(jsonschema.ValidationError):
        validate(
            {**document(), "operations": {"stream": {"action": "shout", "channel": {"$ref": "#/channels/stream"}}}}
        )


async def test_it_is_served_to_anybody(app: Litestar, runner: object):
    answer = await Client(app, None).get("//schema/asyncapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document()


def test_references_lead_somewhere():
    found = set(references(document()))
    assert all(resolved(reference) for reference in found)
    schemas = {f"#/components/schemas/{name}" for name in document()["components"]["schemas"]}
    assert schemas <= found


def test_all_types_are_in_it_and_no_others():
    assert examples().keys() == EVENT_TYPES.keys()
    components, channels = document()["components"], document()["channels"]
    assert components["messages"].keys() == EVENT_TYPES.keys()
    assert components["schemas"].keys() >= EVENT_TYPES.keys()
    assert channels["kafka"]["messages"].keys() == RECORDED
    assert channels["stream"]["messages"].keys() == RECORDED | {"reset", "refused"}
    assert channels["webhook"]["messages"].keys() == EVENT_TYPES.keys()


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_an_event_of_each_type(name: str):
    recorded, kind = of(name), EVENT_TYPES[name]
    event = cloud_event(recorded)
    assert document()["components"]["messages"][name]["examples"] == [{"payload": event}]
    validator(name).validate(event)
    read = JSONFormat().read(None, json.dumps(event))
    assert (read.get_id(), read.get_type(), read.get_subject()) == (str(recorded.id), name, recorded.event.subject)
    assert read.get_time() == recorded.event.at
    assert read.get_data() == dict(recorded.event.data)
    data = document()["components"]["schemas"][kind.__name__]
    assert event["data"].keys() == data.get("properties", {}).keys()
    assert event["data"].keys() == set(data["required"])
    key = document()["components"]["messages"][name]["bindings"]["kafka"]["key"]
    jsonschema.Draft7Validator(key).validate(recorded.event.subject)


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_what_is_no_such_event_does_not_fit(name: str):
    event = cloud_event(of(name))
    (other,) = {"run.started", "run.tagged"} - {name} if name in ("run.started", "run.tagged") else {"run.tagged"}
    wrong = [
        {**event, "type": other},
        {**event, "subject": "things/1"},
        {**event, "id": 7},
        {**event, "specversion": "0.3"},
        {key: value for key, value in event.items() if key != "time"},
        {**event, "data": None},
        *({**event, "data": {k: v for k, v in event["data"].items() if k != key}} for key in event["data"]),
        *({**event, "data": {**event["data"], key: {"no": "value"}}} for key in event["data"]),
    ]
    for each in wrong:
        assert not validator(name).is_valid(each), each


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_an_event_is_of_one_type(name: str):
    validator("Event").validate(cloud_event(of(name)))


async def test_what_the_service_tells_fits(world: World, runner: object):
    await world.editor.done("POST", "/runs:bulk-tags", {"run_ids": [world.run_id], "add_tags": ["new"]})
    found = (await world.viewer.done("GET", "/events?limit=500"))["items"]
    assert {"run.tagged", "capture.started", "sensor.bound", "experiment.created"} <= {each["type"] for each in found}
    for event in found:
        validator("Event").validate(event)
        validator(event["type"]).validate(event)


def test_channels_are_those_of_the_adapters():
    channels = document()["channels"]
    assert channels["redis"]["address"] == PREFIX + "{project_id}"
    ((name, _),) = document()["components"]["schemas"]["StreamEntry"]["properties"].items()
    assert name == FIELD
    (example,) = channels["redis"]["messages"]["entry"]["examples"]
    validator("StreamEntry").validate(example["payload"])
    validator("Event").validate(json.loads(example["payload"][FIELD]))
    assert channels["kafka"]["address"] == channels["kafka"]["bindings"]["kafka"]["topic"] == Settings().kafka_topic


def test_signatures_are_as_described():
    headers = document()["components"]["messageTraits"]["signed"]["headers"]
    recorded = of("run.started")
    signed = signatures([new_secret(), new_secret()], str(recorded.id), 1_773_051_273, b"{}")
    values = {"webhook-id": str(recorded.id), "webhook-timestamp": "1773051273", "webhook-signature": signed}
    assert set(headers["required"]) == values.keys()
    jsonschema.Draft7Validator(headers).validate(values)


async def test_types_are_checked_against_it(world: World, runner: object):
    for path in ("/events", "/events/stream"):
        problem = await world.viewer.refused("GET", f"{path}?types=run.started&types=run.vanished", 422, "invalid")
        (error,) = problem["errors"]
        assert error["path"] == "types[1]"
        assert set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", error["message"])) == RECORDED
    hook = {"project_id": world.project_id, "url": "https://hooks.example/", "event_types": ["run.*", "runs.*"]}
    problem = await world.owner.refused("POST", "/webhooks", 422, "invalid", hook)
    assert [error["path"] for error in problem["errors"]] == ["event_types[1]"]
    await world.owner.refused("PATCH", f"/webhooks/{world.webhook_id}", 422, "invalid", {"event_types": ["run.over"]})
    made = await world.owner.done("POST", "/webhooks", {**hook, "event_types": ["*", "run.*", "capture.backfill.*"]})
    assert made["event_types"] == ["*", "run.*", "capture.backfill.*"]
