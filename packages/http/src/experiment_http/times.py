"""Times as they are written: RFC 3339 in UTC with microseconds and `Z`; read strictly, with a time zone."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from experiment_domain.telemetry.stamps import text, texts

__all__ = ["Moment", "Timestamp", "text", "texts"]

Moment = Annotated[datetime, Meta(tz=True, examples=["2026-03-09T10:14:33.000000Z"])]
"""A time in a request."""
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time", "examples": ["2026-03-09T10:14:33.000000Z"]})]
"""A time in an answer."""
