"""Paths: decoded as routes are matched, without losing which slashes stand between two parts and which within one."""

from urllib.parse import unquote_to_bytes


def routed(raw_path: bytes) -> str:
    """A path as it is matched: decoded, but a slash within a part stays `%2F`, and so `%` itself is `%25`.

    U+FFFD stands for what is no UTF-8.
    """
    if b"%" not in raw_path:
        return raw_path.decode(errors="replace")
    parts = (unquote_to_bytes(part).decode(errors="replace") for part in raw_path.split(b"/"))
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def given(part: str) -> str:
    """What the caller meant by a part of a path that was matched."""
    return part.replace("%2F", "/").replace("%25", "%")
