"""The OpenAPI 3.1 document, made of what the operations declare."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct

from experiment_domain.idempotency import KEPT_FOR
from experiment_http import signatures
from experiment_http.answers import JSON, Form
from experiment_http.bodies import ARROW, MESSAGE_PACK
from experiment_http.downloads import PARQUET
from experiment_http.operations import API, Operation
from experiment_http.queries import PREFIXED, fields_of
from experiment_http.schema.open_paths import OPEN_PATHS
from experiment_http.schema.refusals import PROBLEM, REF, SUMMARIES, carrying, problem, problem_name, refusals
from experiment_http.streams import EVENT, EventStreamForm

NOTES = """
The system of record for physical experiments: who ran what on which rig, which sensors were attached, what they
measured in raw and in physical units, and how every status came to be.

- Times are RFC 3339 in UTC with microseconds and `Z`; durations are seconds; ids are UUIDv7.
- Errors are problem documents (RFC 9457) with a stable `code`. Unknown fields and query parameters are refused.
- Every POST takes an `Idempotency-Key`: the same request with the same key is answered as the first time. Of a signed
  callback, `webhook-id` is the key.
- Entities carry a `version`, which is their `ETag`; `If-Match` makes a change conditional.
- Lists come in pages: give `next_cursor` back as `cursor`, with the same query.
- `x-permission` names what an operation asks for: `read`, `edit`, `administer` and `own` are those of viewers, editors,
  owners and owners in a project; `ingest` that of a sensor's own token; `report` that of the Artifact Service, whose
  callbacks are signed; `sign_in` of any user; `open` of anybody.
"""
HEADERS: Mapping[str, Any] = {
    "X-Request-Id": {"description": "The caller's own, or a new one.", "schema": {"type": "string"}},
    "ETag": {"description": "The version in quotes.", "schema": {"type": "string"}},
    "Location": {"description": "Where it is found.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` where this is the answer to an earlier sending.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}
"""What answers carry, described once."""

_BINARY = {ARROW: "(the same columns in record batches)", PARQUET: "(the same columns in row groups)"}


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = API + "/".join(_path_part(part) for part in operation.path.split("/"))
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    written = [found for methods in paths.values() for found in methods.values()]
    parameters, responses = _share_parameters(written), _share_responses(written)
    tags = {operation.tag: operation.about for operation in operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Experiment Service",
            "version": version("experiment-http"),
            "description": NOTES.strip(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": about} for name, about in tags.items()]
        + [{"name": "service", "description": "The service itself; no token is needed."}],
        "paths": {**paths, **OPEN_PATHS},
        "components": {
            "schemas": {**_schemas(operations), "Problem": PROBLEM},
            "responses": {**responses, **{problem_name(status): problem(status) for status in SUMMARIES}},
            "parameters": parameters,
            "headers": dict(HEADERS),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A user's JWT, or a sensor's own token (`xps_…`).",
                },
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": signatures.SIGNATURE.decode(),
                    "description": "Standard Webhooks 1.0: one or more of `v1,<signature>`, parted by blanks. Each is "
                    "the HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>`, the body as it is sent, in base64, "
                    "under a secret that is set by `EXPERIMENT_ARTIFACT_WEBHOOK_SECRETS`.",
                },
            },
        },
    }


def _share_parameters(operations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put references in the place of parameters that several operations have; what they refer to, by name."""
    written = [
        (parameter["name"], msgspec.json.encode(parameter)) for each in operations for parameter in each["parameters"]
    ]
    shared: dict[str, bytes] = {}
    for (name, content), times in Counter(written).most_common():
        if times > 1:
            shared.setdefault(name, content)  # of several forms, the most frequent one
    for operation in operations:
        operation["parameters"] = [
            {"$ref": f"#/components/parameters/{parameter['name']}"}
            if shared.get(parameter["name"]) == msgspec.json.encode(parameter)
            else parameter
            for parameter in operation["parameters"]
        ]
    return {name: msgspec.json.decode(content) for name, content in sorted(shared.items())}


