"""Cursors: where a page ended, sealed, so that only what was handed out comes back, and to the same query."""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from experiment_domain.kernel.entity import Position
from experiment_http.problems import Malformed

SEAL = 16
LONGEST = 2_000
Limit = Annotated[int, Meta(ge=1, le=500, description="How many entries a page has at most.")]
Cursor = Annotated[
    str, Meta(min_length=1, max_length=LONGEST, description="`next_cursor` of the page before, with the same query.")
]


class PageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


def digest_of(path: str, pairs: Iterable[tuple[str, str]]) -> bytes:
    """What a query is known by: its path and parameters, but for how much of the list is asked for."""
    kept = sorted(pair for pair in pairs if pair[0] not in ("cursor", "limit"))
    return hashlib.sha256(msgspec.msgpack.encode([path, kept])).digest()[:SEAL]


class Cursors:
    """Writes and reads cursors."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"experiment-service cursor", "sha256")

    def write(self, place: Any, query: bytes) -> str:
        """A cursor for `place` in the list that `query` is the digest of."""
        content = msgspec.msgpack.encode(place)
        return _text(self._seal(content, query) + content)

    def read(self, cursor: str, query: bytes) -> Any:
        """The place that a cursor was written for. Raises `Malformed`, `invalid_cursor`."""
        try:
            sealed = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            sealed = b""
        if _text(sealed) != cursor:  # decoding passes over what is no Base64, and over bits that are left over
            sealed = b""
        content = sealed[SEAL:]
        if not content or not hmac.compare_digest(sealed[:SEAL], self._seal(content, query)):
            raise Malformed("invalid_cursor", "This cursor was not handed out for this query.")
        return msgspec.msgpack.decode(content)

    def _seal(self, content: bytes, query: bytes) -> bytes:
        return hmac.digest(self._key, query + content, "sha256")[:SEAL]


def _text(sealed: bytes) -> str:
    return urlsafe_b64encode(sealed).rstrip(b"=").decode()


def position(place: Any) -> Position:
    """A position of the domain as it comes out of a cursor."""
    value, entity_id = place
    return value, UUID(bytes=entity_id)
