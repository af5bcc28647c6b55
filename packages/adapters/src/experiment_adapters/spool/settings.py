"""Where batches wait while the database is away, and how many of them for how long."""

from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class SpoolSettings:
    """Without a directory there is no spool. `max_age` is in seconds: how long the oldest batch may have waited."""

    directory: Path | None = None
    max_bytes: int = 1 << 30
    max_age: float = 3600.0
