"""Times as text: RFC 3339 in UTC with microseconds and `Z`, as they are written everywhere outside."""

from datetime import UTC, datetime

from experiment_domain.telemetry.batches import moment

_TWO_DIGITS = [f"{number:02d}" for number in range(60)]


def text(time: datetime) -> str:
    """A time as it is written."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def texts(timestamps: "list[int]") -> list[str]:
    """Many times, given in microseconds since the Unix epoch. Neighbours mostly share their minute, if not a second."""
    written: list[str] = []
    last_day, last_minute, last = None, None, None
    date, of_minute, prefix = "", "", ""
    for timestamp in timestamps:
        second, rest = divmod(timestamp, 1_000_000)
        if second != last:
            minute, seconds = divmod(second, 60)
            if minute != last_minute:
                day, of_day = divmod(minute, 1_440)
                if day != last_day:
                    last_day, date = day, text(moment(day * 86_400_000_000))[:11]
                last_minute, of_minute = minute, f"{date}{_TWO_DIGITS[of_day // 60]}:{_TWO_DIGITS[of_day % 60]}:"
            last, prefix = second, f"{of_minute}{_TWO_DIGITS[seconds]}."
        written.append(f"{prefix}{rest:06d}Z")
    return written
