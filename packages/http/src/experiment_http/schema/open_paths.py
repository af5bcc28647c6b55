"""The open paths as they stand in the OpenAPI document: they belong to no noun of the domain."""

from collections.abc import Mapping
from typing import Any

_STATUS = {"type": "string", "enum": ["ok", "failed"]}
_WITH_SPOOL = {"type": "string", "enum": ["ok", "spooling", "failed"]}
_READY: Mapping[str, Any] = {
    "type": "object",
    "required": ["status", "dependencies"],
    "properties": {
        "status": _WITH_SPOOL,
        "dependencies": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["status", "latency"],
                "properties": {"status": _STATUS, "latency": {"type": "number", "description": "In seconds."}},
            },
        },
        "spool": {
            "type": "object",
            "description": "Batches that wait for the database, where the service is set up to keep them.",
            "required": ["status", "batches", "bytes", "oldest_at", "refused"],
            "properties": {
                "status": {
                    **_WITH_SPOOL,
                    "description": "`spooling` where some wait, `failed` where it takes no more.",
                },
                "batches": {"type": "integer"},
                "bytes": {"type": "integer"},
                "oldest_at": {"type": ["string", "null"], "format": "date-time"},
                "refused": {"type": "integer", "description": "Batches that were refused later, and lie beside it."},
            },
        },
    },
}


def _ready(status: str) -> dict[str, Any]:
    return {"status": status, "dependencies": {"database": {"status": status, "latency": 0.0011}}}


def _path(name: str, summary: str, responses: Mapping[str, Any], description: str | None = None) -> dict[str, Any]:
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            **({} if description is None else {"description": description}),
            "tags": ["service"],
            "security": [],
            "x-permission": "open",
            "responses": responses,
        }
    }


def _response(description: str, media_type: str, schema: Mapping[str, Any], example: Any) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema, "example": example}}}


_TEXT = {"type": "string"}
OPEN_PATHS: Mapping[str, Any] = {
    "/health/live": _path(
        "live",
        "Tell whether the process lives",
        {
            "200": _response(
                "It does.",
                "application/json",
                {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}},
                {"status": "ok"},
            )
        },
    ),
    "/health/ready": _path(
        "ready",
        "Tell whether everything that the service depends on answers",
        {
            "200": _response("Everything does.", "application/json", _READY, _ready("ok")),
            "503": _response("Something does not.", "application/json", _READY, _ready("failed")),
        },
        "The dependencies are `database`, and `replica` where reads have a database of their own. While the database "
        "is away, a process that keeps readings on disk for it is ready all the same: its status is `spooling`.",
    ),
    "/metrics": _path(
        "metrics",
        "Show the metrics, for Prometheus",
        {"200": _response("The metrics.", "text/plain", _TEXT, "experiment_http_requests_total{…} 1.0")},
        "Of the process that answers: each one counts for itself. Where several share an address "
        "(EXPERIMENT_API_PROCESSES), they take turns; to count all requests, run one process per address.",
    ),
    "/schema/openapi.json": _path(
        "openapi",
        "Show this document",
        {"200": _response("This document.", "application/json", {"type": "object"}, {"openapi": "3.1.0"})},
    ),
    "/schema/asyncapi.json": _path(
        "asyncapi",
        "Show the AsyncAPI document of all events",
        {"200": _response("It.", "application/json", {"type": "object"}, {"asyncapi": "3.0.0"})},
    ),
    "/schema": _path(
        "schema",
        "Show this document as a page",
        {"200": _response("The page.", "text/html", _TEXT, "<!doctype html>…")},
    ),
}
