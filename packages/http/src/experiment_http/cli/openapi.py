"""`openapi`: the document that describes the HTTP API."""

import json


def openapi() -> None:
    """Print the OpenAPI document of the HTTP API on standard output.

    A running API has the same at /schema/openapi.json, and a page to read it at /schema.
    """
    from experiment_http import schema  # noqa: PLC0415 - help needs no framework
    from experiment_http.v1 import operations  # noqa: PLC0415

    print(json.dumps(schema.openapi(operations()), ensure_ascii=False, indent=2))
