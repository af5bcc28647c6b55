"""The AsyncAPI 3 document of all events: made of their types, with examples that the aggregates tell."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Annotated, Any, get_args, get_origin

import attrs
import msgspec
from msgspec import Meta, Struct

from experiment_domain.events import EVENT_TYPES
from experiment_domain.kernel.cloudevents import MEDIA_TYPE, cloud_event
from experiment_domain.kernel.events import EventData
from experiment_http import signatures
from experiment_http.operations import API
from experiment_http.schema.document import given
from experiment_http.schema.examples import examples
from experiment_http.v1.events import CloudEvent, EventStreamQuery

NOTES = """
What happens in Experiment Service, as CloudEvents 1.0 in their structured JSON form. The same events are found in Redis
Streams and Kafka, where the service is set up for them, in the stream of server-sent events and the feed of the HTTP
API, and at webhooks.

- An event comes at least once; one that comes again has the same `id`. Those of one subject come in the order in which
  they happened, but at webhooks, which promise no order.
- No event holds readings.
- Types may be added, and so may members of `data`: pass over what you do not know.
"""
UUID_PATTERN = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
KAFKA_BINDING = "0.5.0"
HTTP_BINDING = "0.3.0"
REDIS_STREAM = "experiment:events:{project_id}"
REDIS_FIELD = "cloudevent"
KAFKA_TOPIC = "experiment.events"
_SCHEMA = "#/components/schemas/{name}"
_HOST: Mapping[str, Any] = {"host": {"description": "Where it is found.", "default": "localhost"}}


def asyncapi() -> dict[str, Any]:
    """The document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Experiment Service: events",
            "version": version("experiment-http"),
            "description": NOTES.strip(),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": MEDIA_TYPE,
        "servers": _servers(),
        "channels": _channels(),
        "operations": {
            "addToRedis": _sent("redis", "Each event is added to the stream of its project."),
            "sendToKafka": _sent("kafka", "Each event is sent under its subject as key."),
            "stream": {
                **_sent("stream", "Events are sent as they happen to whoever follows them."),
                "bindings": {"http": {"method": "GET", "query": _query(), "bindingVersion": HTTP_BINDING}},
            },
            "deliver": {
                **_sent("webhook", "Each event is POSTed to the webhooks that want it."),
                "bindings": {"http": {"method": "POST", "bindingVersion": HTTP_BINDING}},
            },
        },
        "components": {
            "schemas": _schemas(),
            "messages": {name: _message(kind) for name, kind in EVENT_TYPES.items()},
            "messageTraits": {"signed": {"headers": _SIGNED}},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "A user's JWT."}},
        },
    }


def _servers() -> dict[str, Any]:
    return {
        "api": {
            "host": "{host}",
            "protocol": "https",
            "variables": _HOST,
            "description": "The HTTP API.",
            "security": [{"$ref": "#/components/securitySchemes/bearer"}],
        },
        "redis": {
            "host": "{host}",
            "protocol": "redis",
            "variables": _HOST,
            "description": "`EXPERIMENT_REDIS_URL`.",
        },
        "kafka": {
            "host": "{host}",
            "protocol": "kafka",
            "variables": _HOST,
            "description": "`EXPERIMENT_KAFKA_BROKERS`.",
        },
        "receiver": {
            "host": "{host}",
            "protocol": "https",
            "variables": _HOST,
            "description": "The host in the URL of a webhook.",
        },
    }


def _channels() -> dict[str, Any]:
    recorded = {name: _ref("messages", name) for name, kind in EVENT_TYPES.items() if kind.is_recorded}
    return {
        "redis": {
            "address": REDIS_STREAM,
            "title": "Redis Streams",
            "description": "A stream for each project. Entries stay for as long as `EXPERIMENT_REDIS_STREAMS_KEPT_FOR` "
            "says, and longer where a consumer group has not acknowledged them.",
            "parameters": {"project_id": {"description": "The project's id."}},
            "servers": [_ref("servers", "redis", under="")],
            "messages": {"entry": _entry()},
        },
        "kafka": {
            "address": KAFKA_TOPIC,
            "title": "Kafka",
            "description": "One topic, named by `EXPERIMENT_KAFKA_TOPIC`; the key of a message is the event's subject, "
            "and its header `content-type` says what it is.",
            "servers": [_ref("servers", "kafka", under="")],
            "messages": recorded,
            "bindings": {"kafka": {"topic": KAFKA_TOPIC, "bindingVersion": KAFKA_BINDING}},
        },
        "stream": {
            "address": f"{API}/events/stream",
            "title": "Server-sent events",
            "description": "`data` of a message is the event, `id` its place: who sends it in `Last-Event-ID` misses "
            "and repeats nothing. Messages of the names `reset` and `refused` are no events. `GET /api/v1/events` has "
            "the same events as a feed.",
            "servers": [_ref("servers", "api", under="")],
            "messages": {**recorded, **_WORDS},
        },
        "webhook": {
            "address": None,
            "title": "Webhooks",
            "description": "A POST to the URL of a webhook, signed as Standard Webhooks 1.0 describes. Any status of "
            "2xx takes the event; otherwise it is sent again, with the same `webhook-id`.",
            "servers": [_ref("servers", "receiver", under="")],
            "messages": {
                name: {
                    "name": name,
                    "summary": _meaning(kind),
                    "payload": _ref("schemas", name),
                    "traits": [_ref("messageTraits", "signed")],
                }
                for name, kind in EVENT_TYPES.items()
            },
        },
    }


