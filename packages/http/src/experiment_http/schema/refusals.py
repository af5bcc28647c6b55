"""Refusals in the OpenAPI document: the statuses that an operation can answer with, and what each of them is like."""

from collections.abc import Mapping
from typing import Any

from experiment_http import problems
from experiment_http.operations import Operation

REF = "#/components/schemas/{name}"
SUMMARIES: Mapping[int, tuple[str, str, str]] = {
    400: ("The request, its headers or its cursor are malformed.", "malformed_body", "The body is not JSON."),
    401: ("There is no token, or not a valid one.", "unauthenticated", "A valid bearer token is required."),
    403: ("The caller's role is too low.", "forbidden", "The role viewer does not allow to edit."),
    404: ("There is no such thing, or the caller may not know of it.", "not_found", "There is no such thing."),
    406: ("The caller accepts nothing that can be sent.", "not_acceptable", "This can be had as application/json."),
    408: ("The body did not arrive in time.", "body_too_slow", "The body did not arrive within 30 seconds."),
    409: (
        "The state of things, or something unique, stands against it.",
        "archived",
        "This run is archived, and archived things are read-only.",
    ),
    410: ("It is not kept any more.", "export_expired", "The file of this export is not kept any more."),
    412: (
        "Somebody else has changed it since.",
        "version_mismatch",
        "This run has changed since you read it; it is at version 4 now.",
    ),
    413: ("The body is too large.", "body_too_large", "The body has more than the 1,048,576 bytes that are read here."),
    415: (
        "The body is of a kind that is not read here.",
        "unsupported_media_type",
        "The body must be of type application/json, in UTF-8.",
    ),
    422: ("The request breaks a rule.", "invalid", "name: is required"),
    426: ("The request asks for no WebSocket.", "upgrade_required", "This is a WebSocket: send `Upgrade: websocket`."),
    503: (
        "The database is away, or has too much to do. Nothing is known to have changed: try again with the same key.",
        "unavailable",
        "The service cannot reach its database right now: try again.",
    ),
}
PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "description": "What went wrong (RFC 9457), with a stable `code`; further members help by code.",
    "required": ["type", "title", "status", "detail", "instance", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "errors": {
            "type": "array",
            "description": "The places: `path` and `message`, or `index`, `signal` and `message` of a reading.",
            "items": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "path": {"type": "string"},
                    "index": {"type": "integer"},
                    "signal": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def refusals(operation: Operation) -> set[int]:
    """The statuses of the refusals that an operation can answer with."""
    statuses = {400, 401, 403, 422, 503, *operation.refuses}
    if operation.form.media_types:
        statuses.add(406)
    if any(operation.path_parameters()):
        statuses.add(404)
    if operation.is_command:
        statuses.add(409)
    if operation.body is not None:
        statuses |= {408, 413, 415}
    if "if_version" in operation.wants:
        statuses.add(412)
    return statuses


def problem_name(status: int) -> str:
    """What the answer of a status is called among those that are shared."""
    return f"Problem{status}"


def problem(status: int) -> dict[str, Any]:
    """The answer of a status, with an example."""
    summary, code, detail = SUMMARIES[status]
    headers = carrying()
    if status == 401:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    if status == 426:
        headers["Upgrade"] = {"schema": {"type": "string"}}
    if status in (409, 503):
        headers["Retry-After"] = {"schema": {"type": "string"}}
    example = problems.document(status, code, detail, "/api/v1/runs/0195798a-8d28-7a55-9c3e-3f1a4a6c9d21")
    if status == 422:
        example["errors"] = [{"path": "name", "message": "is required"}]
    media = {"schema": {"$ref": REF.format(name="Problem")}, "example": example}
    return {"description": summary, "headers": headers, "content": {problems.MEDIA_TYPE: media}}


def carrying(*names: str) -> dict[str, Any]:
    """References to the headers that an answer carries, besides the one that all carry."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}
