"""Times as text: RFC 3339 in UTC with microseconds and `Z`, as they are written everywhere outside."""

from datetime import UTC, datetime

from experiment_domain.telemetry.batches import moment


def text(time: datetime) -> str:
    """A time as it is written."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def texts(timestamps: "list[int]") -> list[str]:
    """Many times, given in microseconds since the Unix epoch. Neighbours mostly share their minute, if not a second."""
    written: list[str] = []
    last_minute, last, of_minute, prefix = None, None, "", ""
    for timestamp in timestamps:
        second, rest = divmod(timestamp, 1_000_000)
        if second != last:
            minute, seconds = divmod(second, 60)
            if minute != last_minute:
                last_minute, of_minute = minute, text(moment(minute * 60_000_000))[:-10]
            last, prefix = second, f"{of_minute}{seconds:02d}."
        written.append(f"{prefix}{rest:06d}Z")
    return written