def _sent(channel: str, summary: str) -> dict[str, Any]:
    return {"action": "send", "channel": _ref("channels", channel, under=""), "summary": summary}


def _message(kind: type[EventData]) -> dict[str, Any]:
    example = cloud_event(_EXAMPLES[kind.type])
    return {
        "name": kind.type,
        "summary": _meaning(kind),
        "payload": _ref("schemas", kind.type),
        "bindings": {"kafka": {"key": _subject(kind), "bindingVersion": KAFKA_BINDING}},
        "examples": [{"payload": example}],
    }


def _entry() -> dict[str, Any]:
    event = cloud_event(_EXAMPLES["capture.completed"])
    return {
        "name": "entry",
        "title": "An entry of a stream",
        "summary": f"It has one field, `{REDIS_FIELD}`, whose value is the event as JSON text.",
        "contentType": "application/octet-stream",
        "payload": _ref("schemas", "StreamEntry"),
        "examples": [{"payload": {REDIS_FIELD: msgspec.json.encode(event).decode()}}],
    }


def _schemas() -> dict[str, Any]:
    kinds = EVENT_TYPES.values()
    _, components = msgspec.json.schema_components([CloudEvent, *map(_struct, kinds)], ref_template=_SCHEMA)
    recorded = [_ref("schemas", kind.type) for kind in kinds if kind.is_recorded]
    return {
        **components,
        **{kind.type: _event(kind) for kind in kinds},
        "Event": {"description": "An event of any type.", "oneOf": recorded},
        "StreamEntry": {
            "type": "object",
            "required": [REDIS_FIELD],
            "properties": {
                REDIS_FIELD: {
                    "type": "string",
                    "contentMediaType": MEDIA_TYPE,
                    "contentSchema": _ref("schemas", "Event"),
                }
            },
        },
    }


def _event(kind: type[EventData]) -> dict[str, Any]:
    """The schema of the events of a type."""
    narrowed = {
        "type": {"const": kind.type},
        "subject": _subject(kind),
        "data": _ref("schemas", kind.__name__),
    }
    return {
        "title": kind.type,
        "description": _meaning(kind),
        "allOf": [_ref("schemas", CloudEvent.__name__), {"type": "object", "properties": narrowed}],
    }


def _subject(kind: type[EventData]) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{kind.about}/{UUID_PATTERN}$"}


def _meaning(kind: type[EventData]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _struct(kind: type[EventData]) -> type[Struct]:
    """What the data of a type hold, as a struct: its names are those on the wire."""
    fields = [(each.name, _described(each.type)) for each in attrs.fields(kind)]
    names = {name: name.rstrip("_") for name, _ in fields if name.endswith("_")}
    return msgspec.defstruct(kind.__name__, fields, rename=names or None, namespace={"__doc__": kind.__doc__})


def _described(annotation: Any) -> Any:
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *words = get_args(annotation)
    return Annotated[kind, Meta(description=" ".join(words))]


def _query() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([EventStreamQuery], ref_template="{name}")
    properties = given(components[EventStreamQuery.__name__]["properties"], components)
    properties["types"]["items"] = {"enum": [name for name, kind in EVENT_TYPES.items() if kind.is_recorded]}
    return {"type": "object", "properties": properties}


def _ref(where: str, name: str, *, under: str = "components/") -> dict[str, str]:
    return {"$ref": f"#/{under}{where}/{name}"}


def _words() -> Iterator[tuple[str, dict[str, Any]]]:
    said = {
        "reset": ("The id in `Last-Event-ID` is not known: the stream goes on from now.", ("detail",)),
        "refused": ("The caller may not follow this any longer; it is the end of the stream.", ("code", "detail")),
    }
    for name, (summary, members) in said.items():
        payload = {"type": "object", "required": [*members], "properties": {key: {"type": "string"} for key in members}}
        yield (
            name,
            {
                "name": name,
                "summary": summary,
                "contentType": "application/json",
                "payload": payload,
                "x-sse-event": name,
            },
        )


_WORDS = dict(_words())
_EXAMPLES = examples()
_SIGNED: Mapping[str, Any] = {
    "type": "object",
    "required": [name.decode() for name in (signatures.ID, signatures.TIMESTAMP, signatures.SIGNATURE)],
    "properties": {
        signatures.ID.decode(): {"type": "string", "format": "uuid", "description": "The event's own id."},
        signatures.TIMESTAMP.decode(): {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": "When this attempt was made, in seconds since the Unix epoch.",
        },
        signatures.SIGNATURE.decode(): {
            "type": "string",
            "pattern": "^v1,[A-Za-z0-9+/]+=*( v1,[A-Za-z0-9+/]+=*)*$",
            "description": "One or more signatures, parted by blanks: the HMAC-SHA256 of "
            "`<webhook-id>.<webhook-timestamp>.<body>` under one of the webhook's secrets, in base64.",
        },
    },
}