def _share_responses(operations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put references in the place of responses that several operations have, named after the first one that has it."""
    alike: dict[bytes, list[tuple[dict[str, Any], str]]] = {}
    for operation in operations:
        for status, response in operation["responses"].items():
            if "$ref" not in response:
                alike.setdefault(msgspec.json.encode(response), []).append((operation, status))
    shared: dict[str, Any] = {}
    for content, places in alike.items():
        if len(places) > 1:
            first, status = places[0]
            name = f"{first['operationId']}.{status}"
            shared[name] = msgspec.json.decode(content)
            for operation, where in places:
                operation["responses"][where] = {"$ref": f"#/components/responses/{name}"}
    return shared


def _structs(operations: Sequence[Operation]) -> list[type[Struct]]:
    found: dict[type[Struct], None] = {}
    for operation in operations:
        if operation.body is not None:
            found[operation.body.schema] = None
        for form in filter(None, (operation.form, operation.spooled)):
            found.update(dict.fromkeys(form.views()))
    return list(found)


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    structs = _structs(operations)
    _, components = msgspec.json.schema_components(structs, ref_template=REF)
    schemas = {_shown_name(name): _with_shown_names(schema) for name, schema in components.items()}
    if len(schemas) < len(components):
        raise TypeError("a struct has the name of another one's view")
    return schemas


def _shown_name(name: str) -> str:
    """The name of a struct as the caller knows it: `ExperimentView` shows an `Experiment`."""
    return name.removesuffix("View")


def _with_shown_names(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_shown_names(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _shown_name(item) if key in ("$ref", "title") and isinstance(item, str) else _with_shown_names(item)
        for key, item in schema.items()
    }


def _path_part(part: str) -> str:
    return part.partition(":")[0] + "}" if part.startswith("{") else part


def _refer(struct: type[Struct]) -> dict[str, Any]:
    return {"$ref": REF.format(name=_shown_name(struct.__name__))}


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "x-permission": operation.permission.name.lower(),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_headers(operation)],
        "responses": dict(_responses(operation)),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.signed_by is not None:
        described["security"] = [{"signature": []}]
    if operation.body is not None:
        media = {"schema": _refer(operation.body.schema), "example": dict(operation.body.schema.example)}
        # In MessagePack it is the same message; what else is binary is described in words, as OpenAPI 3.1 has it.
        content = {JSON: media, **{kind: media if kind == MESSAGE_PACK else {} for kind in operation.body.others}}
        described["requestBody"] = {"required": operation.body.required, "content": content}
    return described


def _path_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name, kind in operation.path_parameters():
        schema = {"type": "string", "format": "uuid"} if kind == "uuid" else {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    _, components = msgspec.json.schema_components([operation.query], ref_template="{name}")
    described = components[operation.query.__name__]
    for name, written in described["properties"].items():
        schema = given(written, components)
        parameter = {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": schema}
        if name in PREFIXED:
            parameter["name"] = PREFIXED[name] + "key"
            parameter["description"] = "The text of a parameter; any name may stand in the place of `key`."
            parameter["schema"] = {"type": "array", "items": {"type": "string"}}
        elif description := schema.pop("description", None):
            parameter["description"] = description
        if fields_of(operation.query)[name].repeats:
            parameter |= {"style": "form", "explode": True}
        yield parameter


def given(schema: Any, components: Mapping[str, Any]) -> Any:
    """A parameter's schema in place, without null: what is not wanted is not sent."""
    if isinstance(schema, list):
        return [given(item, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = {**components[schema["$ref"]], **{key: item for key, item in schema.items() if key != "$ref"}}
        schema.pop("title", None)
    schema = {key: given(item, components) for key, item in schema.items() if item not in (None, [], ())}
    alternatives = [item for item in schema.get("anyOf", ()) if item != {"type": "null"}]
    if len(alternatives) == 1:
        schema = {**alternatives[0], **{key: item for key, item in schema.items() if key != "anyOf"}}
    elif alternatives:
        schema["anyOf"] = alternatives
    return schema


def _headers(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.signed_by is not None:
        yield from _signed_headers()
    elif operation.method == "POST":
        hours = KEPT_FOR.total_seconds() / 3600
        yield _header(
            "Idempotency-Key",
            f"Makes it safe to send this again: within {hours:g} hours the same request is answered as the first time.",
            {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        )
    if "if_version" in operation.wants:
        yield _header("If-Match", "The ETag of the version that is to be changed.", {"type": "string"})
    if _revalidates(operation):
        yield _header("If-None-Match", "The ETag that the caller has.", {"type": "string"})
    if isinstance(operation.form, EventStreamForm):
        described = "The id of the last event that the caller has seen: the stream goes on behind it."
        yield _header("Last-Event-ID", described, {"type": "string"})
    if operation.body is not None and operation.body.packed:
        yield _header(
            "Content-Encoding",
            "How the body is packed.",
            {"type": "string", "enum": ["identity", "gzip", "zstd"]},
        )


def _signed_headers() -> Iterator[dict[str, Any]]:
    event = {"type": "string", "maxLength": signatures.LONGEST_ID, "pattern": signatures.ID_PATTERN}
    described = _header(
        signatures.ID.decode(),
        "The id of the event, the same however often it is sent: it has one effect, and is answered as the first time.",
        event,
    )
    yield {**described, "required": True}
    minutes = signatures.TOLERANCE.total_seconds() / 60
    described = _header(
        signatures.TIMESTAMP.decode(),
        f"When this was sent, in seconds since the Unix epoch; at most {minutes:g} minutes from the service's clock.",
        {"type": "string", "pattern": "^[0-9]{1,12}$"},
    )
    yield {**described, "required": True}


def _header(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": dict(schema)}


def _responses(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    form = operation.form
    carried = {
        "ETag": form.has_etag,
        "Location": form.has_location,
        "Idempotency-Replayed": operation.method == "POST",
    }
    headers = carrying(*(name for name, is_carried in carried.items() if is_carried))
    schema = form.schema(_refer)
    said = "The WebSocket is open." if form.status == 101 else "Done." if operation.is_command else "Found."
    done: dict[str, Any] = {"description": said, "headers": headers}
    if schema is not None:
        done["content"] = {
            media_type: {"schema": dict(schema), "example": form.example()}
            if media_type == JSON
            else _text(media_type, form)
            for media_type in form.media_types
        }
    yield str(form.status), done
    if operation.spooled is not None:
        yield str(operation.spooled.status), _waits(operation.spooled, headers)
    if isinstance(form, EventStreamForm) and form.ends:
        description = "The caller has seen the end: nothing comes any more."
        yield "204", {"description": description, "headers": carrying()}
    if form.found is not None:
        yield str(form.found), {**done, "description": "There already."}
    if _revalidates(operation):
        yield "304", {"description": "The caller has this version already.", "headers": carrying()}
    for status in sorted(refusals(operation)):
        yield str(status), {"$ref": f"#/components/responses/{problem_name(status)}"}


def _text(media_type: str, form: Form[Any]) -> dict[str, Any]:
    if media_type in _BINARY:
        return {"schema": {"type": "string", "format": "binary"}, "example": _BINARY[media_type]}
    schema = EVENT if isinstance(form, EventStreamForm) else {"type": "string"}
    return {"schema": schema, "example": form.text_example}


def _waits(form: Form[Any], headers: Mapping[str, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": dict(form.schema(_refer) or {}), "example": form.example()}}
    return {"description": "The database is away; it waits on disk.", "headers": dict(headers), "content": content}


def _revalidates(operation: Operation) -> bool:
    return operation.method == "GET" and operation.form.has_etag and operation.form.revalidates
