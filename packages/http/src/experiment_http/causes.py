"""Why something that the service needs does not answer: what an operator is told of it, and a caller is not."""

from typing import Any

LONGEST_REASON = 300


def cause_of(error: BaseException) -> dict[str, Any]:
    """What the log says of `error`, or of what it was raised from.

    Of the text only the first line: PostgreSQL quotes values in those that follow.
    """
    # What ran out of time was raised from its own cancellation, which tells nothing.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    lines = str(cause).strip().splitlines() or [""]
    found: dict[str, Any] = {"cause": type(cause).__name__, "reason": lines[0][:LONGEST_REASON]}
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate is not None:
        found["sqlstate"] = sqlstate
    notes: list[str] = getattr(cause, "__notes__", [])
    if notes:
        found["hint"] = "; ".join(notes)
    return found
