"""Pages of other sites: what they may not open, whatever their readers' browsers would send along."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from experiment_domain.kernel.errors import Forbidden


def check_origin(headers: Mapping[bytes, bytes], what: str) -> None:
    """Refuse pages of other sites: a browser says where the page is from that opens a socket or a stream."""
    origin = headers.get(b"origin")
    if origin is None:
        return
    place = urlsplit(origin.decode("latin-1")).netloc.lower()
    if not place or place != headers.get(b"host", b"").decode("latin-1").lower():
        raise Forbidden(f"Pages of other origins may not open {what} here.", "foreign_origin")
