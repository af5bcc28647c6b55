"""The open routes under which the documents and the page are found."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from experiment_http.operations import Operation
from experiment_http.schema.asyncapi import asyncapi
from experiment_http.schema.document import openapi

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def routes(operations: Sequence[Operation]) -> list[HTTPRouteHandler]:
    """The routes."""
    document, events = msgspec.json.encode(openapi(operations)), msgspec.json.encode(asyncapi())
    page = files("experiment_http.schema").joinpath("page.html").read_text("utf-8")
    hashes = " ".join(
        f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in _SCRIPT.findall(page)
    )
    # Everything the page needs is in it; it may ask this service only.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; connect-src 'self'; img-src data:"

    @get("/schema/openapi.json", name="openapi", opt={"open": True})
    async def openapi_document() -> Response[bytes]:
        return Response(document, media_type="application/json", headers={"Cache-Control": "no-cache"})

    @get("/schema/asyncapi.json", name="asyncapi", opt={"open": True})
    async def asyncapi_document() -> Response[bytes]:
        return Response(events, media_type="application/json", headers={"Cache-Control": "no-cache"})

    @get("/schema", name="schema", opt={"open": True})
    async def schema_page() -> Response[str]:
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": policy}
        return Response(page, media_type="text/html", headers=headers)

    return [openapi_document, asyncapi_document, schema_page]
