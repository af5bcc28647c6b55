"""What the caller accepts."""

from collections.abc import Sequence

from experiment_http.problems import NotAcceptable


def check_acceptable(header: bytes | None, offered: Sequence[str]) -> None:
    """Refuse a caller that accepts none of the media types which an operation has."""
    if header is None or header == b"*/*" or header.decode("latin-1") in offered or not offered:
        return
    chosen(header, offered)


def chosen(header: bytes | None, offered: Sequence[str]) -> str:
    """The one of the `offered` media types that the caller likes best; the first where it does not say."""
    if header is None or not header.strip():
        return offered[0]
    ranges = [_range(part) for part in header.decode("latin-1").split(",") if part.strip()]
    best, quality = "", 0.0
    for media_type in offered:
        liked = _quality(media_type, ranges)
        if liked > quality:
            best, quality = media_type, liked
    if not best:
        raise NotAcceptable(f"This can be had as {' or '.join(offered)}.")
    return best


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    group = media_type.partition("/")[0] + "/*"
    for wanted in (media_type, group, "*/*"):  # the most special range that fits decides
        fitting = [quality for media_range, quality in ranges if media_range == wanted]
        if fitting:
            return max(fitting)
    return 0.0
