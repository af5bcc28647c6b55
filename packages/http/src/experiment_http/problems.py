"""Problem documents (RFC 9457), and the one table from what the domain refuses to the status of an answer."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from experiment_domain.kernel.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    NotYet,
    Refusal,
    Unauthenticated,
    Unavailable,
    VersionMismatch,
)
from experiment_http.causes import cause_of

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:experiment-service:problem:"

RETRY_AFTER = "2"
"""Seconds after which a caller should try again what the service could not do."""

log = structlog.get_logger("experiment_http")


class Malformed(Refusal):
    """The request is not well-formed HTTP or JSON, or a header or cursor in it is not."""


class TooLarge(Refusal):
    """The body is larger, or holds more, than the service takes at once."""

    @classmethod
    def than(cls, limit: int) -> "TooLarge":
        """A body of more than `limit` bytes."""
        return cls("body_too_large", f"The body has more than the {limit:,} bytes that are read here.")


class TooSlow(Refusal):
    """The body did not arrive in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__("body_too_slow", f"The body did not arrive within {seconds:g} seconds.")


class UnsupportedMediaType(Refusal):
    """The body is of a kind that is not read here."""

    def __init__(self, detail: str) -> None:
        super().__init__("unsupported_media_type", detail)


class NotAcceptable(Refusal):
    """The caller accepts nothing that can be sent."""

    def __init__(self, detail: str) -> None:
        super().__init__("not_acceptable", detail)


class UpgradeRequired(Refusal):
    """This is for a WebSocket, and the request asks for none."""

    def __init__(self) -> None:
        super().__init__("upgrade_required", "This is a WebSocket: send `Upgrade: websocket`, and a key for it.")


class Unsigned(Unauthenticated):
    """The request carries no signature that is valid, where that tells who is calling."""


# The first kind that fits decides: the more special ones stand before the others.
STATUSES: tuple[tuple[type[Refusal], HTTPStatus], ...] = (
    (Malformed, HTTPStatus.BAD_REQUEST),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (NotAcceptable, HTTPStatus.NOT_ACCEPTABLE),
    (TooSlow, HTTPStatus.REQUEST_TIMEOUT),
    (VersionMismatch, HTTPStatus.PRECONDITION_FAILED),
    (Conflict, HTTPStatus.CONFLICT),
    (Gone, HTTPStatus.GONE),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedMediaType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (UpgradeRequired, HTTPStatus.UPGRADE_REQUIRED),
    (Invalid, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
CODES: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal_error",
}
"""What is not refused by the domain but by the framework, or by nobody."""


def status_of(refusal: Refusal) -> HTTPStatus:
    """The status that answers a refusal."""
    return next((status for kind, status in STATUSES if isinstance(refusal, kind)), HTTPStatus.CONFLICT)


def document(status: int, code: str, detail: str, instance: str, **members: Any) -> dict[str, Any]:
    """A problem document. Further members never replace the standard ones."""
    return {
        **members,
        "type": TYPE_PREFIX + code,
        "title": code.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": detail,
        "instance": instance,
        "code": code,
    }


def answer(status: int, problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """The answer that carries a problem document."""
    return Response(
        msgspec.json.encode(problem), status_code=int(status), media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def on_refusal(request: Request[Any, Any, Any], refusal: Refusal) -> Response[bytes]:
    """Answer what the domain, or the edge in its words, refuses."""
    status = status_of(refusal)
    members = dict(refusal.facts)
    if isinstance(refusal, Invalid) and refusal.errors:
        members["errors"] = refusal.errors
    headers: dict[str, str] = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = _challenge(request, refusal)
    if status is HTTPStatus.UPGRADE_REQUIRED:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if isinstance(refusal, NotYet):
        headers["Retry-After"] = RETRY_AFTER
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER
        log.warning("unavailable", path=request.scope["path"], **cause_of(refusal))
    problem = document(status, refusal.code, refusal.detail, request.scope["path"], **members)
    return answer(status, problem, headers)


def on_http_exception(request: Request[Any, Any, Any], exception: HTTPException) -> Response[bytes]:
    """Answer what the framework refuses: mostly paths and methods that do not exist."""
    status = exception.status_code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return on_exception(request, exception)
    detail = {
        HTTPStatus.NOT_FOUND: "There is nothing at this path.",
        HTTPStatus.METHOD_NOT_ALLOWED: "This path does not take this method.",
    }.get(HTTPStatus(status), str(exception.detail))
    problem = document(status, CODES.get(status, "bad_request"), detail, request.scope["path"])
    return answer(status, problem, exception.headers)


def on_exception(request: Request[Any, Any, Any], exception: Exception) -> Response[bytes]:
    """Answer a fault of the program: what happened is for the log, not for the caller."""
    log.error("unhandled_exception", path=request.scope["path"], exc_info=exception)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    detail = "Something went wrong in the service. The request id names the entry in its log."
    return answer(status, document(status, CODES[status], detail, request.scope["path"]))


def _challenge(request: Request[Any, Any, Any], refusal: Refusal) -> str:
    if isinstance(refusal, Unsigned):
        return 'Webhook-Signature realm="experiment-service"'
    sent = any(name == b"authorization" for name, _ in request.scope["headers"])
    return 'Bearer realm="experiment-service"' + (', error="invalid_token"' if sent else "")
