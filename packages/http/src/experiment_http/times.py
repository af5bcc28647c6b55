"""Times as they are written: RFC 3339 in UTC with microseconds and `Z`; read strictly, with a time zone."""

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from experiment_domain.telemetry.batches import moment

Moment = Annotated[datetime, Meta(tz=True, examples=["2026-03-09T10:14:33.000000Z"])]
"""A time in a request."""
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time", "examples": ["2026-03-09T10:14:33.000000Z"]})]
"""A time in an answer."""


def text(time: datetime) -> str:
    """A time as it is written."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def texts(timestamps: "list[int]") -> list[str]:
    """Many times, given in microseconds since the Unix epoch. Neighbours mostly share their second."""
    written: list[str] = []
    last, prefix = None, ""
    for timestamp in timestamps:
        second, rest = divmod(timestamp, 1_000_000)
        if second != last:
            last, prefix = second, text(moment(second * 1_000_000))[:-7]
        written.append(f"{prefix}{rest:06d}Z")
    return written
